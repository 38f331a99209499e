"""Hostile requests: forms, JSON and HTTP that cost much more to parse than to send.

Each function is an attack: it gets an `Attacker`, prepares up to its `yield`, and goes on when the
good client is there. Everything that it sends is under 5 MB.

Does not know: what is allowed as a result.
"""

from __future__ import annotations

import base64
import contextlib
import json
import random
import select
import threading
import time
from typing import TYPE_CHECKING, Final

from bench.hostile_send import BOUNDARY, PATIENCE_S, Attacker, form_part, head
from bench.hostile_witness import small_picture

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

_MEGABYTE: Final = 1_000_000


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)


# ---- forms ---------------------------------------------------------------------------------


def _fields_in(attacker: Attacker, charset: str, value: bytes) -> None:
    """Send a text field in a charset that the part names, and one that the form names."""
    part = form_part("seed", value, f"Content-Type: text/plain; charset={charset}")
    attacker.multipart(form_part("image", small_picture()) + part)
    attacker.multipart(form_part("image", small_picture()) + form_part("seed", value), charset)


def punycode_field(attacker: Attacker) -> Iterator[None]:
    """A text field in a charset whose decoder is quadratic."""
    letters = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=400_000))  # noqa: S311
    yield
    _fields_in(attacker, "punycode", letters.encode())


def odd_charsets(attacker: Attacker) -> Iterator[None]:
    """Text fields in other codecs that Python knows."""
    yield
    for charset in (
        "idna",
        "unicode_escape",
        "utf-7",
        "bz2",
        "zlib",
        "rot13",
        "raw_unicode_escape",
    ):
        _fields_in(attacker, charset, b"xn--a." * 60_000)


def many_parts(attacker: Attacker) -> Iterator[None]:
    """A form of forty thousand fields."""
    yield
    attacker.multipart(b"".join(form_part(f"f{k}", b"1") for k in range(40_000)))


def part_header_flood(attacker: Attacker) -> Iterator[None]:
    """A part with megabytes of headers, and one with a header of megabytes."""
    yield
    attacker.multipart(form_part("seed", b"1", *(f"X-{k}: y" for k in range(300_000))))
    attacker.multipart(form_part("seed", b"1", "X: " + "y" * 4 * _MEGABYTE))


def near_boundaries(attacker: Attacker) -> Iterator[None]:
    """A file that consists of boundaries that lack their last letter."""
    yield
    near = f"\r\n--{BOUNDARY[:-1]}".encode()
    attacker.form(image=near * (4 * _MEGABYTE // len(near)))


# ---- JSON ----------------------------------------------------------------------------------


def json_nested(attacker: Attacker) -> Iterator[None]:
    """JSON as deep as it is long, under and over the limit of its size."""
    yield
    for size in (60_000, 120_000, 4 * _MEGABYTE):
        attacker.json("/generate", b'{"seed":' + b"[" * size)
        attacker.json("/generate", b'{"a":' * (size // 5) + b"1" + b"}" * (size // 5))


def json_long_numbers(attacker: Attacker) -> Iterator[None]:
    """Numbers of a hundred thousand digits, as integer, fraction and exponent."""
    yield
    for number in ("1" * 120_000, "0." + "1" * 120_000, "1e" + "1" * 120_000, "-" + "9" * 4000):
        attacker.json("/generate", b'{"seed":%s}' % number.encode())


def json_escaped_quotes(attacker: Attacker) -> Iterator[None]:
    """A picture in base64 that is all escaped quotes, or all escaped letters."""
    yield
    for each in (b'\\"', b"\\u0041", b"\\\\", b"\\/"):
        attacker.json("/generate", b'{"image":"' + each * (4 * _MEGABYTE // len(each)) + b'"}')


def json_many_keys(attacker: Attacker) -> Iterator[None]:
    """A hundred thousand bytes of keys, and a picture again and again."""
    yield
    attacker.json("/generate", json.dumps(dict.fromkeys(map(str, range(9000)), 1)).encode())
    image = base64.b64encode(bytes(30_000))
    attacker.json("/generate", b"{" + b'"image":"%s",' % image * 100 + b'"seed":1}')


def base64_odd(attacker: Attacker) -> Iterator[None]:
    """Four megabytes that are spaces, padding, or base64 with an error at the end."""
    yield
    for text in (
        "=" * 4 * _MEGABYTE,
        " " * 4 * _MEGABYTE,
        "A" * 4 * _MEGABYTE + "*",
        "data:" * 800_000,
    ):
        attacker.json("/generate", {"image": text})


def query_flood(attacker: Attacker) -> Iterator[None]:
    """A picture with a query of many fields."""
    yield
    query = "&".join(f"a{k}=%41" for k in range(3000))
    attacker.request("POST", f"/generate?{query}", small_picture(), {"Content-Type": "image/png"})


# ---- HTTP ----------------------------------------------------------------------------------


def header_flood(attacker: Attacker) -> Iterator[None]:
    """Heads of five hundred headers, and heads over the limit."""
    yield
    small = [f"X-{k}: {k}" for k in range(500)]
    for _ in range(100):
        attacker.raw(head("/healthcheck", *small, "Connection: close", method="GET"))
    attacker.raw(head("/healthcheck", "X: " + "y" * _MEGABYTE, method="GET"))


def pipelined(attacker: Attacker) -> Iterator[None]:
    """Ten thousand requests in one go."""
    yield
    attacker.raw(head("/healthcheck", method="GET") * 10_000 + b"\0\r\n\r\n")


def two_lengths(attacker: Attacker) -> Iterator[None]:
    """Heads that leave open where the request ends (RFC 9112 6.1)."""
    yield
    tail = b"0\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    for lines in (
        ("Content-Length: 4", "Transfer-Encoding: chunked"),
        ("Content-Length: 4", "Content-Length: 40"),
        ("Transfer-Encoding: xchunked",),
        ("Content-Length: +4",),
        ("Content-Length: 9" + "9" * 40,),
    ):
        attacker.raw(head("/generate", *lines) + tail)


def chunks_of_one_byte(attacker: Attacker) -> Iterator[None]:
    """A body in chunks of one byte, with a long extension each."""
    yield
    for each in (b"1\r\nA\r\n", b"1;" + b"x" * 60 + b"\r\nA\r\n"):
        begin = head("/generate", "Content-Type: image/png", "Transfer-Encoding: chunked")
        attacker.raw(begin + each * (4 * _MEGABYTE // len(each)) + b"0\r\n\r\n")


def slow_heads(attacker: Attacker) -> Iterator[None]:
    """A hundred and fifty heads, one letter a second."""
    yield
    _trickle(attacker, 150, b"GET /health", b"x")


def slow_bodies(attacker: Attacker) -> Iterator[None]:
    """A hundred and fifty bodies, one byte a second."""
    yield
    _trickle(attacker, 150, head("/generate", "Content-Length: 100000"), b"{")


def slow_chunks(attacker: Attacker) -> Iterator[None]:
    """A hundred and fifty bodies, one chunk of a byte a second."""
    begin = head("/generate", "Content-Type: image/png", "Transfer-Encoding: chunked")
    yield
    _trickle(attacker, 150, begin, b"1\r\nA\r\n")


def _trickle(attacker: Attacker, count: int, first: bytes, then: bytes) -> None:
    """Send `first`, and `then` each second until something comes back."""

    def run() -> None:
        begin = time.monotonic()
        connection = attacker.connect()
        with contextlib.suppress(OSError):
            connection.sendall(first)
            while time.monotonic() - begin < PATIENCE_S:
                if select.select([connection], [], [], 1.0)[0]:
                    break
                connection.sendall(then)
        attacker.raw(b"", connection, begin)

    attacker.together(*[run] * count)


def silent_bodies(attacker: Attacker) -> Iterator[None]:
    """Sixty bodies of 4 MB that stop one byte before their end, with a long credit of time."""
    body = bytes(4 * _MEGABYTE - 1)

    yield

    def run() -> None:
        begin = head("/generate", "Content-Type: image/png", f"Content-Length: {len(body) + 1}")
        attacker.raw(begin + body)

    attacker.together(*[run] * 60)


def many_connections(attacker: Attacker) -> Iterator[None]:
    """Eight hundred connections that say nothing."""
    yield
    opened: list[socket.socket] = []
    for _ in range(800):
        with contextlib.suppress(OSError):
            opened.append(attacker.connect())
    _pause(attacker.long_s)
    attacker.raw(head("/health", "Connection: close", method="GET"))
    for connection in opened:
        connection.close()


def connection_storm(attacker: Attacker) -> Iterator[None]:
    """Connections that are opened and reset."""
    yield

    def run(_: int) -> None:
        with contextlib.suppress(OSError):
            connection = attacker.connect()
            connection.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER of 0 s: RST
            connection.sendall(b"GET / HT")
            connection.close()

    attacker.loops(8, run)
    attacker.request("GET", "/health")


def odd_methods(attacker: Attacker) -> Iterator[None]:
    """Methods that routes do not have, and an upgrade."""
    yield
    for method in ("OPTIONS", "TRACE", "CONNECT", "PROPFIND", "PUT", "PATCH"):
        for path in ("/generate", "/jobs/x", "/*"):
            attacker.raw(head(path, "Connection: close", method=method))
    attacker.raw(head("/generate", "Connection: Upgrade", "Upgrade: websocket", method="GET"))


def forwarded_addresses(attacker: Attacker) -> Iterator[None]:
    """Two thousand requests that each claim to come from another address."""
    attacker.source = "127.0.0.1"  # of a proxy on the same machine
    yield
    for k in range(2000):
        address = f"10.{k % 256}.{k // 256}.7"
        attacker.json("/generate", b"{}", {"X-Forwarded-For": address})
