"""Addresses, API keys, and errors of the connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.server import SMALL, Server, picture, serving, settings
from trellis2_server import __version__
from trellis2_server.client import Client, UnauthorizedError, UnreachableError, UsageError
from trellis2_server.client.connection import (
    CONNECT_S,
    TIMEOUT_S,
    Connection,
    read_reply,
    request_arguments,
)
from trellis2_server.client.protocol.actions import Call, Open
from trellis2_server.client.protocol.replies import Reply

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


# ---- how httpx is used ---------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRELLIS2_SERVER", raising=False)
    monkeypatch.delenv("TRELLIS2_SERVER_API_KEY", raising=False)


@pytest.mark.parametrize(
    ("given", "server"),
    [
        (None, "http://127.0.0.1:8082"),
        ("host", "http://host"),
        (" host:80// ", "http://host:80"),
        ("https://host/api/", "https://host/api"),
    ],
)
def test_an_address_is_written_in_one_way(given: str | None, server: str) -> None:
    assert Connection(given).server == server


@pytest.mark.parametrize("port", ["0", "65536", "-1"])
def test_a_port_that_does_not_exist_is_refused(port: str) -> None:
    with pytest.raises(UsageError):
        Connection(f"host:{port}")
    assert Connection("host:65535").server.endswith("65535")
    assert Connection("host:1").server.endswith(":1")


@pytest.mark.parametrize(
    ("server", "trusts"),
    [
        ("localhost", False),
        ("127.0.0.1", False),
        ("127.9.9.9:1", False),
        ("[::1]:80", False),
        ("10.0.0.1", True),
        ("example.org", True),
        ("localhost.example.org", True),
    ],
)
def test_a_proxy_is_not_used_for_this_machine(server: str, *, trusts: bool) -> None:
    assert Connection(server).client_arguments()["trust_env"] is trusts


def test_timeouts_and_headers_are_those_of_the_client() -> None:
    arguments = Connection("host", api_key="key", timeout_s=7.0).client_arguments()
    assert arguments["base_url"] == "http://host"
    assert arguments["timeout"] == httpx.Timeout(7.0, connect=CONNECT_S, pool=None)
    assert arguments["limits"].max_connections is None
    assert arguments["headers"] == {
        "User-Agent": f"trellis2-server-client/{__version__}",
        "Authorization": "Bearer key",
    }
    plain = Connection("host").client_arguments()
    assert plain["timeout"].read == TIMEOUT_S > CONNECT_S
    assert "Authorization" not in plain["headers"]


def test_no_key_is_sent_instead_of_that_of_the_environment_where_it_is_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRELLIS2_SERVER_API_KEY", "key")
    assert Connection().client_arguments()["headers"]["Authorization"] == "Bearer key"
    assert "Authorization" not in Connection(api_key="").client_arguments()["headers"]


@pytest.mark.parametrize("key", ["a b", "a\nb", "schlüssel", "\x7f"])
def test_a_key_that_cannot_be_sent_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match="characters"):
        Connection(api_key=key)


def test_a_request_has_what_its_action_says() -> None:
    assert request_arguments(Open("jobs", {"Range": "x"})) == {
        "method": "GET", "url": "jobs", "headers": {"Range": "x"},
    }  # fmt: skip
    plain = request_arguments(Call("DELETE", "jobs/a"))
    assert plain == {"method": "DELETE", "url": "jobs/a", "timeout": httpx.USE_CLIENT_DEFAULT}
    full = request_arguments(Call("POST", "send", {}, timeout_s=2.0))
    assert (full["json"], full["timeout"]) == ({}, httpx.Timeout(2.0))


def test_a_reply_has_its_body_only_once_it_is_read() -> None:
    response = httpx.Response(201, headers={"ETag": "x"}, content=b"body")
    assert read_reply(response) == Reply(201, {"etag": "x", "content-length": "4"}, b"body")
    unread = httpx.Response(200, stream=httpx.ByteStream(b"body"))
    assert read_reply(unread).body == b""


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (httpx.ConnectTimeout("x"), "the connection timed out"),
        (httpx.ReadTimeout("x"), "no data was received in time"),
        (httpx.PoolTimeout("x"), "no data was received in time"),
        (httpx.ConnectError(""), "the connection was refused"),
        (httpx.ConnectError("[Errno 111] Connection refused"), "the connection was refused"),
        (httpx.ConnectError("All connection attempts failed"), "the connection was refused"),
        (httpx.ConnectError("[WinError 10061] odd words"), "the connection was refused"),
        (httpx.ConnectError("Name or service\nnot known"), "Name or service not known"),
        (httpx.ReadError("x"), "the connection was lost"),
        (httpx.RemoteProtocolError("x"), "the connection was lost"),
        (httpx.LocalProtocolError("odd"), "odd"),
        (httpx.DecodingError(""), "DecodingError"),
    ],
)
def test_each_error_of_a_connection_is_said_in_a_few_words(
    error: httpx.HTTPError, text: str
) -> None:
    translated = Connection("host").translate(error)
    assert isinstance(translated, UnreachableError)
    assert (str(translated), translated.__cause__) == (f"http://host: {text}", error)


def test_other_errors_are_left_alone() -> None:
    error = KeyError("x")
    assert Connection("host").translate(error) is error
