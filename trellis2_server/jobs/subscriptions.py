"""`Subscriptions`: who is told of each change of a job, as late as each of them likes.

A listener holds the latest state alone: a slow one misses what was between, and has no
backlog. There is no task, and no timer but the one that its own wait has.

What this module does not know: what changes a job, HTTP.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

    from trellis2_server.jobs.job import Job


class Subscription:
    """One who listens.

    Attributes:
        job: the latest state.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._is_told = False
        self._wake: asyncio.Future[None] | None = None

    def tell(self, job: Job) -> None:
        """Let the listener know this state."""
        self.job = job
        self._is_told = True
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def told(self, within_s: float) -> bool:
        """Whether there was anything new since the last call, at the latest after so long."""
        if not self._is_told:
            await self._woken(within_s)
        is_told, self._is_told = self._is_told, False
        return is_told

    async def rest(self, for_s: float) -> None:
        """Wait, but not for longer than the job goes on."""
        loop = asyncio.get_running_loop()
        end = loop.time() + for_s
        while not self.job.status.is_finished and (left := end - loop.time()) > 0:
            await self._woken(left)

    async def _woken(self, within_s: float) -> None:
        loop = asyncio.get_running_loop()
        wake = self._wake = loop.create_future()
        timer = loop.call_later(within_s, _set, wake)
        try:
            await wake
        finally:
            timer.cancel()
            self._wake = None


class Subscriptions:
    """All listeners, by the job they listen to."""

    def __init__(self) -> None:
        self._of: defaultdict[str, set[Subscription]] = defaultdict(set)

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    @contextmanager
    def subscribe(self, job: Job) -> Generator[Subscription]:
        """A listener, as long as it listens."""
        subscription = Subscription(job)
        self._of[job.uid].add(subscription)
        try:
            yield subscription
        finally:
            uid = subscription.job.uid  # not `job.uid`, where that became another job
            self._of[uid].discard(subscription)
            if not self._of[uid]:
                del self._of[uid]

    def tell(self, job: Job) -> None:
        """Tell the job's listeners of its new state."""
        for subscription in self._of.get(job.uid, ()):
            subscription.tell(job)

    def stir(self, uid: str) -> None:
        """Tell the job's listeners that something beside its state changed: its place."""
        for subscription in self._of.get(uid, ()):
            subscription.tell(subscription.job)

    def move(self, uid: str, meant: Job) -> None:
        """Let who listens to `uid` listen to another job, which it turned out to be."""
        moved = self._of.pop(uid, None)
        if moved:
            self._of[meant.uid] |= moved
            for subscription in moved:
                subscription.tell(meant)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
