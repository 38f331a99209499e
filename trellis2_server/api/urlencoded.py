"""Parsing of `application/x-www-form-urlencoded`, whole, in memory, on any thread.

A plus sign in a file is one: many clients encode nothing of base64, and white space means nothing
in it. Otherwise only the escapes are decoded that base64 needs, by searches that release nothing
but take well under a millisecond each; any other escape makes it no base64.

Does not know: which fields there are, HTTP.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from trellis2_server.api.forms import LONG_BYTES, MAX_FIELDS, MAX_TEXT_BYTES, FormContent
from trellis2_server.errors import InputError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

#: Bytes that are searched or decoded at once.
STRIDE_BYTES: Final = 262_144
#: Length of an escape, bytes.
_ESCAPE_BYTES: Final = 3
#: What is escaped in base64 and its `data:` prefix, lines included.
_ESCAPES: Final = tuple(
    (escape, bytes([value]))
    for value in b"+/=:;, \t\r\n-_"
    for escape in dict.fromkeys((b"%%%02X" % value, b"%%%02x" % value))
)
_PREVIEW_CHARS: Final = 80


def parse_urlencoded(
    take_body: Callable[[], bytes],
    *,
    file_names: Collection[str] = (),
    list_names: Collection[str] = (),
) -> FormContent:
    """Parse the body of a form without parts.

    Args:
        take_body: returns the body and forgets it, so that it is freed before this returns.
        file_names: names of fields that are base64; each of them may be there once,
        list_names: except for these of them.

    Raises:
        InputError: there are too many fields, or none, or a text is not UTF-8.
        TooLargeError: the text fields are too large.
    """
    body = take_body()
    content = FormContent()
    size = 0
    for count, (begin, end) in enumerate(_fields(body)):
        if count >= MAX_FIELDS:
            raise InputError(f"the body has more than {MAX_FIELDS} fields")
        equals = body.find(b"=", begin, min(end, begin + LONG_BYTES))
        if equals < 0:
            continue
        name = _text("the body", body[begin:equals])
        if name in list_names:
            text = _base64(name, body, equals + 1, end)
            content.lists.setdefault(name, []).append((text, True))
            continue
        if name in file_names:
            if name in content.raw_texts:
                raise InputError(f"{name}: sent more than once")
            content.raw_texts[name] = _base64(name, body, equals + 1, end)
            continue
        text = _short_text(name, body, equals + 1, end)
        size += len(text)
        if size > MAX_TEXT_BYTES:
            raise TooLargeError(
                f"the body without its files is over the limit of {MAX_TEXT_BYTES} bytes"
            )
        content.texts[name] = text
    if not (content.texts or content.raw_texts or content.lists):
        raise InputError(
            "the body is declared as application/x-www-form-urlencoded, and has no field; set "
            "Content-Type to what it is"
        )
    return content


def _fields(body: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each field begins and ends."""
    begin = at = 0
    while at < len(body):
        found = body.find(b"&", at, at + STRIDE_BYTES)
        if found < 0:
            at += STRIDE_BYTES
        else:
            yield begin, found
            begin = at = found + 1
    yield begin, len(body)


def _short_text(name: str, body: bytes, begin: int, end: int) -> str:
    """Return a text; of a long one, which no field needs, its beginning."""
    if end - begin < LONG_BYTES:
        return _text(f"{name:.60}", body[begin:end])
    raw = unquote_to_bytes(body[begin : begin + _PREVIEW_CHARS])
    return f"{raw.decode('utf-8', 'replace')}…"


def _text(where: str, raw: bytes) -> str:
    try:
        return unquote_to_bytes(raw.replace(b"+", b" ")).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: its text is not UTF-8") from error


def _base64(name: str, body: bytes, begin: int, end: int) -> bytes:
    decoded = io.BytesIO()
    while begin < end:
        stop = min(end, begin + STRIDE_BYTES)
        if stop < end:  # do not split an escape
            last = body.rfind(b"%", stop - _ESCAPE_BYTES + 1, stop)
            stop = last if last > begin else stop
        piece = body[begin:stop]
        if b"%" in piece:
            for escape, character in _ESCAPES:
                piece = piece.replace(escape, character)
            if b"%" in piece:
                raise InputError(f"{name}: not base64")
        decoded.write(piece)
        begin = stop
    return decoded.getvalue()
