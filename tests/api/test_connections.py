"""Slow clients, many clients and invalid HTTP, at a server with short time limits."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.server import Server, fields, serving, settings, until
from trellis2_server.api.connections import HEAD_SLICE_BYTES, MAX_HEAD_BYTES

if TYPE_CHECKING:
    from collections.abc import Generator

TIMEOUT_S = 1.6
GET = b"GET /worker_status HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture(scope="module")
def strict() -> Generator[Server]:
    configured = settings(server={"transfer_timeout_seconds": TIMEOUT_S})
    with serving(GatedEngine(), configured) as server:
        server.wait_until_loaded()
        yield server


def connect(server: Server, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(server.address, timeout=PATIENCE_S)
    connection.sendall(sent)
    return connection


def read_to_end(connection: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    content = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            content += part
    return content


def read_json(connection: socket.socket) -> bytes:
    """Read a response whose body is a JSON object."""
    content = connection.recv(65_536)
    while content and not content.endswith(b"}"):
        content += connection.recv(65_536)
    return content


def check_error(reply: bytes, status: int, code: int = 1) -> dict[str, str]:
    """Check an error response, with nothing after it; return its headers."""
    head, _, body = reply.partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    assert line.startswith(f"HTTP/1.1 {status} "), reply
    headers = dict(each.lower().split(": ", 1) for each in lines)
    assert headers["connection"] == "close"
    assert len(headers["x-request-id"]) == 32
    assert set(json.loads(body)) == {"text", "error_code"}
    assert json.loads(body)["error_code"] == code
    return headers


def open_connections(server: Server) -> int:
    return len(server.uvicorn.server_state.connections)


# ---- slow clients ----------------------------------------------------------------------------


def test_two_hundred_slow_clients_are_closed_and_do_not_block_others(strict: Server) -> None:
    heads = [b"", b"P", b"POST /generate HTTP/1.1\r\nHost: x\r\nX-A: b\r\n"]
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(strict, heads[k % 3])) for k in range(200)]
        assert strict.generate().is_success
        for connection in slow:
            assert read_to_end(connection) == b""
    assert strict.client.get("/healthcheck").is_success


def test_a_client_that_sends_its_head_byte_by_byte_is_closed(strict: Server) -> None:
    pause = threading.Event()
    with connect(strict) as connection:
        connection.settimeout(0.02)
        for _ in range(1000):
            with contextlib.suppress(TimeoutError):
                assert read_to_end(connection) == b""
                break
            connection.sendall(b"G")
            pause.wait(0.02)
        else:
            raise AssertionError("it was not closed")


def test_a_body_that_stalls_gets_a_408(strict: Server) -> None:
    for path in (b"/generate", b"/send"):
        head = (POST % 1000).replace(b"/generate", path)
        with connect(strict, head + b'{"image": "') as connection:
            check_error(read_to_end(connection), 408)
    form = b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
    with connect(strict, (POST % 1000).replace(b"\r\n\r\n", b"\r\n") + form) as connection:
        check_error(read_to_end(connection), 408)
    assert strict.client.get("/worker_status").json()["queue_length"] == 0


def test_a_body_that_keeps_arriving_may_take_longer(strict: Server) -> None:
    body = json.dumps(fields(padding="x" * 400_000)).encode()
    pause = threading.Event()
    with connect(strict, POST % len(body)) as steady, connect(strict, POST % len(body)) as stopped:
        at = 0
        stopped.settimeout(0)
        while True:  # a stalled one is refused long before
            with contextlib.suppress(BlockingIOError):
                assert stopped.recv(100).startswith(b"HTTP/1.1 408")
                break
            steady.sendall(body[at : at + 2_000])
            at += 2_000
            pause.wait(0.02)
        steady.sendall(body[at:])
        assert steady.recv(100).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_does_not_read_its_responses_is_closed(strict: Server) -> None:
    requested = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    with connect(strict) as connection:
        until(lambda: open_connections(strict) > 0, "a connection")
        ours = connection.getsockname()[1]
        with contextlib.suppress(OSError):
            # About 20 MB of responses, more than the operating system buffers.
            connection.sendall(requested * 400)
        until(
            lambda: all(
                getattr(each, "client", ("", 0))[1] != ours
                for each in list(strict.uvicorn.server_state.connections)
            ),
            "closed",
        )
    assert strict.client.get("/healthcheck").is_success


def test_an_idle_connection_between_two_requests_stays_open(strict: Server) -> None:
    with connect(strict, GET) as idle_one:
        assert read_json(idle_one).startswith(b"HTTP/1.1 200 ")
        with connect(strict, b"GET") as slow:
            assert read_to_end(slow) == b""
        idle_one.sendall(GET)
        assert read_json(idle_one).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_waits_for_its_model_is_not_closed() -> None:
    engine = GatedEngine("shape")
    with serving(engine, settings(server={"transfer_timeout_seconds": 0.5})) as server:
        server.wait_until_loaded()
        with ThreadPoolExecutor() as pool:
            requested = pool.submit(server.generate)
            engine.wait_for("shape")
            for _ in range(3):
                with connect(server, b"GET") as slow:
                    assert read_to_end(slow) == b""
            engine.open_all()
            assert requested.result().is_success


# ---- many clients ---------------------------------------------------------------------------


def test_above_the_limit_the_connection_that_waited_longest_is_closed() -> None:
    with serving(GatedEngine(), settings(server={"max_connections": 10})) as server:
        server.wait_until_loaded()
        server.client.close()
        with contextlib.ExitStack() as stack:
            idle = [stack.enter_context(connect(server, b"GET")) for _ in range(11)]
            assert read_to_end(idle[0]) == b""
            with connect(server, GET) as newest:
                assert read_json(newest).startswith(b"HTTP/1.1 200 ")
            assert read_to_end(idle[1]) == b""
            idle[-1].sendall(GET[3:])
            assert read_json(idle[-1]).startswith(b"HTTP/1.1 200 ")


def test_if_all_connections_are_busy_a_further_one_gets_a_503() -> None:
    engine = GatedEngine("shape")
    with serving(engine, settings(server={"max_connections": 10})) as server:
        server.wait_until_loaded()
        server.client.close()
        body = json.dumps(fields()).encode()
        with contextlib.ExitStack() as stack:
            busy = [
                stack.enter_context(connect(server, POST % len(body) + body)) for _ in range(10)
            ]
            manager = server.manager
            until(lambda: sum(t.waiters for t in manager.active_jobs) == 10, "ten wait")
            with connect(server, GET) as further:
                assert int(check_error(read_to_end(further), 503, 3)["retry-after"]) > 0
            engine.open_all()
            for connection in busy:
                assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


# ---- invalid HTTP -------------------------------------------------------------------------------


def errors(caplog: pytest.LogCaptureFixture) -> list[Any]:
    """Return unexpected warnings and errors; those about invalid HTTP are expected."""
    known = "Invalid HTTP request received."
    records = [each for each in caplog.records if each.levelno >= logging.WARNING]
    return [each for each in records if each.getMessage() != known]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA\x00b: c\r\n\r\n", 400),
        (b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 2 * MAX_HEAD_BYTES, 431),
        (b"GET /" + b"a" * 2 * MAX_HEAD_BYTES, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * MAX_HEAD_BYTES, 431),
    ],
    ids=["tls", "no host", "nul", "length", "header", "path", "headers"],
)
def test_invalid_http_gets_the_usual_error_body(
    server: Server, caplog: pytest.LogCaptureFixture, sent: bytes, status: int
) -> None:
    with connect(server) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(sent)
        check_error(read_to_end(connection), status)
    assert not errors(caplog)


def test_junk_after_a_request_does_not_affect_it(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(server, GET + b"\x00junk\r\n\r\n") as connection:
        reply = read_to_end(connection)
        first, _, second = reply.partition(b"}HTTP/1.1 400")
        assert first.startswith(b"HTTP/1.1 200 ")
        assert b'"error_code": 1' in second
    assert not errors(caplog)


def test_junk_inside_a_body_gets_a_400_and_ends_the_request(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    head = b"POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(server, head + b'5\r\n{"a":\r\n') as connection:
        until(lambda: open_connections(server) > 0, "a connection")
        connection.sendall(b"zz\r\n")
        check_error(read_to_end(connection), 400)
    until(lambda: not server.uvicorn.server_state.tasks, "no task")
    assert not errors(caplog)


@pytest.mark.parametrize("surplus", [-1, 0, 1])
def test_a_head_of_the_size_that_is_parsed_at_once_is_not_the_end(
    server: Server, surplus: int
) -> None:
    head = GET.replace(b"x\r\n", b"x\r\nX-More: %s\r\n")
    request = head % (b"a" * (HEAD_SLICE_BYTES + surplus - len(head) + 2))
    assert len(request) == HEAD_SLICE_BYTES + surplus
    with connect(server) as connection:
        for _ in range(2):
            connection.sendall(request)
            assert read_json(connection).startswith(b"HTTP/1.1 200 ")


def test_unsupported_upgrades_are_ignored(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    for protocol in ("websocket", "h2c"):
        headers = {"Connection": "Upgrade", "Upgrade": protocol}
        assert server.client.get("/worker_status", headers=headers).is_success
    assert not errors(caplog)
