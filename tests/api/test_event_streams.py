"""Event streams of one client, and requests whose API key is withdrawn."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import GatedEngine
from tests.support.hostile import error_text
from tests.support.server import ON_RAY, Server, fields, serving, settings, until
from trellis2_server.api.event_streams import EventStreams
from trellis2_server.api.routes import jobs
from trellis2_server.errors import TooManyRequestsError

if TYPE_CHECKING:
    from collections.abc import Generator

    import httpx

A, B = {"X-API-Key": "a"}, {"X-API-Key": "b"}


@pytest.fixture
def engine() -> GatedEngine:
    return GatedEngine("shape")


@pytest.fixture
def server(engine: GatedEngine) -> Generator[Server]:
    limits = {"api_keys": ["a", "b"], "max_event_streams_per_client": 3}
    with serving(engine, settings(server=limits)) as running:
        running.wait_until_loaded()
        yield running


def submit(server: Server, headers: dict[str, str]) -> str:
    return server.client.post("/send", json=fields(), headers=headers).json()["uid"]


def watch(server: Server, stack: ExitStack, uid: str, headers: dict[str, str]) -> httpx.Response:
    return stack.enter_context(server.client.stream("GET", f"/events/{uid}", headers=headers))


def test_a_client_with_too_many_event_streams_gets_a_429_and_others_are_served(
    server: Server,
) -> None:
    uid, of_b = submit(server, A), submit(server, B)
    with ExitStack() as stack:
        for _ in range(3):
            assert watch(server, stack, uid, A).status_code == 200
        for _ in range(3):
            refused = server.client.get(f"/events/{uid}", headers=A)
            assert "at most 3 at a time" in error_text(refused, 429, 3)
            assert int(refused.headers["retry-after"]) > 0
        assert watch(server, stack, of_b, B).status_code == 200
    until(lambda: not server.subscriptions, "closed")
    with ExitStack() as stack:
        for _ in range(3):
            assert watch(server, stack, uid, A).status_code == 200


def test_streams_are_counted_while_they_are_open() -> None:
    streams = EventStreams(1)
    with streams.hold("a"), streams.hold("b"):
        with pytest.raises(TooManyRequestsError), streams.hold("a"):
            pass
        with pytest.raises(TooManyRequestsError), streams.hold("b"):
            pass
    with streams.hold("a"):
        pass
    unlimited = EventStreams(None)
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(unlimited.hold("a"))


needs_one_process = pytest.mark.skipif(ON_RAY, reason="needs the single process")


@needs_one_process
def test_a_stream_ends_when_its_key_is_withdrawn(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "HEARTBEAT_S", 0.05)
    uid, of_b = submit(server, A), submit(server, B)
    with ExitStack() as stack:
        lines = watch(server, stack, uid, A).iter_lines()
        others = watch(server, stack, of_b, B).iter_lines()
        assert next(lines) == "event: status"
        server.app.state.keys.replace(["b"])
        rest = list(lines)
        assert not [line for line in rest if line.startswith("event: end")]
        assert next(line for line in others if line.startswith(":")) == ": heartbeat"
    error_text(server.client.get(f"/events/{uid}", headers=A), 401, 4)


@needs_one_process
def test_a_request_whose_key_is_withdrawn_while_it_waits_gets_no_model(
    server: Server, engine: GatedEngine
) -> None:
    def generate(headers: dict[str, str], **more: Any) -> httpx.Response:
        return server.client.post("/generate", json=fields(**more), headers=headers)

    with ThreadPoolExecutor() as pool:
        withdrawn = pool.submit(generate, A)
        other = pool.submit(generate, B, shade=2)
        until(lambda: server.waiters == 2, "both wait")
        server.app.state.keys.replace(["b"])
        engine.open_all()
        text = error_text(withdrawn.result(), 401, 4)
        assert text == "the API key of this request was withdrawn"
        assert other.result().is_success
