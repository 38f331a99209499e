"""Bounds of a request before a route sees it: its query, and the account of its body."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trellis2_server.api.error_handlers import text_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from trellis2_server.api.inflight_bodies import InflightBodies

#: Limit of the query string, bytes. Every request's query is parsed on the event loop.
MAX_QUERY_BYTES: Final = 8_192
#: Limit of the fields in a query; about forty are known.
MAX_QUERY_FIELDS: Final = 200


class RequestLimitsMiddleware:
    """Refuse long queries, and open the account of the request's body.

    Sets `body` on the request's state, a `BodyAccount`; it is closed when the request ends.

    Args:
        app: the wrapped application.
        bodies: the budget of all bodies.
    """

    def __init__(self, app: ASGIApp, bodies: InflightBodies) -> None:
        self._app = app
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, or respond with 414."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        query: bytes = scope["query_string"]
        if len(query) > MAX_QUERY_BYTES or query.count(b"&") >= MAX_QUERY_FIELDS:
            response = text_response(
                f"the query is over the limit of {MAX_QUERY_BYTES} bytes or {MAX_QUERY_FIELDS} "
                "fields",
                414,
            )
            await response(scope, receive, send)
            return
        account = scope["state"]["body"] = self._bodies.open(scope["state"]["client"])
        try:
            await self._app(scope, receive, send)
        finally:
            account.close()
