"""Request ids, default response headers, and the record of each request in log and metrics."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from starlette.datastructures import MutableHeaders
from starlette.requests import Request

from trellis2_server import request_ids

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

#: Headers of every response, unless the route sets them. Responses are private to the client.
DEFAULT_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
#: Characters of a path that are logged.
MAX_LOGGED_PATH: Final = 200
#: Successful requests with these methods are logged at debug level.
_QUIET_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_FIRST_ERROR_STATUS: Final = 400


class RequestContextMiddleware:
    """Set the id of each request and the default headers; log and count each request.

    Args:
        app: the wrapped application.
        observe: called after each response with the method, the route's path template or
            "other", the status, the duration in seconds, and the sizes of the request body
            and the response body in bytes.
    """

    def __init__(
        self, app: ASGIApp, observe: Callable[[str, str, int, float, int, int], None]
    ) -> None:
        self._app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application with the request's id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_ids.choose(Request(scope).headers.get("x-request-id"))
        request_ids.current.set(request_id)  # each request runs in its own asyncio task
        exchange = _Exchange(request_id, receive, send)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        finally:
            self._record(scope, exchange)

    def _record(self, scope: Scope, exchange: _Exchange) -> None:
        seconds = time.monotonic() - exchange.begin_s
        method, status = scope["method"], exchange.status
        self._observe(
            method,
            _path_template(scope),
            status,
            seconds,
            exchange.received_bytes,
            exchange.sent_bytes,
        )
        is_quiet = method in _QUIET_METHODS and status < _FIRST_ERROR_STATUS
        logger.log(
            logging.DEBUG if is_quiet else logging.INFO,
            "Request",
            extra={
                "method": method[:16],
                "path": scope["path"][:MAX_LOGGED_PATH],  # no query: it may hold secrets
                "status": status,
                "seconds": round(seconds, 3),
                "client": (scope.get("client") or ("",))[0],
            },
        )


class _Exchange:
    """The messages of one request and its response: adds headers and counts bytes.

    Attributes:
        begin_s: start of the request, monotonic seconds.
        status: HTTP status; 500 until a response starts.
        received_bytes: size of the request body so far.
        sent_bytes: size of the response body so far.
    """

    def __init__(self, request_id: str, receive: Receive, send: Send) -> None:
        self._request_id = request_id
        self._receive = receive
        self._send = send
        self.begin_s = time.monotonic()
        self.status = 500
        self.received_bytes = 0
        self.sent_bytes = 0

    async def receive(self) -> Message:
        """Return the next message of the client."""
        message = await self._receive()
        self.received_bytes += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        """Send a message of the response."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in DEFAULT_HEADERS.items():
                headers.setdefault(name, value)
            headers["X-Request-Id"] = self._request_id
        self.sent_bytes += len(message.get("body", b""))
        await self._send(message)


def _path_template(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", "other")
