"""`Subscriptions`: delivers each change of a job to those that follow it.

A subscription holds only the latest state: slow readers miss intermediate states, and no
backlog builds up. No task runs for a subscription, and no timer except that of its own wait.

Does not know: what changes a job, HTTP.
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
    """The latest state of one job.

    Attributes:
        job: that state.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._has_news = False
        self._woken: asyncio.Future[None] | None = None

    def publish(self, job: Job) -> None:
        """Replace the state, and wake the reader."""
        self.job = job
        self._has_news = True
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def wait(self, timeout_s: float) -> bool:
        """Wait until the state has changed since the last call; return whether it has.

        Args:
            timeout_s: maximum time to wait, seconds.
        """
        if not self._has_news:
            await self._sleep(timeout_s)
        has_news, self._has_news = self._has_news, False
        return has_news

    async def pause(self, duration_s: float) -> None:
        """Wait for a time, seconds, or until the job is finished."""
        loop = asyncio.get_running_loop()
        end = loop.time() + duration_s
        while not self.job.status.is_finished and (left := end - loop.time()) > 0:
            await self._sleep(left)

    async def _sleep(self, timeout_s: float) -> None:
        """Wait until the next `publish`, or for the time."""
        loop = asyncio.get_running_loop()
        woken = self._woken = loop.create_future()
        timer = loop.call_later(timeout_s, _set, woken)
        try:
            await woken
        finally:
            timer.cancel()
            self._woken = None


class Subscriptions:
    """All subscriptions, by job."""

    def __init__(self) -> None:
        self._by_uid: defaultdict[str, set[Subscription]] = defaultdict(set)

    def __len__(self) -> int:
        return sum(map(len, self._by_uid.values()))

    @contextmanager
    def subscribe(self, job: Job) -> Generator[Subscription]:
        """Open a subscription; it ends with the context."""
        subscription = Subscription(job)
        self._by_uid[job.uid].add(subscription)
        try:
            yield subscription
        finally:
            uid = subscription.job.uid  # not `job.uid`: the job may have been merged
            self._by_uid[uid].discard(subscription)
            if not self._by_uid[uid]:
                del self._by_uid[uid]

    def publish(self, job: Job) -> None:
        """Deliver the job's new state."""
        for subscription in self._by_uid.get(job.uid, ()):
            subscription.publish(job)

    def touch(self, uid: str) -> None:
        """Deliver the state again: something around it has changed, such as its queue position."""
        for subscription in self._by_uid.get(uid, ()):
            subscription.publish(subscription.job)

    def redirect(self, uid: str, target: Job) -> None:
        """Move the subscriptions of a merged job to the job that replaces it."""
        moved = self._by_uid.pop(uid, None)
        if moved:
            self._by_uid[target.uid] |= moved
            for subscription in moved:
                subscription.publish(target)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
