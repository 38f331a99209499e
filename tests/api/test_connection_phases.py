"""Connections by themselves: phases, time limits, refusals; with a transport of the test's own."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from uvicorn.server import ServerState

from tests.support.managers import Clock, in_a_loop
from tests.support.wire import Wire
from trellis2_server.api import connections
from trellis2_server.api.connections import (
    CHECK_INTERVAL_S,
    CONNECTIONS_FULL_RETRY_AFTER_S,
    KEEP_ALIVE_S,
    MAX_HEAD_BYTES,
    Connection,
    uvicorn_config,
)
from trellis2_server.settings import ServerSettings

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

TIMEOUT_S = 20.0
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
TWO_LENGTHS = (
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\n\r\n"
)
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"


class Serving:
    """Connections of one server, whose application answers when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **server: Any) -> None:
        self.clock = Clock()
        self.clock.now = 1000.0
        # Not that of the event loop.
        monkeypatch.setattr(connections, "time", SimpleNamespace(monotonic=self.clock))
        self.settings = ServerSettings(transfer_timeout_seconds=TIMEOUT_S, **server)
        config = uvicorn_config(self, self.settings)
        config.load()
        self.config, self.state = config, ServerState()
        self.answer = asyncio.Event()
        self.headers: list[tuple[bytes, bytes]] = [(b"content-length", b"2")]
        self.received: list[Message] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        self.received.append(await receive())
        await self.answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        await send({"type": "http.response.body", "body": b"ok"})

    def connect(self, address: str = "192.0.2.1", **wire: bool) -> tuple[Connection, Wire]:
        protocol: Any = self.config.http_protocol_class
        loop = asyncio.get_running_loop()
        connection = protocol(config=self.config, server_state=self.state, app_state={}, _loop=loop)
        transport = Wire(address, **wire)
        connection.connection_made(transport)
        return connection, transport

    def check(self, connection: Connection, after_s: float) -> None:
        """Let time pass, and have the connection check its limits."""
        self.clock.now += after_s
        if connection._next_check is not None:
            connection._next_check.cancel()
        connection._check()

    def end(self) -> None:
        for connection in list(self.state.connections):
            connection.connection_lost(None)  # pyright: ignore[reportAttributeAccessIssue]


def refusal(wire: Wire) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and body of an error response."""
    head, _, body = wire.written.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    version, status, _ = first.split(" ", 2)
    assert version == "HTTP/1.1"
    return int(status), dict(line.split(": ", 1) for line in lines), json.loads(body)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# ---- time limits ---------------------------------------------------------------------------------


@in_a_loop
async def test_a_connection_that_sends_nothing_is_closed_after_the_time_limit() -> None:
    with pytest.MonkeyPatch.context() as patch:
        serving = Serving(patch)
        connection, wire = serving.connect()
        serving.check(connection, 1.0)  # the phase begins
        assert connection.phase_begin_s == 1001.0
        serving.check(connection, TIMEOUT_S)
        assert not wire.is_aborted
        serving.check(connection, 0.1)
        assert wire.is_aborted
        assert wire.written == b""
        assert connection not in serving.state.connections
        serving.end()
        connection.connection_lost(None)


@in_a_loop
async def test_a_body_that_stops_gets_a_408_and_one_that_goes_on_does_not() -> None:
    with pytest.MonkeyPatch.context() as patch:
        serving = Serving(patch)
        connection, wire = serving.connect()
        connection.data_received(POST)
        await turns()
        serving.check(connection, 1.0)
        for _ in range(5):
            connection.data_received(b"x" * 16_384)
            serving.check(connection, 1.0)  # the minimum rate
            assert not wire.written
        serving.check(connection, TIMEOUT_S)
        assert not wire.written
        serving.check(connection, 0.1)
        status, headers, body = refusal(wire)
        assert (status, body["error_code"]) == (408, 1)
        assert body["text"] == "the request's body arrived too slowly"
        assert headers["connection"] == "close"
        assert headers["content-type"] == "application/json"
        assert headers["content-length"] == str(len(wire.written.partition(b"\r\n\r\n")[2]))
        assert "retry-after" not in headers
        assert len(headers["x-request-id"]) > 8
        assert wire.has_ended
        await turns()
        serving.answer.set()
        await turns()
        serving.end()


@in_a_loop
async def test_a_client_that_does_not_read_is_closed_and_one_that_reads_is_not() -> None:
    with pytest.MonkeyPatch.context() as patch:
        serving = Serving(patch)
        connection, wire = serving.connect()
        connection.data_received(GET)
        await turns()
        serving.check(connection, 1000.0)  # the application takes as long as it needs
        serving.check(connection, 1000.0)
        assert not wire.is_aborted
        wire.unsent = 10 * 16_384
        serving.check(connection, 1.0)
        serving.check(connection, TIMEOUT_S)
        wire.unsent -= 2 * 16_384  # two more seconds
        serving.check(connection, 2.0)
        assert not wire.is_aborted
        serving.check(connection, 0.1)
        assert wire.is_aborted
        assert not wire.written
        serving.answer.set()
        await turns()
        connection.connection_lost(None)


@in_a_loop
async def test_time_is_checked_often_enough_and_not_after_the_end() -> None:
    with pytest.MonkeyPatch.context() as patch:
        for timeout_s, interval_s in ((TIMEOUT_S, CHECK_INTERVAL_S), (1.0, 0.25)):
            serving = Serving(patch)
            connection, _ = serving.connect()
            connection._timeout_s = timeout_s
            loop = asyncio.get_running_loop()
            serving.check(connection, 0.0)
            timer = connection._next_check
            assert timer is not None
            assert timer.when() - loop.time() == pytest.approx(interval_s, abs=0.1)
            connection.connection_lost(None)
            assert timer.cancelled()


# ---- refusals ------------------------------------------------------------------------------------


@in_a_loop
async def test_above_the_limit_the_one_that_waited_longest_makes_room() -> None:
    with pytest.MonkeyPatch.context() as patch:
        serving = Serving(patch, max_connections=16)
        wires: list[Wire] = []
        for number in range(16):
            connection, wire = serving.connect(f"192.0.2.{number}")
            serving.clock.now += 1.0
            wires.append(wire)
            if number == 0:
                connection.data_received(GET)  # busy
        await turns()
        assert not any(wire.is_aborted for wire in wires)
        serving.connect("192.0.2.99")
        assert [number for number, wire in enumerate(wires) if wire.is_aborted] == [1]
        assert len(serving.state.connections) == 16
        serving.answer.set()
        await turns()
        serving.end()


@in_a_loop
async def test_a_client_is_refused_if_all_of_its_connections_are_busy() -> None:
    with pytest.MonkeyPatch.context() as patch:
        serving = Serving(patch, max_connections_per_client=4)
        for _ in range(4):
            connection, wire = serving.connect()
            connection.data_received(GET)
            assert not wire.written
        await turns()
        _, refused = serving.connect()
        status, headers, body = refusal(refused)
        assert (status, body) == (
            503, {"text": "too many connections from your address", "error_code": 3},
        )  # fmt: skip
        assert headers["retry-after"] == str(CONNECTIONS_FULL_RETRY_AFTER_S)
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        _, other = serving.connect("192.0.2.2")
        assert not other.written
        serving.answer.set()
        await turns()
        serving.end()
        assert not serving.state.connections


@in_a_loop
async def test_if_all_connections_are_busy_anybody_is_refused() -> None:
    with pytest.MonkeyPatch.context() as patch:
        serving = Serving(patch, max_connections=16, max_connections_per_client=None)
        for _ in range(16):
            serving.connect()[0].data_received(GET)
        await turns()
        _, refused = serving.connect()
        assert refusal(refused)[2]["text"] == "too many connections"
        serving.answer.set()
        await turns()
        serving.end()


@pytest.mark.parametrize(
    ("sent", "status", "text"),
    [
        (b"\x00\x01\r\n\r\n", 400, "this is not a valid HTTP request"),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * MAX_HEAD_BYTES,
            431,
            "over the limit of 32768",
        ),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "only chunked"),
    ],
)
@in_a_loop
async def test_what_is_no_request_is_refused_with_a_reason(
    sent: bytes, status: int, text: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        serving = Serving(patch)
        connection, wire = serving.connect()
        connection.data_received(sent)
        found, _, body = refusal(wire)
        assert (found, body["error_code"]) == (status, 1)
        assert text in body["text"]
        assert wire.has_ended  # it may still be sending
        written = wire.written
        connection.data_received(GET)  # nobody wants it
        await turns()
        assert (wire.written, serving.received) == (written, [])
        serving.end()
        connection.connection_lost(None)


@pytest.mark.parametrize("size", [-200, 200])
@in_a_loop
async def test_a_complete_head_may_be_as_large_as_the_limit(size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        serving = Serving(patch)
        connection, wire = serving.connect()
        head = b"GET / HTTP/1.1\r\nHost: x\r\nA: "
        value = b"x" * (MAX_HEAD_BYTES - len(head) - 4 + size + 8_192 * (size > 0))
        connection.data_received(head + value + b"\r\n\r\n")
        await turns()
        assert bool(serving.received) is (size < 0)
        assert bool(wire.written) is (size > 0)
        serving.answer.set()
        await turns()
        serving.end()


# ---- the end of a connection ---------------------------------------------------------------------


@in_a_loop
async def test_a_request_that_was_read_keeps_its_connection() -> None:
    with pytest.MonkeyPatch.context() as patch:
        serving = Serving(patch)
        connection, wire = serving.connect()
        serving.answer.set()
        for count in (1, 2):
            connection.data_received(GET)
            await turns()
            assert wire.written.count(b"HTTP/1.1 200 ") == count
            assert b"connection: close" not in wire.written
        assert connection.is_waiting
        assert not wire.is_closing()
        serving.end()


@pytest.mark.parametrize(
    "head",
    [
        POST,
        TWO_LENGTHS,
    ],
    ids=["not read", "two lengths"],
)
@in_a_loop
async def test_a_connection_whose_next_request_is_uncertain_ends(head: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        serving = Serving(patch)
        serving.headers.append((b"connection", b"keep-alive"))
        serving.answer.set()
        connection, wire = serving.connect()
        connection.data_received(head)
        if head is POST:
            connection.data_received(b"x")
        await turns(10)
        assert b"HTTP/1.1 200 " in wire.written
        assert wire.written.lower().count(b"connection: close") == 1
        assert b"keep-alive" not in wire.written
        serving.end()


@in_a_loop
async def test_an_upgrade_is_not_offered() -> None:
    with pytest.MonkeyPatch.context() as patch:
        connection, _ = Serving(patch).connect()
        assert connection._should_upgrade() is False
        connection.connection_lost(None)


def test_the_configuration_follows_from_the_settings() -> None:
    async def app(*_: Any) -> None: ...

    plain = uvicorn_config(app, ServerSettings(host="127.0.0.1", port=1234))
    assert (plain.host, plain.port, plain.ws, plain.timeout_keep_alive) == (
        "127.0.0.1", 1234, "none", KEEP_ALIVE_S,
    )  # fmt: skip
    assert (plain.access_log, plain.server_header, plain.proxy_headers) == (False, False, False)
    assert plain.timeout_graceful_shutdown == round(ServerSettings().shutdown_grace_seconds) + 1
    behind = uvicorn_config(app, ServerSettings(trusted_proxies=("10.0.0.1",)))
    assert (behind.proxy_headers, behind.forwarded_allow_ips) == (True, ["10.0.0.1"])
    short = uvicorn_config(app, ServerSettings(shutdown_grace_seconds=0.6))
    assert short.timeout_graceful_shutdown == 2


def test_the_limits_are_what_they_are_said_to_be() -> None:
    assert (MAX_HEAD_BYTES, KEEP_ALIVE_S, CONNECTIONS_FULL_RETRY_AFTER_S) == (32_768, 30, 5)
    assert CHECK_INTERVAL_S == 1.0
