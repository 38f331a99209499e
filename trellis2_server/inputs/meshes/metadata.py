"""Names and extras of a mesh file: what is kept of them, so that it can be written as JSON.

Does not know: file formats, nodes.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

#: Kept of all names of a file, and of all extras, bytes of JSON. Most files have kilobytes.
MAX_NAMES_BYTES: Final = 1_048_576
MAX_EXTRAS_BYTES: Final = 524_288
#: Maximum depth of lists and objects in extras: writing JSON is recursive.
MAX_DEPTH: Final = 32

#: Half a pair of UTF-16; JSON text can contain one, UTF-8 cannot.
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def json_text(value: object) -> bytes | None:
    """Return a value as strict JSON in UTF-8, or None if that cannot hold it.

    Args:
        value: from a JSON parser.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        return None


def is_shallow(value: object) -> bool:
    """Whether lists and objects of a JSON value are at most `MAX_DEPTH` deep."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return True
        level = [
            inner
            for item in containers
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return False


class MetadataFilter:
    """Names and extras of one file, until the limits are used up; what is beyond them is left out.

    Half a surrogate pair becomes U+FFFD. Numbers that JSON does not have (NaN and infinities, which
    Python and other programs write anyway) become null.
    """

    def __init__(self) -> None:
        self._names_left = MAX_NAMES_BYTES
        self._extras_left = MAX_EXTRAS_BYTES

    def name(self, value: object) -> str | None:
        """Return a name, or None if it is not text or beyond the limit."""
        if not isinstance(value, str) or len(value) > self._names_left:
            return None
        name = _SURROGATE.sub("\ufffd", value)
        size = len(json.dumps(name, ensure_ascii=False).encode())
        if size > self._names_left:
            return None
        self._names_left -= size
        return name

    def extras(self, value: object) -> Any:
        """Return extras, or None if they are null, too deep or beyond the limit."""
        if value is None or not self._extras_left:
            return None
        try:
            # With ASCII and invalid numbers, the size of any parsed JSON can be measured.
            if len(json.dumps(value)) > 3 * self._extras_left or not is_shallow(value):
                return None
        except (ValueError, RecursionError):
            return None
        text = json_text(value)
        if text is None:
            value = _cleaned(value)
            text = json_text(value)
        if text is None or len(text) > self._extras_left:
            return None
        self._extras_left -= len(text)
        return value


def _cleaned(value: Any) -> Any:
    """Copy a JSON value with what strict JSON cannot hold replaced."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if isinstance(value, dict):
        return {_SURROGATE.sub("\ufffd", key): _cleaned(item) for key, item in value.items()}
    return value
