"""`Availability`: whether this process takes on work, and why not.

Does not know: jobs, how the engine is loaded.
"""

from __future__ import annotations

import asyncio
import logging

from trellis2_server.errors import UnhealthyError, shutting_down

logger = logging.getLogger(__name__)


class Availability:
    """Whether the process accepts work. Belongs to the event loop's thread.

    Attributes:
        is_closing: whether the process is shutting down.
        fatal_error: reason for which only a new process helps; None: there is none.
        has_failed: set together with `fatal_error`.
        is_settled: set when there is a fatal error and every job has ended.
    """

    def __init__(self) -> None:
        self.is_closing = False
        self.fatal_error: str | None = None
        self.has_failed = asyncio.Event()
        self.is_settled = asyncio.Event()

    def fail(self, reason: str) -> bool:
        """Record a fatal error; return whether it is the first one."""
        if self.fatal_error is not None:
            return False
        self.fatal_error = reason
        logger.critical("Unhealthy, a restart is due: %s", reason)
        self.has_failed.set()
        return True

    @property
    def is_open(self) -> bool:
        """Whether new work is accepted."""
        return not self.is_closing and self.fatal_error is None

    def check(self) -> None:
        """Return if new work is accepted.

        Raises:
            ShuttingDownError: the process is shutting down.
            UnhealthyError: there was a fatal error.
        """
        if self.is_closing:
            raise shutting_down()
        if self.fatal_error is not None:
            raise unhealthy(self.fatal_error)


def unhealthy(reason: str) -> UnhealthyError:
    """Return the error for clients of a process after a fatal error."""
    return UnhealthyError(f"the server is unhealthy and restarts: {reason}", retry_after_s=30)
