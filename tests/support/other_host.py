"""A host that the server calls: records requests, and replies what a test says, well or badly."""

from __future__ import annotations

import json
import queue
import socket
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support.engines import PATIENCE_S

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Generator, Iterable

    Answer = Callable[["Received"], Iterable[bytes]]


@dataclass(frozen=True)
class Received:
    """A request that the host has received.

    Attributes:
        line: method, target and version.
        headers: by their names in lower case.
        body: the content.
    """

    line: str
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""

    @property
    def target(self) -> str:
        return self.line.split(" ")[1]

    def json(self) -> Any:
        return json.loads(self.body)


def reply(body: bytes | str = b"", status: int = 200, **headers: str) -> bytes:
    """A whole reply; underscores in names of headers stand for hyphens."""
    content = body.encode() if isinstance(body, str) else body
    fields = {"Content-Length": str(len(content)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + content


class OtherHost:
    """A host, on a thread for each connection.

    Args:
        answer: yields the parts of a reply.
        address: where it listens.
        tls: of a host that speaks TLS.

    Attributes:
        received: the requests.
        is_over: set when the test is: answers that never end wait for it.
        connections: number of connections, those without a request too.
    """

    def __init__(
        self, answer: Answer, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> None:
        self._answer = answer
        self._tls = tls
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.bind((address, 0))
        self._socket.listen(64)
        self.port: int = self._socket.getsockname()[1]
        self.received: queue.Queue[Received] = queue.Queue()
        self.is_over = threading.Event()
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def entry(self) -> str:
        """The host as an entry of a list of hosts."""
        return f"127.0.0.1:{self.port}"

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def next(self) -> Received:
        """Wait for the next request that no test has taken."""
        return self.received.get(timeout=PATIENCE_S)

    def close(self) -> None:
        self.is_over.set()
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.settimeout(PATIENCE_S)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            request = _read(connection)
            self.received.put(request)
            for part in self._answer(request):
                connection.sendall(part)
            connection.close()


def _read(connection: socket.socket) -> Received:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65_536)
        if not chunk or chunk.startswith(b"\x16"):
            raise OSError("closed, or TLS")
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += connection.recv(65_536)
    return Received(first, headers, body)


@contextmanager
def other_host(
    answer: Answer, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Generator[OtherHost]:
    """A host that replies as `answer` says; it ends with the context."""
    host = OtherHost(answer, address, tls)
    try:
        yield host
    finally:
        host.close()
