"""Preflights of public pages for a server in a private network.

A browser asks with a preflight whether a public page may send requests to such a server. See
https://wicg.github.io/private-network-access/.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from starlette.datastructures import MutableHeaders

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ASKED: Final = b"access-control-request-private-network"


class PrivateNetworkMiddleware:
    """Allow a preflight's request for a private network if the preflight itself is allowed.

    Args:
        app: the wrapped application, which answers preflights.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; add the header to its answer."""
        if scope["type"] != "http" or scope["method"] != "OPTIONS" or not _is_asked(scope):
            await self._app(scope, receive, send)
            return

        async def send_with_header(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == HTTPStatus.OK:
                headers = MutableHeaders(scope=message)
                if "access-control-allow-origin" in headers:
                    headers["Access-Control-Allow-Private-Network"] = "true"
                    headers.add_vary_header("Access-Control-Request-Private-Network")
            await send(message)

        # Newer versions of Starlette refuse the header, older ones do not know it.
        rest = [pair for pair in scope["headers"] if pair[0] != _ASKED]
        await self._app({**scope, "headers": rest}, receive, send_with_header)


def _is_asked(scope: Scope) -> bool:
    return (_ASKED, b"true") in scope["headers"]
