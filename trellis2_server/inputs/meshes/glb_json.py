"""Parse the JSON of a glTF file as `json.loads` does, in slices that let other threads run.

Does not know: what the JSON means.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from trellis2_server.errors import InputError

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_parse_value: Final = json.JSONDecoder().raw_decode


def parse_document(content: bytes, kind: str) -> dict[str, Any]:
    """Parse the JSON of a glTF file, in any encoding that `json.loads` reads.

    Args:
        content: the text.
        kind: of the file, for error messages.

    Raises:
        InputError: it is not a JSON object.
    """
    try:
        text = content.decode(json.detect_encoding(content), "surrogatepass")
        # Some programs pad the chunk with NUL instead of blanks.
        document = _parse_in_slices(text.rstrip("\0"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"mesh: the JSON of the {kind} is not valid at character {error.pos}: {error.msg}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"mesh: the JSON of the {kind} is not valid") from error
    if document is None:
        raise InputError(f"mesh: the JSON of the {kind} is not an object")
    return document


def _parse_in_slices(text: str) -> dict[str, Any] | None:
    """Parse JSON as `json.loads` does, the items of the outer lists one by one.

    `json.loads` holds the interpreter lock, for megabytes longer than others can wait.

    Returns:
        The object, or None for another value.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deep.
    """
    at = _after_space(text, 0)
    document: dict[str, Any] = {}
    if text[at : at + 1] != "{":
        json.loads(text)
        return None
    at = _after_space(text, at + 1)
    if text[at : at + 1] == "}":
        at += 1
    else:
        while True:
            if text[at : at + 1] != '"':
                raise json.JSONDecodeError(
                    "Expecting property name enclosed in double quotes", text, at
                )
            name, at = _parse_value(text, at)
            at = _expect(text, at, ":")
            if text[at : at + 1] == "[":
                document[name], at = _parse_list(text, at)
            else:
                document[name], at = _parse_value(text, at)
            at = _after_space(text, at)
            if text[at : at + 1] == "}":
                at += 1
                break
            at = _expect(text, at, ",")
    if _after_space(text, at) != len(text):
        raise json.JSONDecodeError("Extra data", text, _after_space(text, at))
    return document


def _parse_list(text: str, at: int) -> tuple[list[Any], int]:
    """Parse the list that begins at a position; return it, and the position after it."""
    items: list[Any] = []
    at = _after_space(text, at + 1)
    if text[at : at + 1] == "]":
        return items, at + 1
    while True:
        item, at = _parse_value(text, at)
        items.append(item)
        at = _after_space(text, at)
        if text[at : at + 1] == "]":
            return items, at + 1
        at = _expect(text, at, ",")


def _expect(text: str, at: int, sign: str) -> int:
    """Return the position after a sign and the space around it. Raises if it is not there."""
    at = _after_space(text, at)
    if text[at : at + 1] != sign:
        raise json.JSONDecodeError(f"Expecting '{sign}' delimiter", text, at)
    return _after_space(text, at + 1)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()
