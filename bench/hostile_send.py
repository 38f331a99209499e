"""Send one attack to a server, in a process of its own with a lower priority.

    python bench/hostile_send.py NAME PORT SERVER_PID

An attack is a generator: up to its first `yield` it makes its files and models. Then this process
prints a line, waits for a line on its standard input, goes on with the attack, and prints what came
of its requests as a line of JSON.

Does not know: what is allowed as a result.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

HOST: Final = "127.0.0.1"
#: Address that all attacks come from.
SOURCE: Final = "127.0.0.66"
#: Time until a request without a reply counts as one that did not end.
PATIENCE_S: Final = 50.0
#: No attack sends more in one request.
MAX_BYTES: Final = 5_000_000
BOUNDARY: Final = "hostile-5f1c7b"
#: Time without a byte after which a reply is complete.
QUIET_S: Final = 2.0
#: Duration of the attacks that go on and on.
LONG_S: Final = 5.0


@dataclass(slots=True)
class Outcome:
    """What came of one request.

    Attributes:
        status: of the reply; 0 if the server closed the connection without one, -1 if nothing
            came in time.
        seconds: duration.
        text: beginning of the reply, or the error.
        headers: the reply's.
        content: of the reply.
    """

    status: int
    seconds: float
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""


class Attacker:
    """Sends requests from an address of its own, and remembers what came of them.

    Args:
        port: the server's.
        pid: the server's process.
        source: address that the requests come from.
        long_s: how long an attack of many requests goes on, seconds.

    Attributes:
        outcomes: what came of the requests.
        most_bytes: maximum size of all bodies that were sent at the same time.
        patience_s: how long a request waits for each part of its reply, seconds.
    """

    def __init__(self, port: int, pid: int, source: str = SOURCE, long_s: float = LONG_S) -> None:
        self.port = port
        self.pid = pid
        self.source = source
        self.long_s = long_s
        self.outcomes: list[Outcome] = []
        self.most_bytes = 0
        self.patience_s = PATIENCE_S
        self._lock = threading.Lock()
        self._bytes = 0

    @contextlib.contextmanager
    def _sending(self, size: int) -> Generator[None]:
        assert size <= MAX_BYTES, "an attack is over 5 MB"
        with self._lock:
            self._bytes += size
            self.most_bytes = max(self.most_bytes, self._bytes)
        try:
            yield
        finally:
            with self._lock:
                self._bytes -= size

    # ---- requests --------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        is_counted: bool = True,
    ) -> Outcome:
        """Send a request; return what came of it."""
        begin = time.monotonic()
        connection = http.client.HTTPConnection(
            HOST, self.port, timeout=self.patience_s, source_address=(self.source, 0)
        )
        try:
            with contextlib.closing(connection), self._sending(len(body or b"")):
                connection.request(method, path, body, dict(headers or {}))
                outcome = _received(connection.getresponse(), begin)
        except (BrokenPipeError, ConnectionResetError):
            outcome = self._late_reply(connection, begin)
        except (OSError, http.client.HTTPException) as error:
            status = -1 if isinstance(error, TimeoutError) else 0
            outcome = Outcome(status, time.monotonic() - begin, repr(error)[:160])
        if is_counted:
            self.outcomes.append(outcome)
        return outcome

    @staticmethod
    def _late_reply(connection: http.client.HTTPConnection, begin: float) -> Outcome:
        """Return the reply of a server that stopped to read the body."""
        with contextlib.suppress(OSError, http.client.HTTPException, AttributeError):
            return _received(http.client.HTTPResponse(connection.sock), begin)
        return Outcome(0, time.monotonic() - begin, "closed while the body was sent")

    def form(
        self, path: str = "/generate", *, is_counted: bool = True, **parts: bytes | str | int
    ) -> Outcome:
        """Send a multipart form; `image` and `mesh` as files."""
        body = b"".join(
            form_part(name, value if isinstance(value, bytes) else str(value).encode())
            for name, value in parts.items()
        )
        kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        body += f"--{BOUNDARY}--\r\n".encode()
        return self.request("POST", path, body, kind, is_counted=is_counted)

    def multipart(self, parts: bytes, charset: str = "utf-8") -> Outcome:
        """Send the parts of a form to `/generate`, and its end."""
        kind = f"multipart/form-data; boundary={BOUNDARY}; charset={charset}"
        body = parts + f"--{BOUNDARY}--\r\n".encode()
        return self.request("POST", "/generate", body, {"Content-Type": kind})

    def json(self, path: str, fields: Any, headers: Mapping[str, str] | None = None) -> Outcome:
        """Send JSON, or bytes that claim to be JSON."""
        body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
        return self.request(
            "POST", path, body, {"Content-Type": "application/json", **(headers or {})}
        )

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        """Open a connection."""
        connection = socket.socket()
        connection.settimeout(self.patience_s)
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.bind((self.source, 0))
        connection.connect((HOST, self.port))
        return connection

    def raw(
        self, content: bytes, connection: socket.socket | None = None, begin: float | None = None
    ) -> Outcome:
        """Send bytes; return the reply to them.

        Args:
            content: what to send.
            connection: an open one; None for a new one.
            begin: when the request began; None for now.
        """
        begin = time.monotonic() if begin is None else begin
        received = b""
        try:
            with self._sending(len(content)), connection or self.connect() as opened:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    opened.sendall(content)
                with contextlib.suppress(ConnectionResetError):
                    while part := opened.recv(65_536):
                        received = (received + part)[:4096]
                        opened.settimeout(QUIET_S)  # it may be kept open for the next request
        except OSError as error:
            if not received:
                status = -1 if isinstance(error, TimeoutError) else 0
                return self._count(Outcome(status, time.monotonic() - begin, repr(error)[:160]))
            begin += QUIET_S
        first = received.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        status = int(first[1]) if len(first) > 1 and first[1].isdecimal() else 0
        text = received[-160:].decode("latin-1")
        return self._count(Outcome(status, time.monotonic() - begin, text))

    def _count(self, outcome: Outcome) -> Outcome:
        self.outcomes.append(outcome)
        return outcome

    def model(self, picture: bytes = b"", *, texture: bool = True, **fields: Any) -> str:
        """Generate a model that the attack needs; return its uid. No picture: a small one."""
        from bench.hostile_witness import small_picture

        picture = picture or small_picture(128)
        has_texture = str(texture).lower()
        reply = self.form(image=picture, texture=has_texture, is_counted=False, **fields)
        if reply.status != 200:
            raise SystemExit(f"no model for the attack: {reply.status} {reply.text}")
        return reply.headers["x-job-id"]

    # ---- many at a time ----------------------------------------------------------------------

    def together(self, *calls: Callable[[], object]) -> None:
        """Call all of them at the same time, and wait for them."""
        threads = [threading.Thread(target=call, daemon=True) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(self.patience_s + 10)

    def loops(self, count: int, call: Callable[[int], object]) -> None:
        """Repeat a call in that many threads for `long_s`."""
        end = time.monotonic() + self.long_s

        def run(number: int) -> None:
            while time.monotonic() < end:
                outcome = call(number)
                if isinstance(outcome, Outcome) and outcome.status in {0, -1, 429, 503}:
                    threading.Event().wait(0.05)  # a refused client that does not burn its CPU

        self.together(*(lambda k=k: run(k) for k in range(count)))


def head(path: str = "/generate", *lines: str, method: str = "POST") -> bytes:
    """Encode the head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


def form_part(name: str, value: bytes, *headers: str) -> bytes:
    """Encode one part of a form; `image` and `mesh` are files."""
    what = f'form-data; name="{name}"' + ('; filename="x"' if name in {"image", "mesh"} else "")
    lines = [f"--{BOUNDARY}", f"Content-Disposition: {what}", *headers, "", ""]
    return "\r\n".join(lines).encode() + value + b"\r\n"


def _received(reply: http.client.HTTPResponse, begin: float) -> Outcome:
    reply.begin() if reply.status is None else None  # type: ignore[func-returns-value]
    content = reply.read()
    headers = {name.lower(): value for name, value in reply.getheaders()}
    seconds = time.monotonic() - begin
    is_text = headers.get("content-type", "").startswith("application/json")
    text = content[:200].decode(errors="replace") if is_text else f"{len(content)} bytes"
    return Outcome(reply.status, seconds, text, headers, content)


def summarize(outcomes: list[Outcome]) -> dict[str, Any]:
    """Return how often each status came, the slowest request, and the last text of each."""
    texts = {outcome.status: outcome.text for outcome in outcomes}
    return {
        "statuses": dict(Counter(str(outcome.status) for outcome in outcomes)),
        "slowest_s": max((outcome.seconds for outcome in outcomes), default=0.0),
        "texts": {str(status): text for status, text in texts.items()},
        "requests": len(outcomes),
    }


def main() -> None:
    root = Path(__file__).resolve().parents[1]
    sys.path.insert(0, str(root))
    from bench.hostile_rows import ROWS
    from bench.hostile_send import Attacker

    name, port, pid, long_s = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    os.nice(5)
    attacker = Attacker(port, pid, long_s=long_s)
    attack = iter(ROWS[name].attack(attacker))
    next(attack)  # makes files, and what the attack needs of the server
    attacker.outcomes.clear()
    print("ready", flush=True)
    sys.stdin.readline()
    begin = time.monotonic()
    for _ in attack:
        pass
    figures = {"took_s": time.monotonic() - begin, "most_bytes": attacker.most_bytes}
    print(json.dumps(summarize(attacker.outcomes) | figures))
    sys.stdout.flush()
    os._exit(0)  # threads that wait for a reply are of no interest any more


if __name__ == "__main__":
    main()
