"""Waiting until a server is ready."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import GatedEngine
from tests.support.server import serving, until
from trellis2_server.client import BusyError, Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    Ask = Callable[..., Any]


def test_a_loading_server_is_awaited(ask: Ask) -> None:
    engine = GatedEngine("load")
    with serving(engine) as server:
        until(lambda: server.client.get("/healthcheck").status_code == 503, "listening")
        with pytest.raises(BusyError, match="still loading"):
            ask(server, "wait_until_ready", 0)
        found: list[Progress] = []

        def record(progress: Progress) -> None:
            found.append(progress)
            engine.open_all()

        assert ask(server, "wait_until_ready", on_progress=record).status == "ok"
        assert "loading" in found[0].text


def test_a_server_that_failed_to_load_is_not_awaited(ask: Ask) -> None:
    engine = GatedEngine()
    engine.failures["load"] = RuntimeError("broken")
    with serving(engine) as server:
        until(lambda: server.client.get("/healthcheck").json()["status"] == "error", "failed")
        message = server.client.get("/healthcheck").json()["error"]
        with pytest.raises(BusyError) as caught:
            ask(server, "wait_until_ready")
        assert str(caught.value) == message
