"""Requests above the limits, odd paths, and clients that disconnect early."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.support.hostile import MAX_BODY_BYTES, assert_usable, error_text, exchange, post_head
from tests.support.server import SMALL, Server, fields, picture, until

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Generator

    from tests.support.engines import GatedEngine


@pytest.mark.parametrize("path", ["/generate", "/generate_texture"])
@pytest.mark.parametrize(
    "kind", ["application/json", "image/png", "multipart/form-data; boundary=x"]
)
def test_a_body_above_the_limit_is_rejected(limited: Server, path: str, kind: str) -> None:
    start = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    content = (start if "multi" in kind else b"") + b" " * (MAX_BODY_BYTES + 1)

    def parts() -> Generator[bytes]:
        yield from (content[at : at + 10_000] for at in range(0, len(content), 10_000))

    for body in (content, parts()):  # with a length, and chunked
        reply = limited.client.post(path, content=body, headers={"content-type": kind})
        assert str(MAX_BODY_BYTES) in error_text(reply, 413, 6)
    assert_usable(limited)


def test_a_large_body_below_the_limit_is_accepted(server: Server) -> None:
    assert server.generate(fields(padding="x" * 20_000_000)).is_success
    raw = picture() + bytes(20_000_000)  # data after the end of a PNG is ignored
    post, kind = server.client.post, {"content-type": "image/png"}
    assert post("/generate", content=raw, params=SMALL, headers=kind).is_success
    assert post("/generate", files={"image": ("a.png", raw)}, data=SMALL).is_success


def test_a_body_above_the_limit_is_rejected_before_it_is_read(limited: Server) -> None:
    response = exchange(
        limited, post_head(10**15), b"{", then=lambda connection: connection.recv(4096)
    )
    assert response.startswith(b"HTTP/1.1 413 ")
    assert_usable(limited)


@pytest.mark.parametrize("length", ["-1", "x", "9" * 400, "1, 2", "0x10"])
def test_an_invalid_content_length_is_rejected(limited: Server, length: str) -> None:
    response = exchange(
        limited, post_head(length), b"{}", then=lambda connection: connection.recv(4096)
    )
    assert response[9:12] in {b"400", b"413"}
    assert_usable(limited)


@pytest.mark.parametrize(
    "sent",
    [
        [b""],
        [b"POST /gen"],
        [b"\x16\x03\x01\x02\x00\x01"],
        [post_head(100)],
        [post_head(100), b'{"image": "'],
        [post_head(100, "image/png"), picture()[:20]],
        [
            post_head(1000, "multipart/form-data; boundary=x"),
            b"--x\r\nContent-Disposition: form-da",
        ],
        [post_head(100, path="/generate_texture"), b'{"image": "'],
    ],
    ids=["at once", "in the line", "tls", "no body", "json", "png", "form", "texture"],
)
def test_a_client_that_disconnects_while_sending_does_no_harm(
    limited: Server, sent: list[bytes]
) -> None:
    exchange(limited, *sent, then=lambda _: None)
    assert_usable(limited)


@pytest.mark.parametrize("stage", ["shape", "texture"])
@pytest.mark.parametrize("path", ["/generate", "/generate_texture"])
def test_a_client_that_disconnects_while_waiting_does_no_harm(
    server: Server, engine: GatedEngine, stage: str, path: str
) -> None:
    held = engine.hold(stage, 1)
    if path == "/generate":
        body = json.dumps(fields(texture=True)).encode()
    else:
        with ThreadPoolExecutor() as pool:
            if stage == "texture":
                server.generate()
            else:
                pool.submit(server.client.post, "/generate", json=fields())
                engine.wait_for("shape")
            until(lambda: len(server.manager.registry) == 1, "a job")
            [job] = server.manager.registry
            body = json.dumps({"uid": job.uid}).encode()
            send_and_disconnect(server, path, body)
            held.set()
        assert server.texture(uid=job.uid).is_success
        return
    send_and_disconnect(server, path, body, lambda: engine.wait_for(stage))
    held.set()
    # The job continues: a further request finds it.
    reply = server.generate(fields(texture=True))
    assert reply.is_success
    assert engine.calls.count(("shape", 1)) == 1


def send_and_disconnect(
    server: Server, path: str, body: bytes, wait: Callable[[], object] | None = None
) -> None:
    def wait_until_it_waits(_: socket.socket) -> None:
        if wait:
            wait()
        until(lambda: server.waiters, "a waiting client")

    exchange(server, post_head(len(body), path=path), body, then=wait_until_it_waits)
    until(
        lambda: path != "/generate" or not server.waiters,
        "no waiting client",
    )


def test_a_client_that_disconnects_while_receiving_does_no_harm(limited: Server) -> None:
    body = json.dumps(fields()).encode()
    exchange(limited, post_head(len(body)), body, then=lambda connection: connection.recv(10))
    assert_usable(limited)


@pytest.mark.parametrize(
    "path",
    ["/status/" + "\x00", "/status/a%00b", "/status//", "/..//..", "/status/%ff%fe", "/%2e%2e/x"],
)
def test_an_odd_path_is_not_found(limited: Server, path: str) -> None:
    response = exchange(
        limited,
        f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode("latin-1"),
        then=lambda connection: connection.recv(4096),
    )
    assert response[9:12] in {b"400", b"404"}
