"""A JSON parser for requests and replies with long strings, such as files in base64.

`json.loads` holds the GIL: a body of ten megabytes would block the event loop for seconds, on
any thread. Nearly all of such a body is one string. This parser finds long strings by their
quotation marks, cuts them out without copying, and parses only the small remainder.

Does not know: what the fields mean, base64.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.errors import InputError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Collection

#: Minimum length of the strings that are cut out, bytes.
LONG_BYTES: Final = 16_384
#: Limit of the remainder without the long strings, bytes; parsing it takes about 10 ms.
MAX_REMAINDER_BYTES: Final = 131_072
#: Limit of escaped quotation marks in strings; each of them costs a search.
MAX_ESCAPED_QUOTES: Final = 65_536
#: Bytes that are searched without releasing the GIL; takes well under a millisecond.
_STRIDE: Final = 1_048_576
#: Beginning of a long string that is left in the parsed value, for error messages, bytes.
_PREVIEW_BYTES: Final = 80


def parse(
    content: bytes, once: Collection[str] = (), lists: Collection[str] = ()
) -> tuple[Any, dict[str, Any]]:
    """Parse JSON; return the value, and the long strings among the values of an object.

    In the value, long strings are truncated. The long strings are returned by their keys, as
    views of `content` between the quotation marks, with their escape sequences. So are lists that
    have some, with all their items.

    Args:
        content: the JSON, in UTF-8.
        once: keys that an object may have only once; of other keys, the last one counts.
        lists: keys whose values may be lists of long strings.

    Raises:
        ValueError: the content is not JSON.
        InputError: an object has a key of `once` more than once.
        RecursionError: the content is nested too deeply.
        TooLargeError: the content is large even without its long strings.
    """
    remainder, spans = _cut_out_long_strings(content)
    value: Any = json.loads(remainder, object_pairs_hook=partial(_object, once))
    long: dict[str, Any] = {}

    def view(item: object) -> object:
        if not isinstance(item, str) or item not in spans:
            return item
        begin, end = spans[item]
        return memoryview(content)[begin:end]

    def preview(item: object) -> object:
        if not isinstance(item, str) or item not in spans:
            return item
        begin = spans[item][0]
        return f"{content[begin : begin + _PREVIEW_BYTES].decode(errors='replace')}…"

    if isinstance(value, dict):
        for key, text in value.items():
            if isinstance(text, str) and text in spans:
                long[key], value[key] = view(text), preview(text)
            elif key in lists and isinstance(text, list):
                long[key], value[key] = [*map(view, text)], [*map(preview, text)]
    return value, long


def parse_nested(content: bytes) -> Any:
    """Parse JSON whose long strings may be at any depth; return the value.

    In objects, the values that are long strings are views of `content` between the quotation marks,
    with their escape sequences. Long strings of lists, and long keys, are truncated to a token.

    Args:
        content: the JSON, in UTF-8.

    Raises:
        ValueError: the content is not JSON.
        RecursionError: the content is nested too deeply.
        TooLargeError: the content is large even without its long strings.
    """
    remainder, spans = _cut_out_long_strings(content)
    whole = memoryview(content)

    def view(item: object) -> object:
        if not isinstance(item, str) or item not in spans:
            return item
        begin, end = spans[item]
        return whole[begin:end]

    def with_views(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: view(item) for key, item in pairs}

    return json.loads(remainder, object_pairs_hook=with_views)


def _object(once: Collection[str], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        for key in once:
            if counts[key] > 1:
                raise InputError(f"{key}: sent more than once")
    return value


def _cut_out_long_strings(content: bytes) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """Replace each long string by a placeholder; return the spans of the long strings.

    `size` counts the bytes of the remainder.
    """
    token = secrets.token_hex(8)  # clients cannot guess it
    spans: dict[str, tuple[int, int]] = {}
    parts: list[bytes] = []
    copied = at = size = escaped_quotes = 0
    while True:
        begin = content.find(b'"', at, at + MAX_REMAINDER_BYTES + 1) + 1
        size += (begin or min(len(content), at + MAX_REMAINDER_BYTES + 1)) - at
        if not begin or size > MAX_REMAINDER_BYTES:
            break
        end, escaped = _end_of_string(content, begin, MAX_ESCAPED_QUOTES - escaped_quotes)
        escaped_quotes += escaped
        if end == len(content):
            raise json.JSONDecodeError("Unterminated string", "", begin)
        if end - begin >= LONG_BYTES:
            placeholder = f"{token}-{len(spans)}"
            spans[placeholder] = (begin, end)
            parts += (content[copied:begin], placeholder.encode())
            copied = end
        else:
            size += end - begin
        at = end + 1
    if size > MAX_REMAINDER_BYTES:
        raise TooLargeError(
            f"the body without its files is over the limit of {MAX_REMAINDER_BYTES} bytes"
        )
    parts.append(content[copied:])
    return b"".join(parts), spans


def _end_of_string(content: bytes, begin: int, max_escaped: int) -> tuple[int, int]:
    """Find the end of the string that begins at `begin`; count its escaped quotation marks.

    An unterminated string ends at the end of the content.
    """
    at, escaped = begin, 0
    while at < len(content):
        end = content.find(b'"', at, at + _STRIDE)
        if end < 0:
            at += _STRIDE
        elif not _count_backslashes(content, begin, end) % 2:
            return end, escaped
        else:
            at, escaped = end + 1, escaped + 1
            if escaped > max_escaped:
                raise TooLargeError(
                    f"the body has more than {MAX_ESCAPED_QUOTES} quotation marks in strings"
                )
    return len(content), escaped


def _count_backslashes(content: bytes, begin: int, end: int) -> int:
    """Count the consecutive backslashes directly before `end`, not before `begin`."""
    count = 0
    while end > begin:
        part = content[max(begin, end - _STRIDE) : end]
        in_part = len(part) - len(part.rstrip(b"\\"))
        count += in_part
        if in_part < len(part):
            break
        end -= len(part)
    return count
