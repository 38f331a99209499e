"""API-key authentication, and the identity that limits and jobs are counted for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request

from trellis2_server.api.api_keys import NO_OWNER
from trellis2_server.api.client_addresses import client_address
from trellis2_server.api.error_handlers import error_response
from trellis2_server.errors import UnauthorizedError

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from trellis2_server.api.api_keys import KeyRing
    from trellis2_server.api.links import LinkSigner

#: Limit of the query of a link, bytes; that of other requests is checked later.
_MAX_LINK_QUERY_BYTES: Final = 8_192


class ApiKeyMiddleware:
    """Reject requests without a valid API key, except for open paths.

    Sets on the request's state: `is_trusted`, whether the key is valid (always, without
    configured keys); `owner`, whose jobs the request may access, empty without keys; and
    `client`, the identity for limits: the owner if the request has a key, otherwise the IP address
    (the /64 network for IPv6). A request whose key is withdrawn while it waits gets 401. Instead
    of a key, a request to read a job's files or events may have a signed link.

    Args:
        app: the wrapped application.
        keys: the accepted keys; if empty, all requests are accepted.
        open_paths: paths that need no key.
        open_folder: prefix of further paths that need no key.
        links: checks links that need no key.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: KeyRing,
        open_paths: Collection[str],
        open_folder: str,
        links: LinkSigner,
    ) -> None:
        self._app = app
        self._keys = keys
        self._links = links
        self._open_paths = open_paths
        self._open_folder = open_folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, or respond with 401."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        owner = self._keys.owner(_key_of(request)) if len(self._keys) else NO_OWNER
        request.state.is_trusted = owner is not None
        request.state.client = owner or _client_address(scope)
        owner = self._owner_by_link(request) if owner is None else owner
        request.state.owner = owner or NO_OWNER
        if owner:
            await self._app(scope, receive, self._while_accepted(owner, scope, receive, send))
        elif owner is not None or self._is_open(scope):
            await self._app(scope, receive, send)
        else:
            error = UnauthorizedError(
                "an API key is needed: send it as Authorization: Bearer … or X-API-Key"
            )
            await error_response(error)(scope, receive, send)

    def _while_accepted(self, owner: str, scope: Scope, receive: Receive, send: Send) -> Send:
        """Return a `send` that starts no response after the request's key was withdrawn.

        A request may have waited for minutes since its key was checked.
        """
        is_refused = False

        async def send_while_accepted(message: Message) -> None:
            nonlocal is_refused
            if message["type"] == "http.response.start" and not self._keys.accepts(owner):
                is_refused = True
                error = UnauthorizedError("the API key of this request was withdrawn")
                await error_response(error)(scope, receive, send)
            if not is_refused:
                await send(message)

        return send_while_accepted

    def _owner_by_link(self, request: Request) -> str | None:
        query: bytes = request.scope["query_string"]
        if request.method not in {"GET", "HEAD"} or len(query) > _MAX_LINK_QUERY_BYTES:
            return None
        return self._links.owner(_path(request.scope), request.query_params, self._keys.owners())

    def _is_open(self, scope: Scope) -> bool:
        path = _path(scope)
        return path in self._open_paths or path.startswith(self._open_folder)


def _path(scope: Scope) -> str:
    return scope["path"].removeprefix(scope.get("root_path", ""))


def _key_of(request: Request) -> bytes:
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return bearer.strip().encode("latin-1")
    return request.headers.get("x-api-key", "").encode("latin-1")


def _client_address(scope: Scope) -> str:
    """Return the client's IPv4 address or IPv6 network; its raw address if it is neither."""
    client: Any = scope.get("client")
    return client_address(client[0]) if client else ""
