"""Counts POST requests against the rate limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trellis2_server.api.error_handlers import error_response
from trellis2_server.errors import TooManyRequestsError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from trellis2_server.api.rate_limits import RateLimit


class RateLimitMiddleware:
    """Limit the POST requests of each client, as identified by `ApiKeyMiddleware`.

    Args:
        app: the wrapped application.
        rate_limit: counts the requests.
    """

    def __init__(self, app: ASGIApp, rate_limit: RateLimit) -> None:
        self._app = app
        self._rate_limit = rate_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, or respond with 429."""
        if _is_limited(scope):
            try:
                self._rate_limit.take(scope["state"]["client"])
            except TooManyRequestsError as error:
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _is_limited(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] == "POST"
