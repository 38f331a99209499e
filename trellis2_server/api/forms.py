"""Parsing of `multipart/form-data` (RFC 7578), whole, in memory, on any thread.

The grammar is python-multipart's. This module bounds what costs time or memory in it, and has
stricter text: fields are UTF-8, whatever a client declares. Decoding as declared would let a client
choose among a hundred codecs, of which some take quadratic time.

Does not know: which fields there are, HTTP.
"""

from __future__ import annotations

import codecs
import io
import re
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Final, cast

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from trellis2_server.api.body_kinds import HEAD_BYTES, form_boundary
from trellis2_server.errors import InputError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from python_multipart.multipart import MultipartCallbacks

#: Limit of fields besides files; about forty are known.
MAX_FIELDS: Final = 200
#: Limit of the headers of one part, and of their size together, bytes.
MAX_HEADERS: Final = 8
MAX_HEADER_BYTES: Final = 8_192
#: Limit of what may be before the first part and after the last, bytes.
MAX_MARGIN_BYTES: Final = 4_096
#: Limit of a boundary, bytes; RFC 2046 has 70.
MAX_BOUNDARY_BYTES: Final = 200
#: Text fields from this size are truncated, as in JSON: no field needs them, bytes.
LONG_BYTES: Final = 16_384
#: Limit of all text fields together, without what was truncated, bytes.
MAX_TEXT_BYTES: Final = 131_072
#: Bytes that are searched or parsed at once, without releasing the GIL; about a millisecond.
STRIDE_BYTES: Final = 262_144
#: Beginning of a long text that is left, for error messages, characters.
_PREVIEW_CHARS: Final = 80
#: Names of UTF-8, or of a part of it.
_UTF_8: Final = ("utf-8", "utf8", "us-ascii", "ascii")
#: Charsets that HTTP libraries declare by default, and that have ASCII in common with UTF-8.
_LATIN: Final = ("iso-8859-1", "latin-1", "latin1", "windows-1252", "cp1252")


#: A file name that is percent-encoded (RFC 5987), which python-multipart leaves out.
_EXTENDED_NAME: Final = re.compile(rb";\s*filename\*\s*=", re.IGNORECASE)
#: Base64 in lines of any length.
_BASE64: Final = re.compile(rb"[\w+/=\s-]*\Z", re.ASCII)
#: What base64 does not have, and the text of a mesh does: words.
_WORDS: Final = re.compile(rb"[\w+/=-][ \t]+[\w+/=-]", re.ASCII)


@dataclass(slots=True)
class FormContent:
    """The parts of a form. A later text replaces an earlier one of the same name.

    Attributes:
        texts: the text fields.
        raw_texts: the text fields that `file_names` names, which are not decoded.
        files: the files.
        lists: the parts of fields that may be there several times, in order: content, and whether
            it is base64.
    """

    texts: dict[str, str] = field(default_factory=dict[str, str])
    raw_texts: dict[str, bytes] = field(default_factory=dict[str, bytes])
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    lists: dict[str, list[tuple[bytes, bool]]] = field(
        default_factory=dict[str, list[tuple[bytes, bool]]]
    )


def parse_form(
    take_body: Callable[[], bytes],
    content_type: str,
    *,
    max_files: int,
    file_names: Collection[str] = (),
    list_names: Collection[str] = (),
) -> FormContent:
    """Parse the body of a form.

    A part with a file name is a file. One without is, if its name is one of `file_names` and its
    content type or its bytes say so: some libraries send no file name, or a percent-encoded one.

    Args:
        take_body: returns the body and forgets it, so that it is freed before this returns.
        content_type: the request's header. If it has no boundary, the form's first line has.
        max_files: limit of the files.
        file_names: names of fields that are files or long texts, which are not decoded. Each of
            them may be there once,
        list_names: except for these of them.

    Raises:
        InputError: the form is malformed, or a text is not UTF-8; the message names the field.
        TooLargeError: the text fields are too large.
    """
    _, options = parse_options_header(content_type)
    _check_charset(options.get(b"charset", b""), "the multipart body")
    parts = _Parts(max_files, file_names, list_names)
    body = take_body()
    boundary = options.get(b"boundary", b"") or form_boundary(body[:HEAD_BYTES])
    if not boundary or len(boundary) > MAX_BOUNDARY_BYTES:
        raise InputError("the multipart body is broken: its boundary is missing or too long")
    _check_delimiters(body, b"\r\n--" + boundary, max_files + MAX_FIELDS)
    callbacks = {
        "on_part_begin": parts.begin,
        "on_header_begin": parts.begin_header,
        "on_header_field": parts.take_header_name,
        "on_header_value": parts.take_header_value,
        "on_header_end": parts.end_header,
        "on_headers_finished": parts.end_headers,
        "on_part_data": parts.take_data,
        "on_part_end": parts.end,
        "on_end": parts.end_all,
    }
    try:
        parser = MultipartParser(boundary, cast("MultipartCallbacks", callbacks))
        for at in range(0, len(body), STRIDE_BYTES):
            parser.write(body[at : at + STRIDE_BYTES])
    except FormParserError as error:
        raise InputError("the multipart body is broken") from error
    if body and not parts.is_complete:
        raise InputError("the multipart body is cut short: its end is missing")
    return parts.content


def _check_delimiters(body: bytes, delimiter: bytes, max_parts: int) -> None:
    """Check how many delimiters there are, what is before the first, and what after the last.

    Args:
        body: the body.
        delimiter: begins with a line break, which the first one needs not have.
        max_parts: limit of the parts.

    Raises:
        InputError: there are too many parts, or there is too much around them. Text that looks
            like a delimiter counts as one: RFC 2046 forbids it in a part, and the parser looks
            at each one character by character.
    """
    positions = _occurrences(body, delimiter)
    if body.startswith(delimiter[2:]):
        positions = chain((-2,), positions)
    first, after = len(body), 0
    for count, at in enumerate(positions):
        if count > max_parts:
            raise InputError(f"the multipart body has more than {max_parts} parts")
        first = min(first, at)
        end = at + len(delimiter)
        if body.startswith(b"--", end):
            after = len(body) - end
            break
    if max(first, after) > MAX_MARGIN_BYTES:
        raise InputError("the multipart body is broken: there is too much around its parts")


def _occurrences(body: bytes, text: bytes) -> Iterator[int]:
    at = 0
    while at < len(body):
        found = body.find(text, at, at + STRIDE_BYTES + len(text) - 1)
        if found >= 0:
            yield found
        at = found + len(text) if found >= 0 else at + STRIDE_BYTES


def _charset(declared: bytes) -> str:
    return declared.decode("latin-1").strip().lower()


def _check_charset(declared: bytes, where: str) -> None:
    name = _charset(declared)
    if name and name not in _UTF_8:
        raise InputError(f"{where}: its text must be UTF-8, not charset={name:.40}")


class _Parts:
    """Callbacks of the parser: collects the parts, within the limits.

    Attributes:
        content: the finished parts.
        is_complete: whether the last delimiter has come.
    """

    def __init__(
        self, max_files: int, file_names: Collection[str], list_names: Collection[str]
    ) -> None:
        self.content = FormContent()
        self.is_complete = False
        self._max_files = max_files
        self._file_names = file_names
        self._list_names = list_names
        self._files = self._fields = self._text_bytes = 0
        self._headers: dict[bytes, bytes] = {}
        self._header_name = self._header_value = b""
        self._header_count = self._header_bytes = 0
        self._name = ""
        self._is_file = self._is_unnamed = False
        self._part: _Bytes | _Text = _Bytes()

    # ---- headers -----------------------------------------------------------------------------

    def begin(self) -> None:
        self._headers = {}
        self._header_count = self._header_bytes = 0

    def begin_header(self) -> None:
        self._header_name = self._header_value = b""
        self._header_count += 1
        if self._header_count > MAX_HEADERS:
            raise InputError(f"the multipart body has a part with more than {MAX_HEADERS} headers")

    def take_header_name(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._header_name += data[start:end]

    def take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._header_value += data[start:end]

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_HEADER_BYTES:
            raise InputError(
                f"the multipart body has a part with headers over {MAX_HEADER_BYTES} bytes"
            )

    def end_header(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value

    def end_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if b"name" not in options:
            raise InputError("the multipart body is broken: a part has no name")
        try:
            self._name = options[b"name"].decode()
        except UnicodeDecodeError as error:
            raise InputError("the multipart body is broken: a name is not UTF-8") from error
        content_type, of_type = parse_options_header(self._headers.get(b"content-type"))
        self._is_file = b"filename" in options or self._has_other_sign_of_a_file(content_type)
        self._is_unnamed = not options.get(b"filename", b"x")
        if self._is_file:
            self._count_file()
            self._part = _Bytes()
            return
        self._fields += 1
        if self._fields > MAX_FIELDS:
            raise InputError(f"the multipart body has more than {MAX_FIELDS} fields")
        declared = of_type.get(b"charset", b"")
        latin = name if (name := _charset(declared)) in _LATIN else None
        if latin is None:
            _check_charset(declared, f"{self._name:.60}")
        self._part = _Bytes() if self._name in self._file_names else _Text(self._name, latin)

    def _has_other_sign_of_a_file(self, content_type: bytes) -> bool:
        disposition = self._headers[b"content-disposition"]
        if _EXTENDED_NAME.search(disposition):
            return True
        is_text = not content_type or content_type.startswith(b"text/")
        return self._name in self._file_names and not is_text

    def _count_file(self) -> None:
        self._files += 1
        if self._files > self._max_files:
            raise InputError(f"the multipart body has more than {self._max_files} files")

    # ---- content -----------------------------------------------------------------------------

    def take_data(self, data: bytes, start: int, end: int) -> None:
        self._part.write(memoryview(data)[start:end])

    def end(self) -> None:
        name, part = self._name, self._part
        if isinstance(part, _Text):
            self.content.files.pop(name, None)
            self.content.texts[name] = self._count_text(part.text())
            return
        content = part.content()
        if not content and self._is_file and self._is_unnamed:
            return  # a browser's empty file input
        is_base64 = not self._is_file and _is_base64(content[:HEAD_BYTES])
        if name in self._list_names:
            self.content.lists.setdefault(name, []).append((content, is_base64))
            return
        if name in self.content.raw_texts or name in self.content.files:
            raise InputError(f"{name:.60}: sent more than once")
        self.content.texts.pop(name, None)
        if is_base64:
            self.content.raw_texts[name] = content
        else:
            self.content.files[name] = content

    def _count_text(self, text: str) -> str:
        self._text_bytes += len(text)
        if self._text_bytes > MAX_TEXT_BYTES:
            raise TooLargeError(
                f"the body without its files is over the limit of {MAX_TEXT_BYTES} bytes"
            )
        if self._name == "_charset_":  # HTML's field for the charset of the other fields
            _check_charset(text.encode(), self._name)
        return text

    def end_all(self) -> None:
        self.is_complete = True


def _is_base64(head: bytes) -> bool:
    text = head.partition(b",")[2] if head.lstrip()[:5].lower() == b"data:" else head
    return bool(_BASE64.match(text)) and not _WORDS.search(text)


class _Bytes:
    """Bytes that are collected without a second copy of them."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()

    def write(self, data: memoryview) -> None:
        self._buffer.write(data)

    def content(self) -> bytes:
        return self._buffer.getvalue()


class _Text:
    """UTF-8 that is checked as it comes; only the beginning of a long one is stored.

    Args:
        name: of the field.
        latin: another charset, of which only ASCII is accepted; None: UTF-8.
    """

    def __init__(self, name: str, latin: str | None) -> None:
        self._name = name
        self._latin = latin
        self._decoder = codecs.getincrementaldecoder("ascii" if latin else "utf-8")()
        self._parts: list[str] = []
        self._size = 0

    def write(self, data: memoryview) -> None:
        text = self._decode(data)
        if self._size < LONG_BYTES:
            self._parts.append(text)
        self._size += len(data)

    def text(self) -> str:
        self._decode(b"", is_last=True)
        text = "".join(self._parts)
        return text if self._size < LONG_BYTES else f"{text[:_PREVIEW_CHARS]}…"

    def _decode(self, data: memoryview | bytes, *, is_last: bool = False) -> str:
        try:
            return self._decoder.decode(data, is_last)
        except UnicodeDecodeError as error:
            problem = f"must be UTF-8, not charset={self._latin}" if self._latin else "is not UTF-8"
            raise InputError(f"{self._name:.60}: its text {problem}") from error
