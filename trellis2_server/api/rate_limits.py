"""`RateLimit`: a token bucket per client.

Does not know: HTTP, who a client is, which requests count.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from trellis2_server.errors import TooManyRequestsError

if TYPE_CHECKING:
    from collections.abc import Callable

#: Clients whose bucket is stored; the least recent one is dropped first.
MAX_CLIENTS: Final = 10_000


class RateLimit:
    """Limits the requests of each client. Belongs to the event loop's thread.

    `RateLimitMiddleware` counts POST requests. A route whose GET causes work takes a token itself:
    `request.app.state.rate_limit.take(request.state.client)`.

    Args:
        per_minute: requests per minute of one client, which is also the burst limit; None:
            unlimited.
        clock: monotonic seconds.
    """

    def __init__(
        self, per_minute: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_s = None if per_minute is None else per_minute / 60
        self._capacity = max(per_minute or 0.0, 1.0)
        self._clock = clock
        #: Remaining tokens of each client, and the time they were counted at.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> None:
        """Count one request of a client.

        Args:
            client: identity of the client, as in `Caller.client`.

        Raises:
            TooManyRequestsError: the client has no request left; the request must not be served.
        """
        if self._per_s is None:
            return
        now = self._clock()
        tokens, counted_at = self._buckets.pop(client, (self._capacity, now))
        tokens = min(self._capacity, tokens + (now - counted_at) * self._per_s)
        has_token = tokens >= 1
        self._buckets[client] = (tokens - has_token, now)
        while len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        if not has_token:
            raise TooManyRequestsError(
                f"too many requests: at most {self._per_s * 60:g} a minute",
                retry_after_s=math.ceil((1 - tokens) / self._per_s),
            )
