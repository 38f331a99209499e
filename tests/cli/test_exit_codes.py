"""How a server's process ends, with stand-ins for what it serves."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.engines import GatedEngine
from tests.support.server import settings
from trellis2_server import logs, pipeline
from trellis2_server.cli import serve as module


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Codes with which the process was ended without its interpreter."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    return codes


def manager(fatal: object = None, *, is_idle: bool = True) -> Any:
    return SimpleNamespace(availability=SimpleNamespace(fatal_error=fatal), is_idle=is_idle)


def served(
    monkeypatch: pytest.MonkeyPatch,
    its_manager: Any,
    *,
    starts: bool = True,
    can_listen: bool = True,
) -> tuple[int, list[Any]]:
    """The code that `serve` returns, and what it has done."""
    done: list[Any] = []
    state = SimpleNamespace(keys=None, **({} if its_manager is None else {"manager": its_manager}))

    class Server:
        started = starts

        def run(self, listeners: Any) -> None:
            done.append(listeners)
            if not starts:
                raise SystemExit(1)

    def listen(*_: Any) -> str:
        if not can_listen:
            raise OSError("127.0.0.1:1: in use")
        return "listeners"

    cutter = SimpleNamespace(prefetch=lambda: done.append("prefetch"))
    for owner, name, value in (
        (logs, "configure", lambda _: None),
        (module, "limit_malloc_arenas", lambda: done.append("arenas")),
        (module, "allow_descriptors", done.append),
        (module, "make_store", lambda _: SimpleNamespace(claim=lambda: done.append("claim"))),
        (module, "create_app", lambda *_, **__: SimpleNamespace(state=state)),
        (module, "open_listeners", listen),
        (module, "uvicorn_config", lambda *_: None),
        (module, "_Server", lambda *_: Server()),
        (module, "_handle_hangup", lambda *_: None),
        (pipeline, "make_decoders", lambda _: None),
        (pipeline, "make_cutter", lambda *_: cutter),
    ):
        monkeypatch.setattr(owner, name, value)
    configured = settings(server={"max_connections": 77}, model={"background": "auto"})
    return module.serve(configured, lambda: configured, lambda _: (GatedEngine(), ())), done


def test_a_server_that_was_told_to_stop_ends_with_0(
    monkeypatch: pytest.MonkeyPatch, exits: list[int]
) -> None:
    code, done = served(monkeypatch, manager())
    assert (code, exits) == (0, [])
    assert done == ["arenas", "claim", 77, "prefetch", "listeners"]


@pytest.mark.parametrize(
    ("its_manager", "starts", "code"),
    [
        (None, True, 0),
        (None, False, 3),
        (manager(), False, 3),
        (manager("hangs"), True, 70),
        (manager("hangs"), False, 70),
    ],
    ids=range(5),
)
def test_the_code_says_whether_it_started_and_was_healthy(
    monkeypatch: pytest.MonkeyPatch, exits: list[int], its_manager: Any, *, starts: bool, code: int
) -> None:
    assert served(monkeypatch, its_manager, starts=starts)[0] == code
    assert exits == []


@pytest.mark.parametrize(("fatal", "code"), [(None, 0), ("hangs", 70)])
def test_a_thread_that_cannot_be_interrupted_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, exits: list[int], fatal: object, code: int
) -> None:
    served(monkeypatch, manager(fatal, is_idle=False))
    assert exits == [code]


def test_an_address_that_is_taken_ends_it_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    code, done = served(monkeypatch, manager(), can_listen=False)
    assert code == 3
    assert "prefetch" not in done
    assert "Cannot listen on 127.0.0.1:1: in use" in caplog.text


def test_a_second_signal_ends_it_at_once(monkeypatch: pytest.MonkeyPatch, exits: list[int]) -> None:
    closed: list[bool] = []
    monkeypatch.setattr(module.uvicorn.Server, "__init__", lambda *_: None)
    app: Any = SimpleNamespace(
        state=SimpleNamespace(manager=SimpleNamespace(close_soon=lambda: closed.append(True)))
    )
    server: Any = module._Server(None, app)  # type: ignore[arg-type]
    server.should_exit = False
    server.handle_exit(signal.SIGTERM, None)
    assert (server.should_exit, closed, exits) == (True, [True], [])
    server.handle_exit(signal.SIGTERM, None)
    assert exits == [0]


def test_a_server_without_jobs_left_stops_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait() -> bool:
        drained = asyncio.Event()
        app: Any = SimpleNamespace(
            state=SimpleNamespace(manager=SimpleNamespace(is_drained=drained))
        )
        server: Any = module._Server(None, app)  # type: ignore[arg-type]
        server.should_exit = False
        waiting = asyncio.ensure_future(server._wait_until_drained())
        await asyncio.sleep(0.01)
        assert not server.should_exit
        drained.set()
        await waiting
        return server.should_exit

    monkeypatch.setattr(module.uvicorn.Server, "__init__", lambda *_: None)
    assert asyncio.run(wait())


def test_a_tick_stops_the_server_if_its_base_class_does(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stops(*_: Any) -> bool:
        return True

    collected: list[bool] = []
    lifecycle = SimpleNamespace(status="loading")
    app: Any = SimpleNamespace(state=SimpleNamespace(manager=SimpleNamespace(lifecycle=lifecycle)))
    monkeypatch.setattr(module.uvicorn.Server, "__init__", lambda *_: None)
    monkeypatch.setattr(module.uvicorn.Server, "on_tick", stops)
    monkeypatch.setattr(module, "leave_out_of_collections", lambda: collected.append(True))
    server: Any = module._Server(None, app)  # type: ignore[arg-type]
    assert asyncio.run(server.on_tick(1)) is True
    assert collected == []
    lifecycle.status = "ok"
    for _ in range(2):
        assert asyncio.run(server.on_tick(1)) is True
    assert collected == [True]  # once
