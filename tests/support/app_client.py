"""Requests to an application without a socket."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from fastapi import FastAPI
    from typing_extensions import Self


class AppClient:
    """Sends each request to the end before it returns; as a context, between start and shutdown.

    Args:
        app: the application.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stack = AsyncExitStack()

    def __enter__(self) -> Self:
        lifespan = self._app.router.lifespan_context(self._app)
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self._stack.enter_async_context(lifespan))
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop
        try:
            self._loop.run_until_complete(self._stack.aclose())
        finally:
            self._loop.close()
            self._loop = None

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app, client=("testclient", 50000))
            async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as http:
                return await http.request(method, path, **arguments)

        return self._loop.run_until_complete(ask()) if self._loop else asyncio.run(ask())

    def get(self, path: str, **arguments: Any) -> httpx.Response:
        return self.request("GET", path, **arguments)

    def head(self, path: str, **arguments: Any) -> httpx.Response:
        return self.request("HEAD", path, **arguments)

    def options(self, path: str, **arguments: Any) -> httpx.Response:
        return self.request("OPTIONS", path, **arguments)

    def post(self, path: str, **arguments: Any) -> httpx.Response:
        return self.request("POST", path, **arguments)

    def put(self, path: str, **arguments: Any) -> httpx.Response:
        return self.request("PUT", path, **arguments)

    def delete(self, path: str, **arguments: Any) -> httpx.Response:
        return self.request("DELETE", path, **arguments)
