"""Cancelling work for clients that disconnect.

Does not know: jobs, routes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import ClientDisconnect

from trellis2_server.races import result_unless

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from fastapi import Request

T = TypeVar("T")


async def while_connected(request: Request, call: Coroutine[Any, Any, T]) -> T:
    """Await a call and return its result; cancel the call if the client disconnects.

    Raises:
        ClientDisconnect: the client disconnected first.
    """

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return await result_unless(call, disconnected(), ClientDisconnect())
