"""Thread priorities: the event loop first, then the device thread, then everything else.

A thread that drives a GPU launches thousands of small kernels for each step of a sampler; while
it waits for a processor, the GPU is idle. Exports, which use every processor, can wait.

Does not know: which threads exist.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Niceness of threads that work while a client waits for their result, for example file reads,
#: and of the device thread where the device is the CPU; the event loop's thread has 0.
WORKER_NICENESS: Final = 5
#: Niceness of the threads that export.
EXPORT_NICENESS: Final = 10


def device_niceness(engine: Mapping[str, object]) -> int:
    """Return the niceness of the device thread.

    Args:
        engine: its details, see `pipeline.Engine.describe`; without a `device`, it is the CPU.
    """
    return WORKER_NICENESS if engine.get("device", "cpu") == "cpu" else 0


def lower_priority(niceness: int = WORKER_NICENESS) -> None:
    """Lower the priority of the current thread and of the threads that it starts.

    One that is lower already stays. Has an effect on Linux only, where each thread has its own
    niceness.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            thread = threading.get_native_id()
            present = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, max(present, niceness))
