"""What a process has open, counted so that what it closes a moment later is not counted.

A process that answers may close what belonged to the question after its answer has arrived, and
threads of other tests' servers close their connections in this one. What is left open for good
stays.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.server import until


def open_files(pid: int | str = "self") -> int:
    """How many files a process has open; -1: it cannot be seen, as elsewhere than on Linux."""
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return -1


def none_left_open(before: int, pid: int | str = "self") -> None:
    """Wait until a process has no more files open than before.

    Args:
        before: what `open_files` counted.
        pid: of the process.

    Raises:
        AssertionError: some stay open.
    """
    until(lambda: open_files(pid) <= before, f"{before} open files in {pid}")
