"""Thread priorities: worker threads run at a lower priority than the event loop.

Does not know: which threads exist.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import Final

#: Niceness of worker threads; the event loop's thread has 0.
THREAD_NICENESS: Final = 5


def lower_priority() -> None:
    """Lower the priority of the current thread and of the threads that it starts.

    Has an effect on Linux only, where each thread has its own niceness.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), THREAD_NICENESS)
