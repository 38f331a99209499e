"""Decode base64 fields of requests, in bounded memory and time.

Does not know: HTTP, what the decoded bytes contain.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from typing import TYPE_CHECKING, Final

from trellis2_server.errors import InputError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Iterator

_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")
_WHITE_SPACE: Final = b" \t\r\n\f\v"
#: Characters decoded at once; takes about a millisecond.
_CHUNK_CHARS: Final = 262_144
#: Length of the longest JSON escape, in characters.
_ESCAPE_CHARS: Final = 6


def decode_base64(text: str | bytes | memoryview, *, max_bytes: int, name: str = "image") -> bytes:
    """Decode the base64 text of a request field.

    Accepts a `data:…;base64,` prefix, white space, the URL-safe alphabet and missing padding.
    Decodes in chunks, so that other threads can run in between, and holds no second copy of the
    content.

    Args:
        text: a string, its bytes, or a view of the UTF-8 bytes between the quotes of a JSON
            string, escapes included.
        max_bytes: limit for the decoded content.
        name: field name for error messages.

    Raises:
        InputError: the text is empty or not base64.
        TooLargeError: the content exceeds `max_bytes`; decoding stops there.
    """
    content = io.BytesIO()
    size, digits, is_padded = 0, b"", False
    try:
        for chunk in _chunks(text, name):
            digits += chunk.translate(_URL_SAFE, _WHITE_SPACE)
            if is_padded and digits.strip(b"="):
                raise InputError(f"{name}: not base64")
            stripped = digits.rstrip(b"=")
            is_padded = is_padded or len(stripped) < len(digits)
            whole = len(stripped) if is_padded else len(stripped) // 4 * 4
            size += len(stripped[:whole])
            if size * 3 // 4 > max_bytes:
                raise TooLargeError(f"{name}: over the limit of {max_bytes} bytes")
            content.write(_decode_digits(stripped[:whole]))
            digits = stripped[whole:]
        content.write(_decode_digits(digits))
    except UnicodeEncodeError as error:
        raise InputError(f"{name}: not base64, it has characters outside ASCII") from error
    except binascii.Error as error:
        raise InputError(f"{name}: not base64") from error
    if (size + len(digits)) * 3 // 4 > max_bytes:
        raise TooLargeError(f"{name}: over the limit of {max_bytes} bytes")
    if not size and not digits:
        raise InputError(f"{name}: empty")
    return content.getvalue()


def _decode_digits(digits: bytes) -> bytes:
    return base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)


def _chunks(text: str | bytes | memoryview, name: str) -> Iterator[bytes]:
    """Yield the characters after the prefix, without JSON escapes, chunk by chunk."""
    at = 0
    while at < len(text):
        part = text[at : at + _CHUNK_CHARS]
        chunk = part.encode("ascii") if isinstance(part, str) else bytes(part)
        length = len(chunk)
        if isinstance(part, memoryview) and b"\\" in chunk:
            if at + length < len(text):  # do not split an escape
                last = chunk.rfind(b"\\", length - _ESCAPE_CHARS + 1)
                length = last if last > 0 else length
            chunk = _unescape(chunk[:length], name)
        if not at:
            chunk = chunk[_prefix_length(chunk, name) :]
        at += length
        yield chunk


def _unescape(chunk: bytes, name: str) -> bytes:
    try:
        text: str = json.loads(b'"%b"' % chunk, strict=False)
    except ValueError as error:
        raise InputError(f"{name}: not base64") from error
    return text.encode("ascii")


def _prefix_length(chunk: bytes, name: str) -> int:
    if chunk[:64].lstrip()[:5].lower() != b"data:":
        return 0
    length = chunk.find(b",", 0, 1024) + 1
    if not length or not chunk[: length - 1].rstrip().lower().endswith(b"base64"):
        raise InputError(f"{name}: the data: prefix does not end in ';base64,'")
    return length
