from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from trellis2_server.api.middleware import UnhandledErrorMiddleware

START = {"type": "http.response.start", "status": 200, "headers": []}


def run(error: BaseException, *, has_started: bool, is_closing: bool = False) -> list[Any]:
    """Run an application that fails; return the messages of the response."""
    service = SimpleNamespace(is_closing=is_closing)
    scope = {"type": "http", "app": SimpleNamespace(state=SimpleNamespace(service=service))}
    sent: list[Any] = []

    async def app(_: Any, __: Any, send: Any) -> None:
        if has_started:
            await send(START)
        raise error

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    asyncio.run(UnhandledErrorMiddleware(app)(scope, receive, send))
    return sent


def test_an_unexpected_error_gets_a_500_without_its_message() -> None:
    start, body = run(ValueError("/home/secret"), has_started=False)
    assert start["status"] == 500
    assert json.loads(body["body"]).keys() == {"text", "error_code"}
    assert b"secret" not in body["body"]


def test_an_unexpected_error_after_the_start_of_the_response_is_raised() -> None:
    with pytest.raises(ValueError, match="why"):
        run(ValueError("why"), has_started=True)


def test_a_request_that_is_cancelled_by_a_shutdown_gets_a_503() -> None:
    start, body = run(asyncio.CancelledError(), has_started=False, is_closing=True)
    assert start["status"] == 503
    assert json.loads(body["body"])["error_code"] == 3


@pytest.mark.parametrize(("has_started", "is_closing"), [(False, False), (True, True)])
def test_other_cancellations_are_raised(*, has_started: bool, is_closing: bool) -> None:
    with pytest.raises(asyncio.CancelledError):
        run(asyncio.CancelledError(), has_started=has_started, is_closing=is_closing)
