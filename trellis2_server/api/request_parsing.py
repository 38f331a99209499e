"""Parsing of request bodies, which may be JSON, a multipart form or an image.

The size limit is enforced while a body is received. Large bodies are parsed off the event loop.

Does not know: what the fields mean, jobs, routes.
"""

from __future__ import annotations

import asyncio
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import ClientDisconnect

from trellis2_server.api import large_json
from trellis2_server.api.forms import parse_form
from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.base64_text import decode_base64

if TYPE_CHECKING:
    from starlette.requests import Request

    from trellis2_server.api.inflight_bodies import BodyAccount

#: JSON bodies up to this size, in bytes, are parsed on the event loop.
MAX_INLINE_BYTES: Final = 65_536
#: Fields that contain files, as they are or in base64.
FILES: Final = ("image", "mesh")


# Without `repr`: asyncio puts that of results into messages; of a file it is four times as large.
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ParsedRequest:
    """The content of a request.

    Attributes:
        fields: the fields as sent, without the files.
        picture: content of the picture file; None if there is none.
        mesh: content of the mesh file; None if there is none.
    """

    fields: dict[str, object]
    picture: bytes | None
    mesh: bytes | None = None


async def parse_request(
    request: Request, *, max_bytes: int, may_be_empty: bool = False
) -> ParsedRequest:
    """Parse the fields and files of a request.

    `multipart/form-data` has the files as parts, as they are or in base64. A body of type
    `image/*` or `application/octet-stream` is the picture, and the query has the fields.
    Every other body is JSON, with the files in base64.

    Args:
        request: the request, its body not read.
        max_bytes: limit of the body's size.
        may_be_empty: whether an empty body is valid; the query then has the fields.

    The request's account (`request.state.body`) holds the bytes of the body while it is received
    and parsed, then those of its files.

    Raises:
        InputError: the body is malformed.
        TooLargeError: the body exceeds `max_bytes`; the rest of it is not read.
        UnavailableError: too many bytes are in flight; the rest of the body is not read.
    """
    account: BodyAccount = request.state.body
    content_type = request.headers.get("content-type", "")
    media_type = content_type.split(";")[0].strip().lower()
    body = await _receive(request, account, max_bytes)
    if media_type == "multipart/form-data":
        parsed = await asyncio.to_thread(_parse_form, body, content_type, max_bytes)
    elif media_type.startswith("image/") or media_type == "application/octet-stream":
        parsed = ParsedRequest(dict(request.query_params), body.take() or None)
    elif may_be_empty and body.is_blank():
        parsed = ParsedRequest(dict(request.query_params), None)
    elif body.size <= MAX_INLINE_BYTES:
        parsed = _parse_json(body, max_bytes)
    else:
        parsed = await asyncio.to_thread(_parse_json, body, max_bytes)
    account.shrink(len(parsed.picture or b"") + len(parsed.mesh or b""))
    return parsed


async def parse_fields(request: Request, *, max_bytes: int) -> dict[str, object]:
    """Parse a request of which only the fields are used, see `parse_request`; it may be empty."""
    parsed = await parse_request(request, max_bytes=max_bytes, may_be_empty=True)
    request.state.body.close()
    return parsed.fields


class _Body:
    """A received body.

    The buffer grows with the bytes that have come, whatever `Content-Length` says, and becomes
    `bytes` without a copy.

    Attributes:
        size: its size, bytes.
    """

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self.size = 0

    def append(self, chunk: bytes) -> None:
        self._buffer.write(chunk)
        self.size += len(chunk)

    def is_blank(self) -> bool:
        """Return whether it is empty, or a little white space."""
        return self.size <= MAX_INLINE_BYTES and not self._buffer.getvalue().strip()

    def take(self) -> bytes:
        """Return the content and forget it, so that it is freed with the caller's reference."""
        content = self._buffer.getvalue()
        self._buffer = io.BytesIO()
        return content


async def _receive(request: Request, account: BodyAccount, max_bytes: int) -> _Body:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal():
        size = int(declared[:20])
        if size > max_bytes:
            raise _too_large(max_bytes)
        account.reserve(size)
    body = _Body()
    try:
        async for chunk in request.stream():
            if body.size + len(chunk) > max_bytes:
                raise _too_large(max_bytes)
            account.reserve(body.size + len(chunk))
            body.append(chunk)
    except ClientDisconnect as error:
        raise InputError("the connection was closed before the body was complete") from error
    return body


def _too_large(max_bytes: int) -> TooLargeError:
    return TooLargeError(f"the body is over the limit of {max_bytes} bytes")


def _parse_json(body: _Body, max_bytes: int) -> ParsedRequest:
    if body.is_blank():
        raise InputError("the body is empty: send JSON, multipart/form-data or an image")
    try:
        fields, long = large_json.parse(body.take())
    except RecursionError as error:
        raise InputError("the body is not valid JSON: nested too deeply") from error
    except UnicodeDecodeError as error:
        raise InputError("the body is not JSON: not UTF-8") from error
    except json.JSONDecodeError as error:
        raise InputError(f"the body is not JSON: {error.msg} at character {error.pos}") from error
    except ValueError as error:  # an integer with thousands of digits
        raise InputError("the body has a number that is too long") from error
    if not isinstance(fields, dict):
        raise InputError("the body must be a JSON object")
    fields |= {name: long[name] for name in FILES if name in long}
    return ParsedRequest(
        fields, _take_file(fields, "image", max_bytes), _take_file(fields, "mesh", max_bytes)
    )


def _take_file(fields: dict[str, Any], name: str, max_bytes: int) -> bytes | None:
    """Remove a file from the fields; return its decoded content."""
    text: object = fields.pop(name, None)
    if text is None:
        return None
    if not isinstance(text, str | bytes | memoryview):
        raise InputError(f"{name}: must be a base64 string")
    return decode_base64(text, max_bytes=max_bytes, name=name)


def _parse_form(body: _Body, content_type: str, max_bytes: int) -> ParsedRequest:
    form = parse_form(body.take, content_type, max_files=len(FILES), keep_raw=FILES)
    files: dict[str, bytes | None] = {}
    for name in FILES:
        files[name] = form.files.pop(name, None)
        if files[name] == b"":
            raise InputError(f"{name}: empty")
        if name in form.raw_texts:
            files[name] = decode_base64(form.raw_texts.pop(name), max_bytes=max_bytes, name=name)
    for name in form.files:
        raise InputError(f"{name:.60}: is a file; only image and mesh may be files")
    return ParsedRequest(dict(form.texts), files["image"], files["mesh"])
