"""What every request passes on its way to a route, and every reply on its way back.

From the outside in:

    RequestContextMiddleware    request id, default headers, one log line per request
    UnhandledErrorMiddleware    500 for exceptions that no handler caught
    ApiKeyMiddleware            401 without a valid API key
    RateLimitMiddleware         429 above `server.rate_per_minute`

What this module does not know: routes, jobs, threads.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from starlette.datastructures import MutableHeaders
from starlette.requests import Request

from trellis2_server import request_ids
from trellis2_server.api.api_keys import NOBODY
from trellis2_server.api.error_handlers import error_reply, plain_reply
from trellis2_server.errors import ShuttingDownError, TooManyRequestsError, UnauthorizedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from trellis2_server.api.api_keys import KeyRing

logger = logging.getLogger(__name__)

#: Unless a route says otherwise; what a job replies is nobody's to keep but the client's.
DEFAULT_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
#: Characters of a path that the log shows.
MAX_LOGGED_PATH: Final = 200
#: Requests with these are looked at: a line about each success would say nothing.
_QUIET_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_FIRST_FAILURE: Final = 400
#: Clients whose pace is remembered; the one that has been away the longest is forgotten.
MAX_CLIENTS: Final = 10_000
#: Of an IPv6 address, whom a provider gives to one customer.
_IPV6_CUSTOMER_BITS: Final = 64


class RequestContextMiddleware:
    """Gives a request its id, a reply its headers; tells the log and an observer of its end.

    Args:
        app: what is inside.
        observe: told of the method, the route's template or "other", the status, the
            seconds, and the bytes of the bodies received and sent.
    """

    def __init__(
        self, app: ASGIApp, observe: Callable[[str, str, int, float, int, int], None]
    ) -> None:
        self._app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on under its id, and its reply with the headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_ids.choose(Request(scope).headers.get("x-request-id"))
        request_ids.current.set(request_id)  # each request has a task of its own
        begin = time.monotonic()
        received = sent = 0
        status = 500

        async def count() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def seal(message: Message) -> None:
            nonlocal sent, status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in DEFAULT_HEADERS.items():
                    headers.setdefault(name, value)
                headers["X-Request-Id"] = request_id
            sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, count, seal)
        finally:
            seconds = time.monotonic() - begin
            method = scope["method"]
            self._observe(method, template(scope), status, seconds, received, sent)
            logger.log(
                logging.DEBUG
                if method in _QUIET_METHODS and status < _FIRST_FAILURE
                else logging.INFO,
                "Request",
                # Without the query, which may hold what is nobody else's business.
                extra={
                    "method": method[:16],
                    "path": scope["path"][:MAX_LOGGED_PATH],
                    "status": status,
                    "seconds": round(seconds, 3),
                    "client": (scope.get("client") or ("",))[0],
                },
            )


def template(scope: Scope) -> str:
    """The path of the route that a request met, with its parameters' names; or "other"."""
    return getattr(scope.get("route"), "path", "other")


class UnhandledErrorMiddleware:
    """Answers what nobody else did: an error of ours, and requests cut off by a stop."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and answer it where that fails."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def note(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, note)
        except asyncio.CancelledError:
            if has_begun or not scope["app"].state.service.is_closing:
                raise
            leaving = ShuttingDownError("the server is shutting down", retry_after_s=30)
            await error_reply(leaving)(scope, receive, send)
        except Exception:
            if has_begun:
                raise
            logger.exception("Unexpected error")
            reply = plain_reply("an unexpected error; the log has it", 500)
            await reply(scope, receive, send)


class ApiKeyMiddleware:
    """Lets a request through that carries a key, or asks for what is open.

    A request's state says `is_trusted`; `owner`, whose jobs it may see, empty without keys;
    and `client`, who it is where clients are counted: the owner, or else an address, of
    which IPv6's are taken by network.

    Args:
        app: what is inside.
        keys: that are accepted; none: every request is let through.
        open_paths: answered to everybody.
        open_folder: a path under which everything is.
    """

    def __init__(
        self, app: ASGIApp, keys: KeyRing, open_paths: Collection[str], open_folder: str
    ) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = open_paths
        self._open_folder = open_folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        owner = self._keys.owner(_given_key(request)) if len(self._keys) else NOBODY
        request.state.is_trusted = owner is not None
        request.state.owner = owner or NOBODY
        request.state.client = owner or _origin(scope)
        if owner is not None or self._is_open(scope):
            await self._app(scope, receive, send)
            return
        error = UnauthorizedError(
            "an API key is needed: send it as Authorization: Bearer … or X-API-Key"
        )
        await error_reply(error)(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        return path in self._open_paths or path.startswith(self._open_folder)


def _given_key(request: Request) -> bytes:
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return bearer.strip().encode("latin-1")
    return request.headers.get("x-api-key", "").encode("latin-1")


class RateLimitMiddleware:
    """Lets each client send so many requests a minute that make work, as many of them at once.

    Args:
        app: what is inside.
        per_minute: POST requests of one client.
        clock: monotonic seconds.
    """

    def __init__(
        self, app: ASGIApp, per_minute: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._most = max(per_minute, 1.0)
        self._per_s = per_minute / 60
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        wait_s = self._take(scope["state"]["client"]) if _makes_work(scope) else 0.0
        if not wait_s:
            await self._app(scope, receive, send)
            return
        error = TooManyRequestsError(
            f"too many requests: at most {self._per_s * 60:g} a minute",
            retry_after_s=math.ceil(wait_s),
        )
        await error_reply(error)(scope, receive, send)

    def _take(self, client: str) -> float:
        """Count a request; the seconds until there is room for it, 0 where there is."""
        now = self._clock()
        left, since = self._left.pop(client, (self._most, now))
        left = min(self._most, left + (now - since) * self._per_s)
        has_room = left >= 1
        self._left[client] = (left - has_room, now)
        while len(self._left) > MAX_CLIENTS:
            self._left.popitem(last=False)
        return 0.0 if has_room else (1 - left) / self._per_s


def _makes_work(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] == "POST"


def _origin(scope: Scope) -> str:
    client: Any = scope.get("client")
    address: str = client[0] if client else ""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if ip.version == 4:  # noqa: PLR2004 - the protocol's number
        return address
    mapped = ip.ipv4_mapped
    if mapped is not None:
        return str(mapped)
    return str(ipaddress.ip_network((ip, _IPV6_CUSTOMER_BITS), strict=False))
