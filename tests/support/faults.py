"""What goes wrong between a server and its clients, when a test says so."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol


class Fault(Protocol):
    """Answers a request instead of the application."""

    async def __call__(self, app: Any, scope: Any, receive: Any, send: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]


class Faults:
    """The application, but for the requests that a fault waits for.

    Attributes:
        asked: every request, in order.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._waiting: list[tuple[str, Fault]] = []
        self.asked: list[Asked] = []

    def next(self, path: str, *faults: Fault) -> None:
        """The next requests whose path begins so get these."""
        self._waiting += [(path, fault) for fault in faults]

    def paths(self, begin: str) -> list[str]:
        """Of the requests that came, those that begin so."""
        return [each.path for each in self.asked if each.path.startswith(begin)]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {
            key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]
        }
        self.asked.append(Asked(scope["method"], scope["path"], headers))
        for waiting in self._waiting:
            if scope["path"].startswith(waiting[0]):
                self._waiting.remove(waiting)
                await waiting[1](self._app, scope, receive, send)
                return
        await self._app(scope, receive, send)


def reply(status: int, body: bytes = b"", **headers: str) -> Fault:
    """Another reply; underscores in the headers' names are dashes."""

    async def answer(app: Any, scope: Any, receive: Any, send: Any) -> None:
        del app, scope
        while (await receive()).get("more_body"):
            pass
        pairs = [(name.replace("_", "-").encode(), each.encode()) for name, each in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": body})

    return answer


def cut(after_bytes: int) -> Fault:
    """The application's reply, and the connection closed within its body."""

    async def answer(app: Any, scope: Any, receive: Any, send: Any) -> None:
        left = after_bytes
        is_cut = asyncio.Event()

        async def pass_on(message: Any) -> None:
            nonlocal left
            if message["type"] == "http.response.body":
                body = message.get("body", b"")
                if len(body) >= left:
                    await send({**message, "body": body[:left], "more_body": True})
                    is_cut.set()
                    await asyncio.Event().wait()
                left -= len(body)
            await send(message)

        serving = asyncio.ensure_future(app(scope, receive, pass_on))
        cutting = asyncio.ensure_future(is_cut.wait())
        await asyncio.wait((serving, cutting), return_when=asyncio.FIRST_COMPLETED)
        serving.cancel()
        cutting.cancel()
        # A reply that has begun and fails ends its connection.
        raise ConnectionAbortedError("cut by the test")

    return answer
