"""A text-to-image server: OpenAI's images API, on a thread of this process."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

from tests.support.engines import PATIENCE_S
from tests.support.other_host import OtherHost, Received, reply
from tests.support.server import encoded, picture

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


def image_reply(content: bytes) -> bytes:
    return reply(json.dumps({"created": 1, "data": [{"b64_json": encoded(content)}]}))


def error_reply(status: int, message: str, code: str | None = None, **more: str) -> bytes:
    body = {"error": {"message": message, "type": "invalid_request_error", "code": code, **more}}
    return reply(json.dumps(body), status)


class Painter:
    """A text-to-image server: a disc, of another colour for each text.

    Attributes:
        host: where it is.
        prompts: of each request, in order.
        fails: replies instead, if set.
        gate: open (set) at first; closed, replies wait.
    """

    def __init__(self) -> None:
        self.prompts: list[dict[str, Any]] = []
        self.fails: Callable[[], bytes] | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.host = OtherHost(self._answer)

    @property
    def url(self) -> str:
        return self.host.url("/v1/images/generations")

    def _answer(self, request: Received) -> Generator[bytes]:
        self.prompts.append(request.json())
        self.gate.wait(PATIENCE_S)
        shade = sum(request.json()["prompt"].encode()) % 256
        yield self.fails() if self.fails else image_reply(picture(shade))

    def close(self) -> None:
        self.gate.set()
        self.host.close()
