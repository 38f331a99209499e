"""`HEAD` for every route that has `GET` (RFC 9110, section 9.3.2).

The route does what it does for `GET`, and the server sends no body. Routes whose response is costly
to make, or has no end, look at the method.

Does not know: what the routes do.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from fastapi import Response

_GET: Final = {"GET"}


def with_head(router: APIRouter) -> APIRouter:
    """Return a router with the routes of another one, and one for `HEAD` beside each `GET`.

    OpenAPI does not list it. A path that has a route for `HEAD` gets no other.
    """
    found = [route for route in router.routes if isinstance(route, APIRoute)]
    have_head = {route.path for route in found if "HEAD" in (route.methods or ())}
    added = APIRouter()
    for route in router.routes:
        added.routes.append(route)
        if isinstance(route, APIRoute) and route.methods == _GET and route.path not in have_head:
            head = copy.copy(route)
            head.methods = {"HEAD"}
            head.include_in_schema = False
            added.routes.append(head)
    return added


def head_response(media_type: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response to `HEAD` whose content was not made: without `Content-Length`."""
    return StreamingResponse(_nothing(), headers=headers, media_type=media_type)


async def _nothing() -> AsyncGenerator[bytes]:
    """Yield no body. A plain `Response` would add `Content-Length: 0`."""
    return
    yield b""
