"""The server's processes, as the soak test sees them: what they use, and how fast that grows."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Part of the command line of a decoder.
_DECODER: Final = b"trellis2_server.decoders.worker"


def children(pid: int) -> list[int]:
    """Return the process IDs of a process's children, and of theirs."""
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, tasks.read_text(encoding="ascii").split()):
                found += [child, *children(child)]
    return found


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process, megabytes; 0: it has ended."""
    with contextlib.suppress(OSError, StopIteration):
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024
    return 0.0


def sample(pid: int) -> dict[str, float]:
    """Return what the server and its children use now."""
    process, others = Path(f"/proc/{pid}"), children(pid)
    return {
        "rss_mb": resident_mb(pid),
        "children_mb": sum(map(resident_mb, others)),
        "descriptors": sum(1 for _ in (process / "fd").iterdir()),
        "threads": sum(1 for _ in (process / "task").iterdir()),
        "processes": 1 + len(others),
    }


def summarize(samples: Sequence[tuple[float, dict[str, float]]]) -> dict[str, float]:
    """Return the medians of the first and last tenth, and the slope per hour, of each figure.

    Args:
        samples: seconds, and what was used then.
    """
    part = max(1, len(samples) // 10)
    result: dict[str, float] = {}
    for name in samples[0][1]:
        values = [each[name] for _, each in samples]
        hours = [at / 3600 for at, _ in samples]
        result[f"{name}_early"] = statistics.median(values[:part])
        result[f"{name}_late"] = statistics.median(values[-part:])
        is_line = len(set(hours)) > 1
        slope = statistics.linear_regression(hours, values).slope if is_line else 0.0
        result[f"{name}_per_hour"] = round(slope, 3)
    return result


def kill_a_decoder(pid: int) -> bool:
    """Kill the server's newest decoder; return whether there was one."""
    for child in reversed(children(pid)):
        with contextlib.suppress(OSError):
            if _DECODER in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(child, signal.SIGKILL)
                return True
    return False
