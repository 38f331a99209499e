from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from trellis2_server.api.disconnects import while_connected


class Client:
    """The client's side of a request, whose connection a test closes."""

    def __init__(self) -> None:
        self.disconnect = asyncio.Event()
        self.request = Request({"type": "http", "headers": []}, self._receive)

    async def _receive(self) -> dict[str, Any]:
        await self.disconnect.wait()
        return {"type": "http.disconnect"}


def test_the_result_is_returned_while_the_client_is_connected() -> None:
    async def scenario() -> None:
        assert await while_connected(Client().request, asyncio.sleep(0, 7)) == 7

    asyncio.run(scenario())


def test_an_error_of_the_call_is_raised() -> None:
    async def fail() -> None:
        raise ValueError("why")

    async def scenario() -> None:
        with pytest.raises(ValueError, match="why"):
            await while_connected(Client().request, fail())

    asyncio.run(scenario())


def test_a_disconnect_cancels_the_call() -> None:
    async def scenario() -> None:
        client, is_cancelled = Client(), asyncio.Event()

        async def call() -> None:
            try:
                client.disconnect.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                is_cancelled.set()
                raise

        with pytest.raises(ClientDisconnect):
            await while_connected(client.request, call())
        await asyncio.wait_for(is_cancelled.wait(), 5)

    asyncio.run(scenario())
