"""One client of the soak test: what it sends, and which replies it allows."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import random
import socket
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bench.server import (
    HOST,
    Server,
    draw_picture,
    png,
)

if TYPE_CHECKING:
    from collections.abc import Callable


KEYS: Final = ("soak-key-one-5c1d", "soak-key-two-90ef")


#: Longest time until the reply to a correct request, seconds.
PATIENCE_S: Final = 240.0
#: Longest time until the server closes the connection of a faulty client, seconds.
SHORT_S: Final = 30.0


class Reply(NamedTuple):
    """Reply of the server."""

    status: int
    headers: dict[str, str]
    content: bytes


class UnexplainedError(Exception):
    """A reply that is not allowed for its request."""


class Client:
    """A client that behaves correctly or incorrectly at random.

    Args:
        server: the server.
        number: number of the client, which determines its seed, key and pictures.
        routes: routes that the server has.

    Attributes:
        explained: number of errors that are allowed for their requests, by status.
    """

    def __init__(self, server: Server, number: int, routes: set[str]) -> None:
        self.server = server
        self.random = random.Random(number)  # noqa: S311 - no secret
        self.key = KEYS[number % len(KEYS)]
        self.routes = routes
        self.explained: Counter[str] = Counter()
        self.pictures = [
            base64.b64encode(png(draw_picture(number % 4 * 10 + k, 128))).decode() for k in range(4)
        ]

    # ---- requests ---------------------------------------------------------------------

    def request(  # noqa: PLR0913, PLR0917 - parts of a request
        self,
        method: str,
        path: str,
        body: Any = None,
        allowed: tuple[int, ...] = (200,),
        headers: dict[str, str] | None = None,
        key: str | None = "",
    ) -> Reply:
        sent = {"X-Request-Id": f"soak-{self.random.randrange(10**9)}", **(headers or {})}
        if key is not None:
            sent["X-API-Key"] = key or self.key
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection = http.client.HTTPConnection(HOST, self.server.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            try:
                connection.request(method, path, content, sent)
                response = connection.getresponse()
                received = {name.lower(): value for name, value in response.getheaders()}
                reply = Reply(response.status, received, response.read())
            except TimeoutError as error:
                raise UnexplainedError(
                    f"{method} {path}: no reply in {PATIENCE_S:.0f} s"
                ) from error
        self.check(f"{method} {path}", reply, allowed, sent["X-Request-Id"])
        if reply.status >= 400:
            self.explained[str(reply.status)] += 1
        return reply

    @staticmethod
    def check(request: str, reply: Reply, allowed: tuple[int, ...], request_id: str) -> None:
        text = f"{request}: {reply.status} {reply.content[:200]!r}"
        if reply.status not in allowed:
            raise UnexplainedError(text)
        if reply.headers.get("x-request-id") != request_id:
            raise UnexplainedError(f"{text}: wrong request id")
        if reply.status >= 400 and set(json.loads(reply.content)) != {"text", "error_code"}:
            raise UnexplainedError(f"{text}: not an error object")
        if reply.status in {429, 503} and int(reply.headers["retry-after"]) <= 0:
            raise UnexplainedError(f"{text}: no Retry-After")

    def fields(self, **more: Any) -> dict[str, Any]:
        seed = self.random.choice((1, 2, self.random.randrange(10**6)))
        return {"image": self.random.choice(self.pictures), "seed": seed, **more}

    @contextlib.contextmanager
    def raw_connection(self, content: bytes) -> Any:
        with socket.create_connection((HOST, self.server.port), timeout=SHORT_S) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(content)
            yield connection

    def head(self, length: int) -> bytes:
        return (
            f"POST /generate HTTP/1.1\r\nHost: x\r\nX-API-Key: {self.key}\r\n"
            f"Content-Length: {length}\r\n\r\n"
        ).encode()

    # ---- correct behaviour -----------------------------------------------------------------

    def shape(self) -> None:
        # 409: another client with the same key has cancelled the same job.
        reply = self.request("POST", "/generate", self.fields(), (200, 409, 503))
        if reply.status == 200 and reply.content[:4] != b"glTF":
            raise UnexplainedError("/generate: not a GLB")

    def textured(self) -> None:
        reply = self.request("POST", "/generate", self.fields(texture=True), (200, 409, 503))
        if reply.status != 200:
            return
        if reply.content[:4] != b"glTF":
            raise UnexplainedError("/generate: not a GLB")
        uid = reply.headers["x-job-id"]
        again = self.request("POST", "/generate_texture", {"uid": uid}, (200, 404, 409))
        if again.status == 200 and again.content != reply.content:
            raise UnexplainedError("/generate_texture: different bytes")
        if "/jobs/{name}/{file_name}" in self.routes:
            part = self.request(
                "GET",
                f"/jobs/{uid}/textured.glb",
                allowed=(206, 404, 416),
                headers={"Range": f"bytes={self.random.randrange(2000)}-"},
            )
            if part.status == 206 and not reply.content.endswith(part.content):
                raise UnexplainedError("a range is not part of its file")
        if "/jobs/{name}/export" in self.routes:
            # 404: the snapshot of its geometry was deleted.
            body = {"decimation_target": 1000, "texture": self.random.random() < 0.5}
            out = self.request("POST", f"/jobs/{uid}/export", body, (200, 404, 409, 503))
            if out.status == 200 and out.content[:4] != b"glTF":
                raise UnexplainedError("/export: not a GLB")

    def converted(self) -> None:
        kind = self.random.choice(("obj", "ply", "stl", "obj_zip"))
        self.request("POST", "/generate", self.fields(type=kind), (200, 409, 503))

    def asynchronous(self) -> None:
        sent = self.request("POST", "/send", self.fields(texture=True), (200, 503))
        if sent.status != 200:
            return
        self.follow(json.loads(sent.content)["uid"], ("completed", "error"))

    def follow(self, uid: str, ends: tuple[str, ...]) -> None:
        end, pause = time.monotonic() + 120, threading.Event()
        while time.monotonic() < end:
            reply = self.request("GET", f"/status/{uid}", allowed=(200, 404))
            status = json.loads(reply.content).get("status")  # None: the job was deleted
            if reply.status == 404 or status in ends:
                return
            if status not in {"processing", "texturing"}:
                raise UnexplainedError(f"/status of a job of /send: {status}")
            pause.wait(0.2)
        raise UnexplainedError("/status: the job does not end")

    def events(self) -> None:
        sent = self.request("POST", "/send", self.fields(texture=True), (200, 503))
        if sent.status != 200:
            return
        uid = json.loads(sent.content)["uid"]
        connection = http.client.HTTPConnection(HOST, self.server.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request("GET", f"/events/{uid}", headers={"X-API-Key": self.key})
            reply = connection.getresponse()
            if reply.status != 200:
                raise UnexplainedError(f"/events: {reply.status} {reply.read()[:200]!r}")
            if self.random.random() < 0.3:
                reply.readline()
                return
            if b"event: end" not in reply.read():
                raise UnexplainedError("/events: closed without an end event")

    def cancel(self) -> None:
        sent = self.request("POST", "/send", self.fields(texture=True, seed=-1), (200, 503))
        if sent.status == 200:
            uid = json.loads(sent.content)["uid"]
            threading.Event().wait(self.random.random() * 0.3)
            self.request("DELETE", f"/jobs/{uid}", allowed=(204, 404))
            self.request("GET", f"/status/{uid}", allowed=(200, 404))

    def read(self) -> None:
        self.request("GET", "/worker_status")
        self.request("GET", "/healthcheck")
        self.request("GET", "/metrics")
        self.request("GET", "/status/" + "0" * 32, allowed=(404,))
        if "/jobs" in self.routes:
            listed = json.loads(self.request("GET", "/jobs?limit=5").content)
            if len(listed["jobs"]) > 5:
                raise UnexplainedError("/jobs: more jobs than requested")

    # ---- faulty behaviour ------------------------------------------------------------------

    def garbage(self) -> None:
        for body in (
            self.random.randbytes(self.random.randrange(5000)),
            b"{" * self.random.randrange(60_000),
            json.dumps({**self.fields(), "seed": "x"}).encode(),
            json.dumps({"image": base64.b64encode(self.random.randbytes(999)).decode()}).encode(),
            json.dumps(self.fields()).encode()[:-20],
        ):
            self.request("POST", "/generate", body, (400, 413))
        headers = {"Content-Type": "image/png"}
        # /send replies before it reads the picture.
        sent = self.request("POST", "/send", self.random.randbytes(3000), (200, 503), headers)
        if sent.status == 200:
            self.follow(json.loads(sent.content)["uid"], ("error",))

    def too_large(self) -> None:
        # The server replies before the end of the body, and may have closed the connection.
        with contextlib.suppress(ConnectionError):
            self.request("POST", "/generate", bytes(2_100_000), (413,))

    def wrong_key(self) -> None:
        wrong = self.random.choice((None, "wrong", self.key[:-1], "é"))
        for method, path in (("POST", "/generate"), ("GET", "/metrics"), ("GET", "/docs")):
            self.request(method, path, b"{}", (401,), key=wrong)
        self.request("GET", "/healthcheck", key=None)

    def slow(self) -> None:
        sent = self.random.choice((b"", b"GET / HT", self.head(1000), self.head(1000) + b"{"))
        with self.raw_connection(sent) as connection, contextlib.suppress(ConnectionResetError):
            while connection.recv(4096):
                pass  # a timeout is an error: the server did not close the connection

    def disconnect(self) -> None:
        body = json.dumps(self.fields(texture=True)).encode()
        cut = self.random.choice((0, len(body) // 2, len(body)))
        with self.raw_connection(self.head(len(body)) + body[:cut]):
            threading.Event().wait(self.random.random() * 0.2)

    def junk(self) -> None:
        good = f"GET /healthcheck HTTP/1.1\r\nHost: x\r\nX-API-Key: {self.key}\r\n\r\n".encode()
        with self.raw_connection(
            good * 3 + b"\x00" + self.random.randbytes(50) + b"\r\n\r\n"
        ) as connection:
            content = b""
            with contextlib.suppress(ConnectionResetError):
                while part := connection.recv(65_536):
                    content += part
        if content and not content.startswith(b"HTTP/1.1 200 "):
            raise UnexplainedError(f"pipelined: {content[:100]!r}")

    # ---- all kinds -------------------------------------------------------------------------

    def behaviours(self) -> list[Callable[[], None]]:
        known = [self.shape, self.textured, self.converted, self.asynchronous, self.read]
        known += [
            self.garbage,
            self.too_large,
            self.wrong_key,
            self.slow,
            self.disconnect,
            self.junk,
        ]
        known += [self.shape, self.asynchronous]  # most clients are correct
        known += [self.events] * ("/events/{name}" in self.routes)
        known += [self.cancel] * ("/jobs/{name}" in self.routes)
        return known
