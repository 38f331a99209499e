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
from typing import TYPE_CHECKING, Final

from trellis2_server.decoders.landlock import restrict_files
from trellis2_server.decoders.seccomp import filter_calls
from trellis2_server.thread_priority import WORKER_NICENESS

if TYPE_CHECKING:
    from trellis2_server.decoders.limits import DecoderLimits

MEMORY: Final = "memory is limited"
PROCESSOR_TIME: Final = "processor time is limited"
NO_NETWORK: Final = "no network"
NO_FILE: Final = "no file is written"
NO_PROCESS: Final = "no process is started"
READS_LIBRARIES: Final = "no file is read but libraries"
ENDS_WITH_SERVER: Final = "ends with the server"
#: What can hold for a decoder; all of it on Linux with Landlock, on x86_64 and aarch64.
PROPERTIES: Final = (
    MEMORY, PROCESSOR_TIME, NO_NETWORK, NO_FILE, NO_PROCESS, READS_LIBRARIES, ENDS_WITH_SERVER,
)  # fmt: skip

_THREADS: Final = Path("/proc/self/task")
_STATM: Final = Path("/proc/self/statm")
#: Processor time of a call besides its time limit, seconds: the server kills a process before
#: that, if it can.
_MORE_CPU_S: Final = 5
#: Assumed address space of a process before it reads a file, where it cannot be read.
_USUAL_SPACE_BYTES: Final = 2**30
_PR_SET_DUMPABLE: Final = 4


def confine(limits: DecoderLimits, *, has_lifeline: bool) -> list[str]:
    """Confine this process; return which of `PROPERTIES` hold from now on.

    Args:
        limits: of the process.
        has_lifeline: whether it ends with the server.
    """
    held: list[str] = [ENDS_WITH_SERVER] if has_lifeline else []
    if hasattr(os, "setpriority"):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, WORKER_NICENESS)
    if sys.platform == "linux":
        # Other processes of this user can neither trace it nor read its memory.
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        has_one_thread = len(list(_THREADS.iterdir())) == 1
        if restrict_files(limits.folders) and has_one_thread:
            held.append(READS_LIBRARIES)
    if sys.platform != "win32":
        held += _limit_resources(limits)
    if filter_calls():
        held += [NO_NETWORK, NO_FILE, NO_PROCESS]
    return [one for one in PROPERTIES if one in held]


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
    limit("RLIMIT_FSIZE", 0)
    if hasattr(resource, "RLIMIT_CPU"):
        held.append(PROCESSOR_TIME)
    space = _address_space() or _USUAL_SPACE_BYTES
    if (
        not limits.memory_is_watched
        and limit("RLIMIT_AS", space + limits.memory_bytes)
        and sys.platform == "linux"
    ):
        held.append(MEMORY)  # macOS accepts the limit and ignores it
    return held


def limit_memory(more_bytes: int) -> None:
    """Lower the limit of the address space to what is used now and so many bytes more."""
    if sys.platform != "win32":
        import resource

        space = (_address_space() or _USUAL_SPACE_BYTES) + more_bytes
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard == resource.RLIM_INFINITY or space < hard:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_AS, (space, space))


def limit_cpu(seconds: float) -> None:
    """Limit the processor time from now on; past it, the system ends this process."""
    if sys.platform != "win32":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        soft = math.ceil(time.process_time() + seconds + _MORE_CPU_S)
        if hard != resource.RLIM_INFINITY:
            soft = min(soft, hard)
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _address_space() -> int | None:
    try:
        pages = int(_STATM.read_text("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
