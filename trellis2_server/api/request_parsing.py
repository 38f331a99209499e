"""Parsing of request bodies, which may be JSON, a form or a picture.

The size limit is enforced while a body is received. Large bodies are parsed off the event loop.

Does not know: what the fields mean, jobs, routes.
"""

from __future__ import annotations

import asyncio
import codecs
import io
import json
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import ClientDisconnect

from trellis2_server import large_json
from trellis2_server.api.body_kinds import HEAD_BYTES, body_kind, json_codec
from trellis2_server.api.content_coding import make_decoder
from trellis2_server.api.forms import parse_form
from trellis2_server.api.outbound_fields import PICTURE_URL
from trellis2_server.api.picture_fields import (
    LISTS,
    PICTURE_FIELDS,
    SINGLE,
    Encoded,
    is_data_uri,
    is_web_url,
    read_pictures,
    take_url,
    values_of,
)
from trellis2_server.api.query_fields import add_query
from trellis2_server.api.urlencoded import parse_urlencoded
from trellis2_server.base64_text import decode_base64
from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.request_fields import MAX_PICTURES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request

    from trellis2_server.api.body_kinds import BodyKind
    from trellis2_server.api.content_coding import BodyDecoder
    from trellis2_server.api.forms import FormContent
    from trellis2_server.api.inflight_bodies import BodyAccount
    from trellis2_server.api.picture_fields import Sent, UnfetchedPictures
    from trellis2_server.inputs.images import Pictures

#: JSON bodies up to this size, in bytes, are parsed on the event loop.
MAX_INLINE_BYTES: Final = 65_536
#: Fields that contain files, as they are or in base64.
FILES: Final = (*PICTURE_FIELDS, "mesh")
#: Those of them that a form may have several times.
_REPEATED: Final = (SINGLE, *LISTS)
#: Files of a form, from which on they are not even counted: one more than there may be.
_MAX_FILES: Final = MAX_PICTURES + 2
_NO_NAMES: Final[Mapping[str, str]] = {}
#: Beginning of a long URL that is left, for error messages, characters.
_PREVIEW_CHARS: Final = 80
#: Bytes of UTF-16 that are made UTF-8 at once; takes about a millisecond.
_STRIDE: Final = 262_144


# Without `repr`: asyncio puts that of results into messages; of a file it is four times as large.
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ParsedRequest:
    """The content of a request.

    Attributes:
        fields: the fields as sent, without the files.
        picture: content of the picture file, or of several, or where they are; None if there is
            none.
        mesh: content of the mesh file; None if there is none.
    """

    fields: dict[str, object]
    picture: Pictures | UnfetchedPictures | None
    mesh: bytes | None = None


async def parse_request(
    request: Request,
    *,
    max_bytes: int,
    may_be_empty: bool = False,
    names: Mapping[str, str] = _NO_NAMES,
) -> ParsedRequest:
    """Parse the fields and files of a request.

    A form has the files as parts, as they are or in base64; JSON has them in base64, several
    pictures as a list or by side (`picture_fields`); any other body is the picture itself. Where
    the content type is missing, unknown, or one that clients send without meaning it, the first
    bytes decide. Fields may also be in the query. Nothing is fetched here: a single picture that is
    an http(s) URL stays among the fields, as `image`.

    Args:
        request: the request, its body not read.
        max_bytes: limit of the body's size, as sent and decoded.
        may_be_empty: whether a request without body and query is valid.
        names: names that a protocol has for files and for the URL of a picture: which of `FILES`,
            or `image_url`, each of them is.

    The request's account (`request.state.body`) holds the bytes of the body while it is received
    and parsed, then those of its files.

    Raises:
        InputError: the body is malformed, or the query contradicts it.
        TooLargeError: the body exceeds `max_bytes`; the rest of it is not read.
        UnavailableError: too many bytes are in flight; the rest of the body is not read.
    """
    account: BodyAccount = request.state.body
    content_type = request.headers.get("content-type", "")
    media_type = content_type.split(";")[0].strip().lower()
    body = await _receive(request, account, max_bytes)
    kind = body_kind(body.head(), media_type)
    if kind == "empty" and not body.is_blank():
        kind = "json"
    if kind == "json" and json_codec(body.head()):
        account.reserve(2 * body.size)  # `_as_utf_8` makes as much beside it, at most
    if kind == "picture":
        parsed = ParsedRequest({}, body.take() or None)
    elif kind == "empty":
        if not (may_be_empty or request.query_params):
            raise InputError("the body is empty: send JSON, multipart/form-data or an image")
        parsed = ParsedRequest({}, None)
    elif kind == "json" and body.size <= MAX_INLINE_BYTES:
        parsed = _parse_json(body, max_bytes, names)
    else:
        parsed = await asyncio.to_thread(_parse, kind, body, content_type, max_bytes, names)
    if request.query_params:
        parsed = _with_query(parsed, dict(request.query_params), max_bytes)
    account.shrink(len(parsed.picture or b"") + len(parsed.mesh or b""))
    return parsed


async def parse_fields(request: Request, *, max_bytes: int) -> dict[str, object]:
    """Parse a request of which only the fields are used, see `parse_request`; it may be empty."""
    parsed = await parse_request(request, max_bytes=max_bytes, may_be_empty=True)
    request.state.body.close()
    return parsed.fields


def _with_query(parsed: ParsedRequest, query: dict[str, object], max_bytes: int) -> ParsedRequest:
    """Return a request with the fields and files of its query, which may also be in its body."""
    for name in PICTURE_FIELDS:
        if name != SINGLE and name in query:
            raise InputError(f"{name}: must be in the body, not in the query")
    picture, mesh = parsed.picture, parsed.mesh
    is_url = picture is None and is_web_url(query.get(SINGLE))
    content = None if is_url else _take_file(query, SINGLE, max_bytes)
    if content is not None:
        if picture is not None and picture != content:
            raise InputError(f"{SINGLE}: the query has another one than the body")
        picture = content
    content = _take_file(query, "mesh", max_bytes)
    if content is not None:
        if mesh not in {None, content}:
            raise InputError("mesh: the query has another one than the body")
        mesh = content
    return ParsedRequest(add_query(parsed.fields, query), picture, mesh)


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

    def head(self) -> bytes:
        """Return the first bytes."""
        return bytes(self._buffer.getbuffer()[:HEAD_BYTES])

    def is_blank(self) -> bool:
        """Return whether it is empty, or a little white space."""
        return self.size <= MAX_INLINE_BYTES and not self._buffer.getvalue().strip()

    def take(self) -> bytes:
        """Return the content and forget it, so that it is freed with the caller's reference."""
        content = self._buffer.getvalue()
        self._buffer = io.BytesIO()
        return content


async def _receive(request: Request, account: BodyAccount, max_bytes: int) -> _Body:
    decoder = make_decoder(request.headers.get("content-encoding", ""))
    account.reserve(_declared_size(request, max_bytes))
    body = _Body()
    received = 0

    def take(piece: bytes) -> None:
        if body.size + len(piece) > max_bytes:
            raise _too_large(max_bytes)
        account.reserve(body.size + len(piece))
        body.append(piece)

    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > max_bytes:
                raise _too_large(max_bytes)
            if decoder is None:
                take(chunk)
            else:
                await _decode(decoder, chunk, take)
    except ClientDisconnect as error:
        raise InputError("the connection was closed before the body was complete") from error
    if decoder is not None:
        decoder.finish()
    return body


def _declared_size(request: Request, max_bytes: int) -> int:
    declared = request.headers.get("content-length", "")
    size = int(declared[:20]) if declared.isdecimal() else 0
    if size > max_bytes:
        raise _too_large(max_bytes)
    return size


async def _decode(decoder: BodyDecoder, chunk: bytes, take: Callable[[bytes], None]) -> None:
    async with aclosing(decoder.decode(chunk)) as pieces:
        async for piece in pieces:
            take(piece)


def _too_large(max_bytes: int) -> TooLargeError:
    return TooLargeError(f"the body is over the limit of {max_bytes} bytes")


def _parse(
    kind: BodyKind, body: _Body, content_type: str, max_bytes: int, names: Mapping[str, str]
) -> ParsedRequest:
    if kind == "json":
        return _parse_json(body, max_bytes, names)
    if kind == "form":
        file_names = (*FILES, PICTURE_URL, *names)
        repeated = (*_REPEATED, PICTURE_URL)
        list_names = (*repeated, *(name for name, own in names.items() if own in repeated))
        form = parse_form(
            body.take,
            content_type,
            max_files=_MAX_FILES,
            file_names=file_names,
            list_names=list_names,
        )
    else:
        files = {name: own for name, own in names.items() if own != PICTURE_URL}
        file_names = (*FILES, *files)
        list_names = (*_REPEATED, *(name for name, own in files.items() if own in _REPEATED))
        form = parse_urlencoded(body.take, file_names=file_names, list_names=list_names)
    for parts in (form.texts, form.raw_texts, form.files, form.lists):
        _rename(parts, names)
    return _form_request(form, max_bytes)


def _rename(parts: dict[str, Any], names: Mapping[str, str]) -> None:
    """Give files the names that they have here.

    Raises:
        InputError: a file is there under two names.
    """
    for name, own in names.items():
        if parts.get(name) is None:
            parts.pop(name, None)
        elif parts.get(own) is not None:
            raise InputError(f"{name}: the request has {own}, too; send only one of them")
        else:
            parts[own] = parts.pop(name)


def _parse_json(body: _Body, max_bytes: int, names: Mapping[str, str]) -> ParsedRequest:
    codec = json_codec(body.head())
    file_names = (*FILES, *names)
    try:
        content = _as_utf_8(body, codec) if codec else body.take()
        lists = (*LISTS, *(name for name, own in names.items() if own in LISTS))
        fields, long = large_json.parse(content, file_names, lists)
    except RecursionError as error:
        raise InputError("the body is not valid JSON: nested too deeply") from error
    except UnicodeDecodeError as error:
        encoding = codec.upper()[:6] if codec else "UTF-8"
        raise InputError(f"the body is not JSON: not {encoding}") from error
    except json.JSONDecodeError as error:
        raise InputError(f"the body is not JSON: {error.msg} at character {error.pos}") from error
    except ValueError as error:  # an integer with thousands of digits
        raise InputError("the body has a number that is too long") from error
    if not isinstance(fields, dict):
        raise InputError("the body must be a JSON object")
    fields |= {name: long[name] for name in (*file_names, PICTURE_URL) if name in long}
    _rename(fields, names)
    sent = {name: values_of(name, fields.pop(name, None)) for name in PICTURE_FIELDS}
    fields |= take_url(sent)
    pictures = read_pictures(sent, max_bytes=max_bytes)
    if isinstance(fields.get(PICTURE_URL), memoryview):
        pictures = _read_long_url(fields, pictures, max_bytes)
    return ParsedRequest(fields, pictures, _take_file(fields, "mesh", max_bytes))


def _read_long_url(
    fields: dict[str, Any], pictures: Pictures | UnfetchedPictures | None, max_bytes: int
) -> Pictures | UnfetchedPictures | None:
    """Return the picture of a `data:` URI of any size, if there is no other; it is decoded here.

    Of any other text, the beginning is left among the fields, for the message that it is no URL.
    """
    content: bytes | memoryview = fields.pop(PICTURE_URL)
    if is_data_uri(content):
        if pictures is not None:
            return pictures
        return decode_base64(content, max_bytes=max_bytes, name=PICTURE_URL)
    head = bytes(content[:_PREVIEW_CHARS]).decode("utf-8", "replace")
    fields[PICTURE_URL] = f"{head}…"
    return pictures


def _as_utf_8(body: _Body, codec: str) -> bytes:
    """Return the content in UTF-8; other threads can run in between.

    Files in base64 become half as long. What becomes longer is text that no field needs.
    """
    content = memoryview(body.take())
    decoder = codecs.getincrementaldecoder(codec)()
    encoded = io.BytesIO()
    for at in range(0, len(content), _STRIDE):
        is_last = at + _STRIDE >= len(content)
        text = decoder.decode(content[at : at + _STRIDE], is_last)
        encoded.write((text.removeprefix("\ufeff") if not at else text).encode())
        if encoded.tell() > max(len(content), 2 * large_json.MAX_REMAINDER_BYTES):
            raise TooLargeError(
                "the body without its files is over the limit of "
                f"{large_json.MAX_REMAINDER_BYTES} bytes"
            )
    return encoded.getvalue()


def _take_file(fields: dict[str, Any], name: str, max_bytes: int) -> bytes | None:
    """Remove a file from the fields; return its decoded content."""
    text: object = fields.pop(name, None)
    if text is None:
        return None
    if not isinstance(text, str | bytes | memoryview):
        raise InputError(f"{name}: must be a base64 string")
    return decode_base64(text, max_bytes=max_bytes, name=name)


def _form_request(form: FormContent, max_bytes: int) -> ParsedRequest:
    sent: dict[str, list[Sent]] = {}
    for name in PICTURE_FIELDS:
        parts = form.lists.pop(name, [])
        if name in form.files:
            parts = [(form.files.pop(name), False)]
        elif name in form.raw_texts:
            parts = [(form.raw_texts.pop(name), True)]
        sent[name] = [Encoded(content) if is_base64 else content for content, is_base64 in parts]
    fields: dict[str, Any] = {**form.texts, **take_url(sent)}
    pictures = read_pictures(sent, max_bytes=max_bytes)
    urls = [content for content, _ in form.lists.pop(PICTURE_URL, [])]
    if len(urls) > 1:
        raise InputError(f"{PICTURE_URL}: sent more than once; send several pictures in image_urls")
    for content in urls:
        fields[PICTURE_URL] = content
        if len(content) >= large_json.LONG_BYTES:
            pictures = _read_long_url(fields, pictures, max_bytes)
        else:
            fields[PICTURE_URL] = content.decode("utf-8", "replace")
    mesh = form.files.pop("mesh", None)
    if mesh == b"":
        raise InputError("mesh: empty")
    if "mesh" in form.raw_texts:
        mesh = decode_base64(form.raw_texts.pop("mesh"), max_bytes=max_bytes, name="mesh")
    for name in form.files:
        raise InputError(f"{name:.60}: is a file; only pictures and the mesh may be files")
    return ParsedRequest(fields, pictures, mesh)
