from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

import pytest

from trellis2_server.client import AsyncClient, Client
from trellis2_server.client.protocol import health, hunyuan, retry

if TYPE_CHECKING:
    from collections.abc import Callable

    Ask = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(hunyuan, "POLL_S", 0.01)
    monkeypatch.setattr(health, "LOADING_POLL_S", 0.01)


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Calls a method of either client: `ask(server, "generate", …)`."""

    def call(url: str, method: str, *args: Any, **kwargs: Any) -> Any:
        with Client(url, **kwargs.pop("client", {})) as client:
            found = getattr(client, method)(*args, **kwargs)
            return list(found) if inspect.isgenerator(found) else found

    def await_(url: str, method: str, *args: Any, **kwargs: Any) -> Any:
        async def run() -> Any:
            async with AsyncClient(url, **kwargs.pop("client", {})) as client:
                found = getattr(client, method)(*args, **kwargs)
                if inspect.isasyncgen(found):
                    return [each async for each in found]
                return await found

        return asyncio.run(run())

    way = call if request.param == "sync" else await_
    return lambda server, *args, **kwargs: way(getattr(server, "url", server), *args, **kwargs)
