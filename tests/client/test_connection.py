"""Addresses, API keys, and errors of the connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.server import SMALL, Server, picture, serving, settings
from trellis2_server.client import Client, UnauthorizedError, UnreachableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tests.support.engines import GatedEngine

    Ask = Callable[..., Any]


@pytest.fixture
def locked(engine: GatedEngine) -> Generator[Server]:
    with serving(engine, settings(server={"api_keys": ["open-sesame"]})) as server:
        server.wait_until_loaded()
        yield server


def test_a_key_is_sent_and_never_shown(
    ask: Ask, locked: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("wrong", None):
        with pytest.raises(UnauthorizedError, match="an API key is needed") as caught:
            ask(locked, "generate", picture(), client={"api_key": key})
        assert "wrong" not in repr(caught.value)
    result = ask(locked, "generate", picture(), client={"api_key": "open-sesame"}, **SMALL)
    assert result.textured
    monkeypatch.setenv("TRELLIS2_SERVER_API_KEY", "open-sesame")
    monkeypatch.setenv("TRELLIS2_SERVER", locked.url)
    with Client() as client:
        assert client.health().version
        assert repr(client) == f"Client('{locked.url}')"
    with pytest.raises(UsageError, match="characters") as refused:
        Client(api_key="sec\nret")
    assert "ret" not in str(refused.value)


@pytest.mark.parametrize(
    "server", ["ftp://x", "http://", "http://a:b", "http://x:99999", "http://[::1", "  "]
)
def test_an_invalid_address_is_refused(server: str) -> None:
    if not server.strip():
        assert Client(server.strip()).server == "http://127.0.0.1:8082"
        return
    with pytest.raises(UsageError, match="not the address of a server"):
        Client(server)


def test_an_address_needs_no_scheme_and_may_have_a_path(server: Server) -> None:
    host = server.url.removeprefix("http://")
    for address in (host, f"{host}/", f"{server.url}/api", f"{host}/api/"):
        with Client(address) as client:
            assert client.health().status == "ok"
    assert server.faults.paths("/api/healthcheck")


def test_a_refused_connection_is_reported(ask: Ask, server: Server) -> None:
    server.stop()
    with pytest.raises(UnreachableError, match="the connection was refused"):
        ask(server, "health", client={"patience_s": 0})
    with pytest.raises(UnreachableError, match="the connection was refused"):
        ask(server, "generate", picture(), client={"patience_s": 0})


def test_a_server_that_sends_no_data_times_out(ask: Ask, server: Server) -> None:
    async def silence(app: Any, scope: Any, receive: Any, send: Any) -> None:
        del app, scope, send
        while (await receive())["type"] != "http.disconnect":
            pass

    server.faults.next("/healthcheck", silence)
    with pytest.raises(UnreachableError, match="no data was received in time"):
        ask(server, "health", client={"timeout_s": 0.1})
