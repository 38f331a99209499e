"""Files as HTTP responses, with `ETag`, `Range`, `If-Range` and `If-None-Match`.

Only single ranges are supported; a request for several gets the whole file, as RFC 9110
(section 14.2) allows. Unlike Starlette's `FileResponse`, which opens a path when it sends, these
responses send content that was opened and verified before.

Does not know: which files exist.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from fastapi import Response
from fastapi.responses import StreamingResponse

from trellis2_server.api.head_routes import head_response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from fastapi import Request

    from trellis2_server.storage.content import Content

#: Headers of these responses that pages of other origins may read.
EXPOSED_HEADERS: Final = ("ETag", "Accept-Ranges", "Content-Range", "Content-Disposition")
#: Values of `Cache-Control`: the URL's content never changes, or may change.
PERMANENT: Final = "private, max-age=31536000, immutable"
REVALIDATE: Final = "private, no-cache"
_RANGE: Final = re.compile(r"bytes\s*=\s*(\d{0,18})-(\d{0,18})\s*", re.IGNORECASE)


async def file_response(  # noqa: PLR0913 - one argument per header
    request: Request,
    open_content: Callable[[], Awaitable[Content]],
    *,
    etag: str,
    size: int | None,
    media_type: str,
    headers: Mapping[str, str],
) -> Response:
    """Return a file (200), a range of it (206), or that it has not changed (304).

    Args:
        request: a GET or HEAD request.
        open_content: returns the content; called only if bytes of it are sent.
        etag: strong entity tag, with its quotation marks.
        size: size of the content, bytes; None if it is known only from the content. The response
            to HEAD then has no `Content-Length`, as RFC 9110 (section 9.3.2) allows.
        media_type: media type of the content.
        headers: further headers of the response, whatever its status.
    """
    all_headers = {**headers, "ETag": etag, "Accept-Ranges": "bytes"}
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=all_headers)
    if request.method == "HEAD":
        if size is not None:
            all_headers["Content-Length"] = str(size)
        return head_response(media_type, all_headers)
    content = await open_content()
    size = content.size
    first, last = 0, size - 1
    status = 200
    range_header = request.headers.get("range")
    if range_header is not None and request.headers.get("if-range", etag) == etag:
        byte_range = _parse_range(range_header, size)
        if byte_range is not None:
            first, last = byte_range
            if first > last:
                all_headers["Content-Range"] = f"bytes */{size}"
                return Response(status_code=416, headers=all_headers)
            status = 206
            all_headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    all_headers["Content-Length"] = str(last - first + 1)
    chunks = content.chunks(first, last)
    return StreamingResponse(chunks, status, all_headers, media_type=media_type)


def _matches(if_none_match: str | None, etag: str) -> bool:
    """Return whether the header contains the tag; weak comparison, RFC 9110 (13.1.2)."""
    if if_none_match is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or "*" in tags


def _parse_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the first and last byte of a `Range` header.

    The first byte is greater than the last one if the range is outside of the file. None means
    that the header is malformed or has several ranges.
    """
    match = _RANGE.fullmatch(header.strip())
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
