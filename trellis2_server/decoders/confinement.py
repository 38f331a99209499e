"""What a decoder process may not do, set by itself before it reads anything of a client.

What holds depends on the system; `confine` says what it has set.

Does not know: what is decoded.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.thread_priority import WORKER_NICENESS

if TYPE_CHECKING:
    from trellis2_server.decoders.limits import DecoderLimits

_STATM: Final = Path("/proc/self/statm")
#: Processor time of a call besides its time limit, seconds: the server kills a process before
#: that, if it can.
_MORE_CPU_S: Final = 5
#: Assumed address space of a process before it reads a file, where it cannot be read.
_USUAL_SPACE_BYTES: Final = 2**30
_PR_SET_DUMPABLE: Final = 4


def confine(limits: DecoderLimits, *, has_lifeline: bool) -> list[str]:
    """Confine this process; return what holds from now on.

    Args:
        limits: of the process.
        has_lifeline: whether it ends with the server.
    """
    held: list[str] = []
    if hasattr(os, "nice"):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, WORKER_NICENESS)
    if sys.platform == "linux":
        # Other processes of this user can neither trace it nor read its memory.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if sys.platform != "win32":
        held += _limit_resources(limits)
    if has_lifeline:
        held.append("ends with the server")
    return held


def _limit_resources(limits: DecoderLimits) -> list[str]:
    """Set limits of the system."""
    import resource

    held: list[str] = []

    def limit(what: str, value: int) -> bool:
        kind: int | None = getattr(resource, what, None)
        if kind is None:
            return False
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (value, value))
        return resource.getrlimit(kind)[1] == value

    limit("RLIMIT_CORE", 0)
    if limit("RLIMIT_FSIZE", 0):
        held.append("no growing file")
    if hasattr(resource, "RLIMIT_CPU"):
        held.append("processor time")
    space = _address_space() or _USUAL_SPACE_BYTES
    if limit("RLIMIT_AS", space + limits.memory_bytes) and sys.platform == "linux":
        held.append("memory")  # macOS accepts the limit and ignores it
    return held


def limit_cpu(seconds: float) -> None:
    """Limit the processor time from now on; past it, the system ends this process."""
    if sys.platform != "win32":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        soft = math.ceil(time.process_time() + seconds + _MORE_CPU_S)
        if hard != resource.RLIM_INFINITY:
            soft = min(soft, hard)
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def resident_bytes() -> int | None:
    """Return the memory in use; None: it cannot be read."""
    return _statm(1)


def _address_space() -> int | None:
    return _statm(0)


def _statm(field: int) -> int | None:
    try:
        pages = int(_STATM.read_text("ascii").split()[field])
    except (OSError, ValueError, IndexError):
        return None
    sysconf: Any = getattr(os, "sysconf", None)
    return pages * sysconf("SC_PAGE_SIZE")
