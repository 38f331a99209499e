"""A good client, and one that asks `/healthcheck`: each a process beside an attack.

    python hostile_witness.py good PORT
    python hostile_witness.py texture PORT
    python hostile_witness.py health PORT

The good client posts one small picture after the other, each with another seed; with `texture` it
asks `/generate_texture` for one finished model by its picture. It first does so a few times by
itself. `health` asks every 20 ms. A line says when they have begun; when the standard input ends,
a line of JSON has the results. Only the standard library: they run beside what they measure.

Does not know: what the server does meanwhile.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import struct
import sys
import threading
import time
import zlib
from typing import Any, Final

HOST: Final = "127.0.0.1"
#: Addresses of the witnesses; the attacks come from another one.
SOURCE: Final = {"good": "127.0.0.2", "texture": "127.0.0.2", "health": "127.0.0.3"}
ALONE: Final = 4
PATIENCE_S: Final = 40.0


def small_picture(size_px: int = 96) -> bytes:
    """Return a PNG of a red square on transparency."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    inside = range(size_px // 6, size_px - size_px // 5)
    rows = b"".join(
        b"\0"
        + b"".join(
            b"\xc8\x50\x28\xff" if x in inside and y in inside else bytes(4) for x in range(size_px)
        )
        for y in range(size_px)
    )
    header = struct.pack(">IIBBBBB", size_px, size_px, 8, 6, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


class Witness:
    """A connection that is opened again after each failure."""

    def __init__(self, port: int, source: str) -> None:
        self._port, self._source = port, source
        self._connection: http.client.HTTPConnection | None = None

    def ask(
        self, method: str, path: str, fields: dict[str, Any] | None = None
    ) -> tuple[int, float, bytes]:
        """Return the status, 0 without a reply; the seconds; and the content."""
        begin = time.perf_counter()
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(
                    HOST, self._port, timeout=PATIENCE_S, source_address=(self._source, 0)
                )
            body = None if fields is None else json.dumps(fields)
            self._connection.request(method, path, body, {"Content-Type": "application/json"})
            reply = self._connection.getresponse()
            content = reply.read()
        except (OSError, http.client.HTTPException) as error:
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            return 0, time.perf_counter() - begin, repr(error).encode()
        return reply.status, time.perf_counter() - begin, content


def good(port: int, kind: str, is_over: threading.Event) -> dict[str, Any]:
    """Ask for models; return durations in seconds, and what was no success."""
    witness = Witness(port, SOURCE[kind])
    picture = base64.b64encode(small_picture()).decode()
    seed = time.monotonic_ns() % 1_000_000_000
    bad: list[str] = []

    def ask() -> float:
        nonlocal seed
        seed += kind == "good"
        path = "/generate" if kind == "good" else "/generate_texture"
        fields: dict[str, Any] = {"image": picture}
        fields |= {"seed": seed, "texture": False} if kind == "good" else {}
        status, seconds, content = witness.ask("POST", path, fields)
        if status != 200 or content[:4] != b"glTF":
            bad.append(f"{status} {content[:160].decode(errors='replace')}")
        return seconds

    if kind == "texture":
        witness.ask("POST", "/generate", {"image": picture, "texture": True})
    alone = [ask() for _ in range(ALONE)]
    began(time.perf_counter())
    beside: list[float] = []
    while not is_over.is_set():
        beside.append(ask())
        is_over.wait(0.02)
    return {"alone_s": alone, "beside_s": beside, "bad": bad[:20], "bad_count": len(bad)}


def health(port: int, is_over: threading.Event) -> dict[str, Any]:
    """Ask `/healthcheck`; return durations, and how late this process itself was, seconds."""
    witness = Witness(port, SOURCE["health"])
    taken: list[float] = []
    late: list[float] = []
    bad: list[str] = []
    witness.ask("GET", "/healthcheck")
    began(time.perf_counter())
    while True:
        due = time.perf_counter() + 0.02
        if is_over.wait(0.02):
            break
        late.append(time.perf_counter() - due)
        status, seconds, content = witness.ask("GET", "/healthcheck")
        taken.append(seconds)
        if status != 200:
            bad.append(f"{status} {content[:160].decode(errors='replace')}")
            is_over.wait(0.2)
    return {"health_s": taken, "late_s": late, "bad": bad[:20], "bad_count": len(bad)}


def began(at: float) -> None:
    print(json.dumps({"began": at}), flush=True)


def main() -> None:
    kind, port = sys.argv[1], int(sys.argv[2])
    is_over = threading.Event()

    def read() -> None:
        with contextlib.suppress(OSError):
            sys.stdin.read()
        is_over.set()

    threading.Thread(target=read, daemon=True).start()
    print(json.dumps(health(port, is_over) if kind == "health" else good(port, kind, is_over)))


if __name__ == "__main__":
    main()
