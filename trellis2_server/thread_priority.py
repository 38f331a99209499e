"""`give_way`: lets the event loop's thread go before those that work.

What this module does not know: which threads there are.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import Final

#: Of the threads that work, against the event loop's 0.
THREAD_NICENESS: Final = 5


def lower_priority() -> None:
    """Let the event loop's thread go before this one and the threads that it starts.

    Only on Linux has each thread a niceness of its own.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), THREAD_NICENESS)
