"""`TimeLimit`: the time limit of a call on a thread.

Does not know: threads, what a call does.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.errors import EngineBrokenError, StepTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.errors import ServerError

logger = logging.getLogger(__name__)

#: How long a device step beyond its time limit has to stop, seconds; at most the limit again.
STOP_GRACE_S: Final = 10.0


class TimeLimit:
    """The time limit of one call: has the call stop, and fails its future.

    Args:
        what: the step, for messages.
        timeout_s: seconds; None: no limit.
        result: the future.
        stop: has the call raise soon; None: it cannot be stopped.
        is_device: whether the call is on the device thread.

    Attributes:
        error: that of a call which stopped because it was told to; None: the limit holds.
    """

    def __init__(
        self,
        what: str,
        timeout_s: float | None,
        result: asyncio.Future[Any],
        stop: Callable[[], None] | None,
        *,
        is_device: bool,
    ) -> None:
        self.error: ServerError | None = None
        self._what = what
        self._timeout_s = timeout_s or 0.0
        self._result = result
        self._stop = stop
        self._is_device = is_device
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(timeout_s, self._exceed) if timeout_s else None

    def cancel(self) -> None:
        """End the limit: the call has returned."""
        if self._timer is not None:
            self._timer.cancel()

    def _exceed(self) -> None:
        logger.error("Step timed out", extra={"step": self._what, "seconds": self._timeout_s})
        self.error = StepTimeoutError(self._text)
        if self._stop is not None:
            self._stop()
        if self._stop is not None and self._is_device:
            grace_s = min(self._timeout_s, STOP_GRACE_S)
            self._timer = self._loop.call_later(grace_s, self._give_up)
        else:
            self._give_up()

    def _give_up(self) -> None:
        kind = EngineBrokenError if self._is_device else StepTimeoutError
        resolve(self._result, kind(self._text))

    @property
    def _text(self) -> str:
        return f"{self._what}: did not end within {self._timeout_s:g} s"


def resolve(future: asyncio.Future[Any], error: BaseException) -> None:
    """Fail a future, unless it is done."""
    if not future.done():
        future.set_exception(error)
        future.exception()  # marks it as retrieved, in case no one awaits the future
