"""Cancelling work for clients that disconnect.

Does not know: jobs, routes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import ClientDisconnect

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

    result = asyncio.ensure_future(call)
    disconnect = asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait((result, disconnect), return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise ClientDisconnect
        return result.result()
    finally:
        disconnect.cancel()
        result.cancel()
