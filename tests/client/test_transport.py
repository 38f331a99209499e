"""Files that a transport reads."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import PATIENCE_S
from trellis2_server.client import UnreachableError, UsageError
from trellis2_server.client.connection import Connection
from trellis2_server.client.protocol.actions import (
    Call,
    Notice,
    Open,
    Pause,
    Read,
    ReadFile,
    Report,
    handle_updates,
)
from trellis2_server.client.protocol.replies import Reply
from trellis2_server.client.transport import AsyncTransport, BlockingTransport, read_file

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from trellis2_server.client.protocol.actions import Operation


def test_a_file_is_given_by_its_content_or_path(tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(b"picture")
    assert read_file(file) == read_file(str(file)) == read_file(b"picture") == b"picture"


def test_an_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    with pytest.raises(UsageError, match=r"empty\.png: the file is empty"):
        read_file(empty)
    with pytest.raises(UsageError, match=r"^the file is empty"):
        read_file(b"")
    with pytest.raises(UsageError, match=r"none\.png: No such file"):
        read_file(tmp_path / "none.png")


# ---- both transports -----------------------------------------------------------------------------


class Served(ThreadingHTTPServer):
    """Answers with what it got; `/held` sends some bytes and waits for the client to leave."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.left = threading.Event()
        self.url = "http://{}:{}".format(*self.server_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Served

    def do_GET(self) -> None:
        if self.path == "/held":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            with contextlib.suppress(OSError):  # the client may leave at any time
                self.wfile.write(b"held")
                self.wfile.flush()
                self.rfile.read(1)
            self.server.left.set()
            return
        self._answer(404 if self.path == "/none" else 200, self.headers.get("X-Sent", "").encode())

    def do_POST(self) -> None:
        self._answer(201, self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("X-Answer", "Yes")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def served() -> Generator[Served]:
    with Served() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join(PATIENCE_S)


@pytest.fixture(params=["blocking", "asynchronous"])
def run(request: pytest.FixtureRequest, served: Served) -> Callable[[Operation[Any]], Any]:
    """Runs an operation; returns its updates and its result."""

    def blocking(operation: Operation[Any]) -> Any:
        transport = BlockingTransport(Connection(served.url))
        updates: list[object] = []
        with contextlib.closing(transport):
            result = transport.run(handle_updates(operation, updates.append))
        return updates, result

    def asynchronous(operation: Operation[Any]) -> Any:
        async def performed() -> Any:
            transport = AsyncTransport(Connection(served.url))
            updates: list[object] = []
            try:
                return updates, await transport.run(handle_updates(operation, updates.append))
            finally:
                await transport.close()

        return asyncio.run(performed())

    return blocking if request.param == "blocking" else asynchronous


def test_every_action_has_its_answer(run: Callable[[Operation[Any]], Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")

    def operation() -> Operation[list[Any]]:
        found: list[Any] = [(yield ReadFile(tmp_path / "file"))]
        found.append((yield Pause(0.0)))
        found.append((yield Report(Notice("on the way"))))
        found.append((yield Call("POST", "send", {"a": 1})))
        found.append((yield Call("GET", "plain")))
        found.append((yield Open("chunks", {"X-Sent": "some"})))
        found += [(yield Read()), (yield Read()), (yield Read())]
        found.append((yield Open("none", {"X-Sent": "sorry"})))
        return found

    updates, found = run(operation())
    assert updates == [Notice("on the way")]
    assert found[:3] == [b"content", None, None]
    posted, got, opened, *chunks, missing = found[3:]
    assert isinstance(posted, Reply)
    assert (posted.status, posted.body) == (201, b'{"a":1}')
    assert posted.headers["x-answer"] == "Yes"
    assert (got.status, got.body) == (200, b"")
    assert (opened.status, opened.body, chunks) == (200, b"", [b"some", b"", b""])
    assert (missing.status, missing.body) == (404, b"sorry")


def test_nothing_is_read_before_a_reply_is_opened(run: Callable[[Operation[Any]], Any]) -> None:
    def operation() -> Operation[bytes]:
        return (yield Read())

    assert run(operation())[1] == b""


def test_a_reply_is_closed_when_another_one_is_opened(
    run: Callable[[Operation[Any]], Any], served: Served
) -> None:
    served.left.clear()

    def operation() -> Operation[bytes]:
        yield Open("held")
        held: bytes = yield Read()
        yield Open("next", {"X-Sent": "next"})
        assert served.left.wait(PATIENCE_S)  # before the operation ends
        return held + (yield Read())

    assert run(operation())[1] == b"heldnext"


def test_a_reply_is_closed_when_the_operation_ends(
    run: Callable[[Operation[Any]], Any], served: Served
) -> None:
    served.left.clear()

    def operation() -> Operation[None]:
        yield Open("held")

    run(operation())
    assert served.left.wait(PATIENCE_S)


def test_errors_reach_the_operation_and_it_may_go_on(
    run: Callable[[Operation[Any]], Any], tmp_path: Path
) -> None:
    def operation() -> Operation[bytes]:
        with pytest.raises(UsageError):
            yield ReadFile(tmp_path / "none")
        found: Reply = yield Open("chunks", {"X-Sent": "some"})
        assert found.status == 200
        return (yield Read())

    assert run(operation())[1] == b"some"


def test_an_exception_of_httpx_is_translated(
    run: Callable[[Operation[Any]], Any], served: Served
) -> None:
    def operation() -> Operation[str]:
        try:
            yield Call("GET", "held", timeout_s=0.02)
        except UnreachableError as error:
            return str(error)
        return ""

    assert run(operation())[1] == f"{served.url}: no data was received in time"


def test_updates_are_passed_on_as_they_come(served: Served) -> None:
    def operation() -> Operation[None]:
        for text in ("one", "two"):
            yield Report(Notice(text))

    async def collected() -> list[object]:
        transport = AsyncTransport(Connection(served.url))
        found: list[object] = [each async for each in transport.updates(operation())]
        await transport.close()
        return found

    transport = BlockingTransport(Connection(served.url))
    assert list(transport.updates(operation())) == [Notice("one"), Notice("two")]
    transport.close()
    assert asyncio.run(collected()) == [Notice("one"), Notice("two")]
    with pytest.raises(RuntimeError, match="closed"):
        transport.run(iter_call())


def iter_call() -> Operation[None]:
    yield Call("GET", "plain")
