"""Faults between a server and its clients, injected by a test."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol


class Fault(Protocol):
    """An ASGI application that wraps another one, for one request."""

    async def __call__(self, app: Any, scope: Any, receive: Any, send: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request that the server received."""

    method: str
    path: str
    headers: dict[str, str]


class Faults:
    """The application, with faults for single requests.

    Attributes:
        requests: all received requests, in order.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._pending: list[tuple[str, Fault]] = []
        self.requests: list[ReceivedRequest] = []

    def next(self, path: str, *faults: Fault) -> None:
        """Apply the faults to the next requests whose path starts with `path`, one each."""
        self._pending += [(path, fault) for fault in faults]

    def paths(self, prefix: str) -> list[str]:
        """Return the paths of the received requests that start with the prefix."""
        return [each.path for each in self.requests if each.path.startswith(prefix)]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {
            key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]
        }
        self.requests.append(ReceivedRequest(scope["method"], scope["path"], headers))
        for pending in self._pending:
            path, fault = pending
            if scope["path"].startswith(path):
                self._pending.remove(pending)
                await fault(self._app, scope, receive, send)
                return
        await self._app(scope, receive, send)


def reply(status: int, body: bytes = b"", **headers: str) -> Fault:
    """Replace the response; underscores in the names of headers become hyphens."""

    async def answer(app: Any, scope: Any, receive: Any, send: Any) -> None:
        del app, scope
        while (await receive()).get("more_body"):
            pass
        pairs = [(name.replace("_", "-").encode(), each.encode()) for name, each in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": body})

    return answer


def cut(after_bytes: int) -> Fault:
    """Close the connection after so many bytes of the response body."""

    async def answer(app: Any, scope: Any, receive: Any, send: Any) -> None:
        remaining = after_bytes
        is_cut = asyncio.Event()

        async def pass_on(message: Any) -> None:
            nonlocal remaining
            if message["type"] == "http.response.body":
                body = message.get("body", b"")
                if len(body) >= remaining:
                    await send({**message, "body": body[:remaining], "more_body": True})
                    is_cut.set()
                    await asyncio.Event().wait()
                remaining -= len(body)
            await send(message)

        serving = asyncio.ensure_future(app(scope, receive, pass_on))
        cutting = asyncio.ensure_future(is_cut.wait())
        await asyncio.wait((serving, cutting), return_when=asyncio.FIRST_COMPLETED)
        serving.cancel()
        cutting.cancel()
        # uvicorn closes the connection if a response fails after its start.
        raise ConnectionAbortedError("cut by the test")

    return answer
