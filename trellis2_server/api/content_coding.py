"""Decoding of `Content-Encoding` in requests, in bounded steps (RFC 9110, section 8.4).

A few bytes of gzip may be gigabytes: each step makes a bounded piece, so that the receiver can
count it before the next one.

Does not know: what is in a body, how large it may be.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING, Final

from trellis2_server.errors import ContentCodingError, InputError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

#: The codings that are decoded, and zlib's `wbits` for each. HTTP's deflate is zlib's format.
_WINDOWS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}
#: For `Accept-Encoding`.
CODINGS: Final = ("gzip", "deflate")
#: Bytes of a piece on a thread.
STEP_BYTES: Final = 1_048_576
#: Bytes of a piece that is made on the event loop, from as few; takes a tenth of a millisecond.
INLINE_BYTES: Final = 16_384
#: Limit of the members of a gzip file (RFC 1952, section 2.2); each of them costs a copy of what
#: was received at once.
MAX_MEMBERS: Final = 256


def make_decoder(header: str) -> BodyDecoder | None:
    """Return the decoder for a `Content-Encoding`; None: the body is not encoded.

    Raises:
        ContentCodingError: it is another coding, or more than one.
    """
    codings = [each.strip().lower() for each in header.split(",")]
    codings = [each for each in codings if each not in {"", "identity"}]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in _WINDOWS:
        raise ContentCodingError(
            f"Content-Encoding: {', '.join(codings):.40} is not supported; send gzip, deflate or "
            "the body as it is"
        )
    return BodyDecoder(codings[0])


class BodyDecoder:
    """Decodes one body.

    Args:
        coding: name of the coding.
    """

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._stream = zlib.decompressobj(_WINDOWS[coding])
        self._members = 1
        self._has_begun = False

    async def decode(self, chunk: bytes) -> AsyncGenerator[bytes]:
        """Yield the content of what has been received, in pieces.

        Raises:
            InputError: it is not what the coding says.
        """
        limit = INLINE_BYTES if len(chunk) <= INLINE_BYTES else STEP_BYTES
        has_more = bool(chunk)
        while has_more:
            if limit == INLINE_BYTES:
                piece, chunk = self._decode(chunk, limit)
            else:
                piece, chunk = await asyncio.to_thread(self._decode, chunk, limit)
            has_more = bool(chunk) or len(piece) == limit  # the stream may hold the rest
            limit = STEP_BYTES
            yield piece

    def finish(self) -> None:
        """Check that the end has come.

        Raises:
            InputError: the body was cut.
        """
        if self._has_begun and not self._stream.eof:
            raise InputError(f"the body is cut short: the end of its {self._coding} is missing")

    def _decode(self, data: bytes, max_bytes: int) -> tuple[bytes, bytes]:
        """Return a piece, and what of the data is to be decoded next."""
        try:
            if self._stream.eof and data:
                if not data.strip(b"\0"):  # padding
                    return b"", b""
                self._begin_member()
            piece = self._stream.decompress(data, max_bytes)
        except zlib.error as error:
            raise InputError(f"the body is not valid {self._coding}") from error
        self._has_begun = True
        return piece, self._stream.unconsumed_tail or self._stream.unused_data

    def _begin_member(self) -> None:
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise InputError(f"the body has more than {MAX_MEMBERS} members of {self._coding}")
        self._stream = zlib.decompressobj(_WINDOWS[self._coding])
