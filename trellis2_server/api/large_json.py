"""JSON whose long strings are left where they are: what is parsed stays small.

Python parses JSON in one piece, in which no other thread runs: a body of some ten megabytes
would hold up the event loop for seconds. Nearly all of a large body is one string, a file's
base64. It is found by looking for quotation marks, and only the rest is parsed.

What this module does not know: what the fields mean, base64.
"""

from __future__ import annotations

import json
import secrets
from typing import Any, Final

from trellis2_server.errors import TooLargeError

#: Strings from here on are not parsed, bytes.
LONG_BYTES: Final = 16_384
#: What is left without the long strings, bytes; it takes some 10 ms.
MAX_REST_BYTES: Final = 131_072
#: Escaped quotation marks in strings, each of which takes a look.
MAX_ESCAPED_QUOTES: Final = 65_536
#: Bytes that are looked through in one go, in well under a millisecond.
_STRIDE: Final = 1_048_576
#: Of a long string that is a field's value: what an error can show of it.
_SHOWN_BYTES: Final = 80


def parse(content: bytes) -> tuple[Any, dict[str, memoryview]]:
    """What JSON says, and the long strings among an object's values, as they are written.

    The long ones' values are cut short in what is returned first; the inside of the strings,
    with their escapes, comes second, by the object's keys.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
        TooLargeError: it is large apart from its long strings.
    """
    rest, spans = _take_out(content)
    value: Any = json.loads(rest)
    long: dict[str, memoryview] = {}
    if isinstance(value, dict):
        for key, text in value.items():
            if isinstance(text, str) and text in spans:
                begin, end = spans[text]
                long[key] = memoryview(content)[begin:end]
                value[key] = f"{content[begin : begin + _SHOWN_BYTES].decode(errors='replace')}…"
    return value, long


def _take_out(content: bytes) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """The JSON with a name in the place of each long string, and where these are."""
    token = secrets.token_hex(8)  # no client knows it beforehand
    spans: dict[str, tuple[int, int]] = {}
    parts: list[bytes] = []
    copied = at = size = escaped_quotes = 0
    while True:
        begin = content.find(b'"', at, at + MAX_REST_BYTES + 1) + 1
        size += (begin or min(len(content), at + MAX_REST_BYTES + 1)) - at
        if not begin or size > MAX_REST_BYTES:
            break
        end, escaped = _end_of_string(content, begin, MAX_ESCAPED_QUOTES - escaped_quotes)
        escaped_quotes += escaped
        if end == len(content):
            raise json.JSONDecodeError("Unterminated string", "", begin)
        if end - begin >= LONG_BYTES:
            name = f"{token}-{len(spans)}"
            spans[name] = (begin, end)
            parts += (content[copied:begin], name.encode())
            copied = end
        else:
            size += end - begin
        at = end + 1
    if size > MAX_REST_BYTES:
        raise TooLargeError(
            f"the body without its files is over the limit of {MAX_REST_BYTES} bytes"
        )
    parts.append(content[copied:])
    return b"".join(parts), spans


def _end_of_string(content: bytes, begin: int, patience: int) -> tuple[int, int]:
    """Where the string that begins there ends, and how many of its quotation marks do not.

    Where it has no end, that is the content's.
    """
    at, escaped = begin, 0
    while at < len(content):
        end = content.find(b'"', at, at + _STRIDE)
        if end < 0:
            at += _STRIDE
        elif not _backslashes(content, begin, end) % 2:
            return end, escaped
        else:
            at, escaped = end + 1, escaped + 1
            if escaped > patience:
                raise TooLargeError(
                    f"the body has more than {MAX_ESCAPED_QUOTES} quotation marks in strings"
                )
    return len(content), escaped


def _backslashes(content: bytes, begin: int, end: int) -> int:
    """How many stand before `end` without anything between them, from `begin` on."""
    count = 0
    while end > begin:
        part = content[max(begin, end - _STRIDE) : end]
        here = len(part) - len(part.rstrip(b"\\"))
        count += here
        if here < len(part):
            break
        end -= len(part)
    return count
