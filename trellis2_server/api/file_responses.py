"""Parts of a file over HTTP: strong entity tags, `Range`, `If-Range`, `If-None-Match`.

One range at a time: a request for several gets the whole, as RFC 9110 (section 14.2) allows.
Starlette's `FileResponse` sends from a path, unverified; this sends what was read and found
to be right.

What this module does not know: which files there are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from fastapi import Response
from fastapi.responses import StreamingResponse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from fastapi import Request

#: Headers of these replies that a page of another origin may read too.
EXPOSED_HEADERS: Final = ("ETag", "Accept-Ranges", "Content-Range", "Content-Disposition")
#: Bytes that are sent at a time, so that a slow client holds no copy of the file.
CHUNK_BYTES: Final = 262_144
_RANGE: Final = re.compile(r"bytes\s*=\s*(\d{0,18})-(\d{0,18})\s*", re.IGNORECASE)


async def reply_file(  # noqa: PLR0913 - one argument per header
    request: Request,
    read: Callable[[], Awaitable[bytes]],
    *,
    etag: str,
    size: int | None,
    media_type: str,
    headers: Mapping[str, str],
) -> Response:
    """The file, the part of it that is asked for, or word that it has not changed.

    Args:
        request: a GET or a HEAD.
        read: the file; called only if it is needed.
        etag: strong, quotes included.
        size: bytes; None if only reading tells.
        media_type: of the file.
        headers: of any reply.
    """
    common = {**headers, "ETag": etag, "Accept-Ranges": "bytes"}
    if _names(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=common)
    content = None
    if size is None or request.method != "HEAD":
        content = await read()
        size = len(content)
    first, last = 0, size - 1
    status = 200
    asked = request.headers.get("range") if request.method == "GET" else None
    if asked is not None and request.headers.get("if-range", etag) == etag:
        part = _part(asked, size)
        if part is not None:
            first, last = part
            if first > last:
                common["Content-Range"] = f"bytes */{size}"
                return Response(status_code=416, headers=common)
            status = 206
            common["Content-Range"] = f"bytes {first}-{last}/{size}"
    common["Content-Length"] = str(last - first + 1)
    if content is None:
        return Response(status_code=200, headers=common, media_type=media_type)
    return StreamingResponse(_chunks(content, first, last), status, common, media_type=media_type)


def _names(if_none_match: str | None, etag: str) -> bool:
    """Whether the header names the tag; compared weakly, as RFC 9110 (13.1.2) has it."""
    if if_none_match is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or "*" in tags


def _part(asked: str, size: int) -> tuple[int, int] | None:
    """First and last byte; first over last where there is none; None: not meant, or several."""
    match = _RANGE.fullmatch(asked.strip())
    if match is None:
        return None
    begin, end = match.groups()
    if not begin:
        if not end:
            return None
        count = min(int(end), size)
        return (size - count, size - 1) if count else (1, 0)
    if end and int(end) < int(begin):
        return None
    return (int(begin), min(int(end), size - 1) if end else size - 1)


async def _chunks(content: bytes, first: int, last: int) -> AsyncGenerator[bytes]:
    for start in range(first, last + 1, CHUNK_BYTES):
        yield content[start : min(start + CHUNK_BYTES, last + 1)]
