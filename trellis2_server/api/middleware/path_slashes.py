"""Paths with more than one slash in a row, which clients make of an address that ends in one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_SLASHES: Final = re.compile("/{2,}")


class PathSlashesMiddleware:
    """Take several slashes in a row for one.

    After the API key was checked: a path that needs none needs one with more slashes.

    Args:
        app: the wrapped application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""
        if scope["type"] == "http" and "//" in scope["path"]:
            # In place: the middleware outside reads the route from it.
            scope["path"] = _SLASHES.sub("/", scope["path"])
        await self._app(scope, receive, send)
