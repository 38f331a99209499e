"""Parsing of request bodies, which may be JSON, a multipart form or an image.

The size limit is enforced while a body is received. Large bodies are parsed off the event loop.

Does not know: what the fields mean, jobs, routes.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from trellis2_server.api import large_json
from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.base64_text import decode_base64

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]

#: JSON bodies up to this size, in bytes, are parsed on the event loop.
MAX_INLINE_BYTES: Final = 65_536
#: Limit of fields in a multipart body; about forty are known.
MAX_FORM_FIELDS: Final = 200
#: Fields that contain files, as they are or in base64.
FILES: Final = ("image", "mesh")


@dataclass(frozen=True, slots=True, eq=False)
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

    Raises:
        InputError: the body is malformed.
        TooLargeError: the body exceeds `max_bytes`; the rest of it is not read.
    """
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    declared_size = request.headers.get("content-length", "")
    if declared_size.isdecimal() and int(declared_size[:20]) > max_bytes:
        raise _too_large(max_bytes)
    if media_type == "multipart/form-data":
        return await _read_form(request, max_bytes)
    content = await _read_bytes(request, max_bytes)
    if media_type.startswith("image/") or media_type == "application/octet-stream":
        return ParsedRequest(dict(request.query_params), content or None)
    if may_be_empty and not content.strip():
        return ParsedRequest(dict(request.query_params), None)
    return await _read_json(content, max_bytes)


def _too_large(max_bytes: int) -> TooLargeError:
    return TooLargeError(f"the body is over the limit of {max_bytes} bytes")


def _bounded_receive(request: Request, max_bytes: int) -> Callable[[], Awaitable[Message]]:
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise _too_large(max_bytes)
        return message

    return receive


async def _read_bytes(request: Request, max_bytes: int) -> bytes:
    bounded = Request(request.scope, _bounded_receive(request, max_bytes))
    try:
        chunks = [chunk async for chunk in bounded.stream()]
    except ClientDisconnect as error:
        raise InputError("the connection was closed before the body was complete") from error
    if sum(map(len, chunks)) <= MAX_INLINE_BYTES:
        return b"".join(chunks)
    return await asyncio.to_thread(b"".join, chunks)


async def _read_json(content: bytes, max_bytes: int) -> ParsedRequest:
    if len(content) <= MAX_INLINE_BYTES:
        return _parse_json(content, max_bytes)
    return await asyncio.to_thread(_parse_json, content, max_bytes)


def _parse_json(content: bytes, max_bytes: int) -> ParsedRequest:
    if len(content) <= MAX_INLINE_BYTES and not content.strip():
        raise InputError("the body is empty: send JSON, multipart/form-data or an image")
    try:
        fields, long = large_json.parse(content)
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
    if not isinstance(text, str | memoryview):
        raise InputError(f"{name}: must be a base64 string")
    return decode_base64(text, max_bytes=max_bytes, name=name)


async def _read_form(request: Request, max_bytes: int) -> ParsedRequest:
    bounded = Request(request.scope, _bounded_receive(request, max_bytes))
    try:
        form = await bounded.form(
            max_files=len(FILES), max_fields=MAX_FORM_FIELDS, max_part_size=max_bytes
        )
    except HTTPException as error:
        raise InputError(f"the multipart body is broken: {error.detail}") from error
    except ValueError as error:  # an unknown charset
        raise InputError("the multipart body is broken: its text cannot be decoded") from error
    except ClientDisconnect as error:
        raise InputError("the connection was closed before the body was complete") from error
    try:
        fields: dict[str, Any] = dict(form.multi_items())
        files = {name: await _take_form_file(fields, name, max_bytes) for name in FILES}
    finally:
        await form.close()
    for name, value in fields.items():
        if isinstance(value, UploadFile):
            raise InputError(f"{name}: is a file; only image and mesh may be files")
    return ParsedRequest(fields, files["image"], files["mesh"])


async def _take_form_file(fields: dict[str, Any], name: str, max_bytes: int) -> bytes | None:
    upload = fields.get(name)
    if not isinstance(upload, UploadFile):
        return await asyncio.to_thread(_take_file, fields, name, max_bytes)
    del fields[name]
    content = await upload.read()
    if not content:
        raise InputError(f"{name}: empty")
    return content
