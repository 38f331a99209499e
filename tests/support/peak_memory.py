"""The memory that a process takes for one call (Linux).

Does not know: what the call does.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator

#: Written to `clear_refs`, it makes the peak the present size (proc(5)).
_RESET_PEAK: Final = "5"


@dataclass(slots=True)
class Growth:
    """What a call took.

    Attributes:
        peak_bytes: resident memory at most, besides that before the call; None: unknown, since
            the process has ended.
    """

    peak_bytes: int | None = None


def can_measure() -> bool:
    """Whether this system counts the peak of a process, and counts anew."""
    try:
        _reset("self")
        return _status("self", "VmHWM") > 0
    except (OSError, ValueError):
        return False


@contextmanager
def measured(pid: int) -> Generator[Growth]:
    """Measure what a process takes for the calls within."""
    growth = Growth()
    _reset(pid)
    before = _status(pid, "VmRSS")
    try:
        yield growth
    finally:
        try:
            growth.peak_bytes = max(_status(pid, "VmHWM") - before, 0)
        except (OSError, ValueError):
            growth.peak_bytes = None


def _reset(pid: int | str) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK, "ascii")


def _status(pid: int | str, name: str) -> int:
    """Return a value of the process's status, bytes.

    Raises:
        ValueError: the process has ended.
    """
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(name)
