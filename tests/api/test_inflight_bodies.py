"""The budget of request bodies: its arithmetic, and a server with a small one."""

from __future__ import annotations

import base64
import gc
import io
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.hostile import error_text, post_head
from tests.support.server import ON_RAY, SMALL, Server, fields, picture, serving, settings, until
from trellis2_server.api.inflight_bodies import BodyAccount, InflightBodies
from trellis2_server.api.model_responses import model_response
from trellis2_server.api.routes import native
from trellis2_server.errors import QueueFullError, TooManyRequestsError

if TYPE_CHECKING:
    from collections.abc import Generator

    from fastapi import Response

BUDGET = 400_000
MAX_BODY = 300_000


class Budget(RuleBasedStateMachine):
    """What is used is what the open accounts hold; nobody gets more than allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies = InflightBodies(100)
        self.accounts: list[tuple[str, BodyAccount]] = []

    @rule(client=st.sampled_from("abc"))
    def open(self, client: str) -> None:
        self.accounts.append((client, self.bodies.open(client)))

    @rule(which=st.integers(0, 20), size=st.integers(0, 100))
    def reserve(self, which: int, size: int) -> None:
        if not self.accounts:
            return
        client, account = self.accounts[which % len(self.accounts)]
        before = account.held_bytes
        others = sum(a.held_bytes for c, a in self.accounts if c == client) - before
        is_over_share = bool(others) and size > before and others + size > 50
        is_full = self.bodies.used_bytes + max(0, size - before) > 100
        try:
            account.reserve(size)
        except TooManyRequestsError:
            assert is_over_share
        except QueueFullError:
            assert is_full
        else:
            assert not is_over_share
            assert not is_full
            assert account.held_bytes == max(before, size)
            return
        assert account.held_bytes == before

    @rule(which=st.integers(0, 20), size=st.integers(0, 100))
    def shrink(self, which: int, size: int) -> None:
        if self.accounts:
            self.accounts[which % len(self.accounts)][1].shrink(size)

    @rule(which=st.integers(0, 20))
    def close(self, which: int) -> None:
        if self.accounts:
            self.accounts.pop(which % len(self.accounts))[1].close()

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.bodies.used_bytes == sum(a.held_bytes for _, a in self.accounts) <= 100


test_the_budget_counts_what_open_accounts_hold = Budget.TestCase


def test_one_body_of_a_client_may_be_larger_than_its_share() -> None:
    bodies = InflightBodies(100)
    large = bodies.open("a")
    large.reserve(90)
    with pytest.raises(TooManyRequestsError, match="90 bytes of your other requests"):
        bodies.open("a").reserve(1)
    other = bodies.open("b")
    other.reserve(10)
    with pytest.raises(QueueFullError, match="100 bytes of requests are being received"):
        bodies.open("c").reserve(1)
    large.close()
    bodies.open("c").reserve(90)


# ---- a server ------------------------------------------------------------------------------------


@pytest.fixture
def engine() -> GatedEngine:
    return GatedEngine()


@pytest.fixture
def small(engine: GatedEngine) -> Generator[Server]:
    limits = {"max_body_bytes": MAX_BODY, "max_inflight_bytes": BUDGET, "api_keys": list("abc")}
    with serving(engine, settings(server=limits)) as server:
        server.wait_until_loaded()
        yield server


def head(key: str, length: int | None, kind: str = "application/json") -> bytes:
    lines = post_head(length, kind)[:-2] + b"X-API-Key: %b\r\n" % key.encode()
    return lines + (b"" if length is not None else b"Transfer-Encoding: chunked\r\n") + b"\r\n"


def connect(server: Server, *sent: bytes) -> socket.socket:
    connection = socket.create_connection(server.address, timeout=PATIENCE_S)
    for part in sent:
        connection.sendall(part)
    return connection


def used(server: Server) -> int:
    return server.app.state.bodies.used_bytes


def read_refusal(connection: socket.socket) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Read an error response, to the end of the connection."""
    content = b""
    while part := connection.recv(65_536):
        content += part
    top, _, body = content.partition(b"\r\n\r\n")
    line, *lines = top.decode().split("\r\n")
    headers = dict(each.lower().split(": ", 1) for each in lines)
    return int(line.split()[1]), json.loads(body), headers


needs_one_process = pytest.mark.skipif(ON_RAY, reason="needs the single process")


@needs_one_process
@pytest.mark.parametrize("is_chunked", [False, True])
def test_bodies_beyond_the_budget_are_refused_before_they_are_read(
    small: Server, is_chunked: object
) -> None:
    size, sent = (None, b"30d40\r\n" + b" " * 200_000) if is_chunked else (200_000, b"")
    with ExitStack() as stack:
        for key in "ab":
            stack.enter_context(connect(small, head(key, size), sent))
        until(lambda: used(small) == BUDGET, "both are counted")
        with connect(small, head("c", size), sent) as refused:
            status, body, headers = read_refusal(refused)
        assert (status, body["error_code"], headers["connection"]) == (503, 3, "close")
        assert int(headers["retry-after"]) > 0
        assert "400000 bytes of requests are being received" in body["text"]
    until(lambda: used(small) == 0, "given back")
    reply = small.client.post("/generate", json=fields(), headers={"X-API-Key": "c"})
    assert reply.is_success


@needs_one_process
def test_one_client_cannot_have_the_others_refused(small: Server) -> None:
    with connect(small, head("a", 300_000)):
        until(lambda: used(small) == 300_000, "counted")
        with connect(small, head("a", 1000)) as second:
            status, body, headers = read_refusal(second)
        assert (status, body["error_code"], headers["connection"]) == (429, 3, "close")
        assert int(headers["retry-after"]) > 0
        reply = small.client.post("/generate", json=fields(), headers={"X-API-Key": "b"})
        assert reply.is_success


@pytest.mark.costly
@needs_one_process
@pytest.mark.parametrize("kind", ["json", "form", "picture", "invalid", "not json"])
def test_the_bytes_are_given_back_while_the_request_waits_for_its_model(
    small: Server, engine: GatedEngine, kind: str
) -> None:
    def send() -> int:
        headers, image = {"X-API-Key": "a"}, picture() + bytes(100_000)
        post = small.client.post
        if kind == "json":
            return post("/generate", json=fields(x="y" * 200_000), headers=headers).status_code
        if kind == "form":
            files = {"image": ("a.png", image)}
            return post("/generate", files=files, headers=headers).status_code
        if kind == "not json":
            return post("/generate", content=b"{" * 200_000, headers=headers).status_code
        headers["Content-Type"] = "image/png"
        content = image if kind == "picture" else b"no picture" * 10_000
        return post("/generate", content=content, headers=headers).status_code

    gate = engine.gates["shape"]
    gate.clear()
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(send)
        if kind in {"invalid", "not json"}:
            assert reply.result() in {400, 413}
        else:
            engine.wait_for("shape")
            assert used(small) == 0
            gate.set()
            assert reply.result() == 200
    until(lambda: used(small) == 0, "given back")


@pytest.mark.costly
@needs_one_process
@pytest.mark.parametrize("path", ["/generate", "/generate_texture"])
@pytest.mark.parametrize("kind", ["json", "form", "base64 form", "picture"])
def test_a_waiting_request_does_not_hold_its_body(
    server: Server, engine: GatedEngine, path: str, kind: str
) -> None:
    stage = "shape" if path == "/generate" else "texture"
    engine.gates[stage].clear()
    if path == "/generate_texture":
        assert server.generate().is_success  # the picture needs a job
    with connect(server, *large_request(path, kind)) as connection:
        engine.wait_for(stage)
        until(lambda: server.waiters > 0 and not large_objects(), "it waits without its body")
        engine.open_all()
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


@needs_one_process
def test_the_bytes_are_given_back_before_a_known_model_is_sent(
    small: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    used_when_sent: list[int] = []

    def respond(*arguments: Any) -> Response:
        used_when_sent.append(used(small))
        return model_response(*arguments)

    monkeypatch.setattr(native, "model_response", respond)
    for _ in range(2):
        headers = {"X-API-Key": "a"}
        assert small.client.post("/generate", json=fields(), headers=headers).is_success
    assert used_when_sent == [0, 0]


def large_request(path: str, kind: str) -> tuple[bytes, bytes]:
    """Return the head and the body, of several megabytes."""
    image = picture() + bytes(5_000_000)
    text = base64.b64encode(image).decode()
    arguments: dict[str, dict[str, Any]] = {
        "json": {"json": {**fields(), "image": text}},
        "picture": {"content": image, "params": SMALL, "headers": {"Content-Type": "image/png"}},
        "form": {"files": {"image": ("a.png", image)}, "data": SMALL},
        "base64 form": {"files": {"image": (None, text)}, "data": SMALL},
    }
    request = httpx.Request("POST", f"http://x{path}", **arguments[kind])
    body = request.read()
    lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    return f"POST {request.url.raw_path.decode()} HTTP/1.1\r\n{lines}\r\n".encode(), body


def large_objects() -> list[str]:
    """Return the objects in the process that hold more than a megabyte of bytes or text.

    Not by `tracemalloc`, which crashes Python 3.11 when it is stopped while threads allocate.
    """
    gc.collect()
    found: list[str] = []
    for holder in gc.get_objects():
        size = holder.getbuffer().nbytes if type(holder) is io.BytesIO else 0
        held = [
            len(each)
            for each in gc.get_referents(holder)
            if type(each) in {bytes, bytearray, str} and len(each) > 1_000_000
        ]
        if held or size > 1_000_000:
            found.append(f"{type(holder).__name__}: {held or size}")
    return found


def test_the_budget_must_hold_a_body() -> None:
    with pytest.raises(ValueError, match=r"should be at least server\.max_body_bytes"):
        settings(server={"max_inflight_bytes": 2**20})
    settings(server={"max_inflight_bytes": 2**27})
    assert settings(server={"max_body_bytes": 2**31}).server.body_budget == 2**33


def test_long_queries_are_refused(server: Server) -> None:
    for query in ("a" * 8_193, "a&" * 200):
        error_text(server.client.get(f"/jobs?{query}"), 414)
    assert server.client.get("/jobs?" + "a&" * 199).is_success
