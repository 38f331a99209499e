"""`Liveness`: whether another process answers, for calls that may wait for a long time.

Ray notices within milliseconds that a process has ended, after a minute that a machine is cut off
from the head, and after minutes that two machines are cut off from each other only. A request that
waits for a job would hang meanwhile.

Does not know: which process, what its calls do.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

from trellis2_server.races import result_unless

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

T = TypeVar("T")

#: Time between two probes, seconds.
PROBE_INTERVAL_S: Final = 5.0


class NoAnswerError(Exception):
    """The other process has not answered for `Liveness.limit_s`."""


class Liveness:
    """Belongs to the event loop's thread.

    Args:
        probe: a call that the other process answers at once; any exception means that it did not.
        limit_s: time limit of such a call, seconds. A process is lost if it exceeds that.
        interval_s: time between two probes, seconds.
    """

    def __init__(
        self,
        probe: Callable[[], Coroutine[None, None, object]],
        limit_s: float,
        interval_s: float = PROBE_INTERVAL_S,
    ) -> None:
        self.limit_s = limit_s
        self._probe = probe
        self._interval_s = interval_s
        self._lost = asyncio.Event()

    async def run(self) -> None:
        """Probe the other process, until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await asyncio.wait_for(self._probe(), self.limit_s)
            except Exception:  # noqa: BLE001 - whatever it is, there was no answer
                self._lost.set()
            else:
                self._lost.clear()

    async def wait_for(self, answer: Awaitable[T]) -> T:
        """Return the answer of a call, however long it takes, while the other process lives.

        Raises:
            NoAnswerError: it does not answer any more; the call is cancelled.
        """
        return await result_unless(answer, self._lost.wait(), NoAnswerError())
