"""What one client may use of the connections, and how its connections end."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.api.test_connections import (
    GET,
    POST,
    check_error,
    connect,
    errors,
    open_connections,
    read_json,
    read_to_end,
)
from tests.support.engines import GatedEngine
from tests.support.hostile import post_head
from tests.support.server import Server, fields, serving, settings, until
from trellis2_server.api.client_connections import ClientConnections
from trellis2_server.api.transfer_allowance import MIN_BYTES_PER_S, TransferAllowance

if TYPE_CHECKING:
    from collections.abc import Generator

TIMEOUT_S = 0.8


@pytest.fixture(scope="module")
def strict() -> Generator[Server]:
    configured = settings(server={"transfer_timeout_seconds": TIMEOUT_S})
    with serving(GatedEngine(), configured) as server:
        server.wait_until_loaded()
        yield server


# ---- transfers that stop -------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 10**9))))
def test_a_transfer_that_stops_ends_after_the_time_limit(moves: list[tuple[float, int]]) -> None:
    allowance = TransferAllowance(30)
    now = moved = 0
    allowance.restart(now, moved)
    for pause_s, size in moves:
        now, moved = now + pause_s, moved + size
        allowance.go_on(now, moved)
    assert not allowance.go_on(now + 30.001, moved)


@given(st.integers(1, 100), st.floats(0.1, 1), st.integers(MIN_BYTES_PER_S, 10**8))
def test_a_transfer_at_the_minimum_rate_may_go_on(checks: int, pause_s: float, rate: int) -> None:
    allowance = TransferAllowance(30)
    allowance.restart(0, 0)
    for number in range(1, checks):
        assert allowance.go_on(number * pause_s, int(number * pause_s * rate + 1))


@given(st.floats(0.1, 1))
def test_a_transfer_at_half_the_minimum_rate_lasts_twice_the_time_limit(pause_s: float) -> None:
    allowance = TransferAllowance(30)
    allowance.restart(0, 0)
    now = 0.0
    while allowance.go_on(now, int(now * MIN_BYTES_PER_S / 2)):
        now += pause_s
    assert 58 < now < 62


def test_a_body_that_stops_gets_a_408_however_much_of_it_came(strict: Server) -> None:
    with connect(strict, POST % 10_000_000 + b" " * 9_000_000) as connection:
        check_error(read_to_end(connection), 408)


def test_a_client_that_stops_reading_is_closed_however_much_it_read(strict: Server) -> None:
    with connect(strict) as connection:
        ours = connection.getsockname()[1]
        # About 20 MB of responses, more than the operating system buffers.
        with ThreadPoolExecutor() as pool:
            request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
            sent = pool.submit(_send, connection, request * 400)
            remaining = 6_000_000
            while remaining > 0:
                remaining -= len(connection.recv(65_536))
            until(
                lambda: all(
                    getattr(each, "client", ("", 0))[1] != ours
                    for each in list(strict.uvicorn.server_state.connections)
                ),
                "closed",
            )
            sent.result()


def _send(connection: socket.socket, content: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(content)


# ---- connections of one client -------------------------------------------------------------------


def from_address(server: Server, address: str, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(server.address, 30, (address, 0))
    connection.sendall(sent)
    return connection


def limited_server(
    engine: GatedEngine, **more: object
) -> contextlib.AbstractContextManager[Server]:
    return serving(engine, settings(server={"max_connections_per_client": 5, **more}))


linux = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux has all addresses of 127.0.0.0/8"
)


@linux
def test_one_client_may_have_some_connections_and_others_are_served() -> None:
    with limited_server(GatedEngine()) as server, contextlib.ExitStack() as stack:
        server.wait_until_loaded()
        server.client.close()
        until(lambda: not open_connections(server), "no connection")
        idle = [stack.enter_context(connect(server, b"GET")) for _ in range(6)]
        assert read_to_end(idle[0]) == b""
        with from_address(server, "127.0.0.2", GET) as other:
            assert read_json(other).startswith(b"HTTP/1.1 200 ")
        for connection in idle[1:]:  # still there
            connection.sendall(GET[3:])
            assert read_json(connection).startswith(b"HTTP/1.1 200 ")


@linux
def test_a_client_whose_connections_are_all_busy_gets_a_503_and_others_are_served() -> None:
    engine = GatedEngine("shape")
    with limited_server(engine) as server, contextlib.ExitStack() as stack:
        server.wait_until_loaded()
        server.client.close()
        until(lambda: not open_connections(server), "no connection")
        body = json.dumps(fields()).encode()
        busy = [stack.enter_context(connect(server, POST % len(body) + body)) for _ in range(5)]
        until(lambda: server.waiters == 5, "five wait")
        with connect(server, GET) as further:
            reply = read_to_end(further)
            assert int(check_error(reply, 503, 3)["retry-after"]) > 0
            assert b"from your address" in reply
        with from_address(server, "127.0.0.2", GET) as other:
            assert read_json(other).startswith(b"HTTP/1.1 200 ")
        engine.open_all()
        for connection in busy:
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


def test_connections_of_a_trusted_proxy_count_for_no_client() -> None:
    configured = {"trusted_proxies": ["127.0.0.0/8"]}
    with limited_server(GatedEngine(), **configured) as server, contextlib.ExitStack() as stack:
        server.wait_until_loaded()
        idle = [stack.enter_context(connect(server, b"GET")) for _ in range(20)]
        for connection in idle:
            connection.sendall(GET[3:])
            assert read_json(connection).startswith(b"HTTP/1.1 200 ")


def test_connections_are_counted_by_ipv4_address_or_ipv6_network() -> None:
    clients = ClientConnections[int](2, ["10.0.0.0/8", "::1"])
    assert not clients.add("2001:db8::1", 1)
    assert not clients.add("2001:db8::ffff:1", 2)
    assert clients.add("2001:db8::2", 3) == {1, 2, 3}
    assert not clients.add("2001:db8:0:1::1", 4)
    assert not clients.add("192.0.2.1", 5)
    assert not clients.add("192.0.2.1", 6)
    assert clients.add("::ffff:192.0.2.1", 7) == {5, 6, 7}
    for number in range(8, 20):
        for exempt in ("10.1.2.3", "::ffff:10.1.2.3", "::1", ""):
            assert not clients.add(exempt, number)
    for number in (1, 2, 3, 3):
        clients.discard("2001:db8::3", number)
    assert not clients.add("2001:db8::1", 1)


# ---- refused bodies ------------------------------------------------------------------------------


def test_after_a_refused_body_the_connection_ends_without_a_reset(
    server: Server,
) -> None:
    too_large = server.app.state.settings.server.max_body_bytes + 1
    with connect(server, post_head(too_large) + b" " * 100_000) as connection:
        check_error(read_to_end(connection), 413, 6)
        # A reset would answer these, and take the reply from a client that reads it later.
        for _ in range(3):
            connection.sendall(b" " * 1_000_000)


def test_a_refused_client_that_neither_sends_nor_closes_is_closed(
    strict: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trellis2_server.api.staged_close.QUIET_S", 4 * TIMEOUT_S)
    with connect(strict, POST % 1000 + b"{") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
        ours = connection.getsockname()[1]
        until(
            lambda: all(
                getattr(each, "client", ("", 0))[1] != ours
                for each in list(strict.uvicorn.server_state.connections)
            ),
            "closed",
        )
    assert not errors(caplog)


def test_a_body_that_no_route_reads_ends_the_connection(server: Server) -> None:
    for sent in (
        GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 1000000\r\n\r\n"),
        post_head(9, path="/x"),
    ):
        with connect(server, sent) as connection:
            reply = read_to_end(connection)
            assert b"connection: close" in reply.lower()
    with connect(
        server, GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n{}")
    ) as connection:
        assert b"connection: close" not in read_json(connection)
        connection.sendall(GET)
        assert read_json(connection).startswith(b"HTTP/1.1 200 ")


def test_a_refused_client_that_goes_on_sending_is_cut_off(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trellis2_server.api.staged_close.LINGER_S", 0.1)
    with connect(server, post_head(10**12)) as connection, contextlib.suppress(OSError):
        while True:
            connection.sendall(b" " * 100_000)
    with contextlib.suppress(OSError):
        assert len(read_to_end(connection)) < 1000


# ---- two lengths ---------------------------------------------------------------------------------

BODY = b'{"image_hash":"0"}'
CHUNKED = b"12\r\n" + BODY + b"\r\n0\r\n\r\n"


def head(*headers: str) -> bytes:
    lines = ["POST /generate_texture HTTP/1.1", "Host: x", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def test_a_request_with_two_lengths_is_the_last_of_its_connection(server: Server) -> None:
    smuggled = GET.replace(b"/worker_status", b"/smuggled")
    sent = head("Content-Length: 18", "Transfer-Encoding: chunked") + CHUNKED + smuggled
    with connect(server, sent) as connection:
        check_error(read_to_end(connection), 404)  # of the first request, and nothing more


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Content-Length: 18", "Content-Length: 5"], 400),
        (["Content-Length: 18, 5"], 400),
        (["Content-Length: +18"], 400),
        (["Transfer-Encoding: gzip, chunked"], 501),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], 501),
        (["Transfer-Encoding: identity"], 501),
        (["Transfer-Encoding: \x0bchunked"], 400),
    ],
)
def test_ambiguous_lengths_are_refused(server: Server, headers: list[str], status: int) -> None:
    with connect(server, head(*headers) + BODY) as connection:
        check_error(read_to_end(connection), status)


def test_a_length_that_is_given_twice_is_one_length(server: Server) -> None:
    with connect(server, head("Content-Length: 18", "Content-Length: 18") + BODY) as connection:
        assert read_json(connection).startswith(b"HTTP/1.1 404 ")


def test_a_complete_head_over_the_limit_is_refused(server: Server) -> None:
    long = "".join(f"A{number}: b\r\n" for number in range(6_000))
    with connect(server) as connection:
        _send(connection, f"GET /worker_status HTTP/1.1\r\nHost: x\r\n{long}\r\n".encode())
        check_error(read_to_end(connection), 431)
