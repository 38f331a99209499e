"""Retries while a server is unreachable or temporarily unavailable."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final

from trellis2_server.client.errors import BusyError, UnreachableError
from trellis2_server.client.protocol.actions import Call, Notice, Pause, Report

if TYPE_CHECKING:
    from trellis2_server.client.errors import ClientError
    from trellis2_server.client.protocol.actions import Operation
    from trellis2_server.client.protocol.replies import Reply

#: Delay before the first retry, seconds; doubled for each further retry.
FIRST_DELAY_S: Final = 0.25
MAX_DELAY_S: Final = 15.0


class Backoff:
    """Delays between retries, up to a time limit.

    Args:
        limit_s: longest time from the first of consecutive failures to the last retry,
            seconds; 0 disables retries.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._failing_since: float | None = None
        self._retries = 0

    def next_delay_s(self, error: ClientError) -> float:
        """Return the delay before the next retry, seconds.

        Raises:
            ClientError: the given error, if the retry would exceed the time limit.
        """
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        delay_s = min(FIRST_DELAY_S * 2 ** min(self._retries, 20), MAX_DELAY_S)
        self._retries += 1
        # Jitter: clients that were rejected together do not retry together.
        if isinstance(error, BusyError) and error.retry_after_s is not None:
            delay_s = max(error.retry_after_s, FIRST_DELAY_S) * (1 + random.random() / 10)  # noqa: S311 - no secret
        else:
            delay_s *= 0.75 + random.random() / 2  # noqa: S311 - no secret
        if now + delay_s - self._failing_since > self._limit_s:
            raise error
        return delay_s

    def restart_limit(self) -> None:
        """Restart the time limit after a reply; further delays still increase."""
        self._failing_since = None

    def reset(self) -> None:
        """Restart the time limit and the delays, after a success."""
        self._failing_since = None
        self._retries = 0


def pause(error: UnreachableError | BusyError, backoff: Backoff) -> Operation[None]:
    """Report an error and wait before the next retry.

    Raises:
        ClientError: the given error, if the time limit is exceeded.
    """
    delay_s = backoff.next_delay_s(error)
    yield Report(Notice(f"{error}; retrying"))
    yield Pause(delay_s)


def call(action: Call, backoff: Backoff) -> Operation[Reply]:
    """Send a request until the server replies with a success or a permanent error.

    Raises:
        ReplyError: the server replied with an error.
        UnreachableError: the server did not reply within the time limit.
    """
    while True:
        try:
            reply: Reply = yield action
            reply.raise_for_status()
        except (UnreachableError, BusyError) as error:  # noqa: PERF203 - the reason for the loop
            yield from pause(error, backoff)
        else:
            backoff.reset()
            return reply
