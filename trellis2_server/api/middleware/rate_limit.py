"""A token bucket per client."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from trellis2_server.api.error_handlers import error_response
from trellis2_server.errors import TooManyRequestsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

#: Clients whose bucket is stored; the least recent one is dropped first.
MAX_CLIENTS: Final = 10_000


class RateLimitMiddleware:
    """Limit the POST requests of each client, as identified by `ApiKeyMiddleware`.

    Args:
        app: the wrapped application.
        per_minute: POST requests per minute of one client, which is also the burst limit.
        clock: monotonic seconds.
    """

    def __init__(
        self, app: ASGIApp, per_minute: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._capacity = max(per_minute, 1.0)
        self._per_s = per_minute / 60
        self._clock = clock
        #: Remaining tokens of each client, and the time they were counted at.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, or respond with 429."""
        wait_s = self._take(scope["state"]["client"]) if _is_limited(scope) else 0.0
        if not wait_s:
            await self._app(scope, receive, send)
            return
        error = TooManyRequestsError(
            f"too many requests: at most {self._per_s * 60:g} a minute",
            retry_after_s=math.ceil(wait_s),
        )
        await error_response(error)(scope, receive, send)

    def _take(self, client: str) -> float:
        """Take a token; return 0, or the seconds until one is available."""
        now = self._clock()
        tokens, counted_at = self._buckets.pop(client, (self._capacity, now))
        tokens = min(self._capacity, tokens + (now - counted_at) * self._per_s)
        has_token = tokens >= 1
        self._buckets[client] = (tokens - has_token, now)
        while len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if has_token else (1 - tokens) / self._per_s


def _is_limited(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] == "POST"
