from __future__ import annotations

import json
import struct
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes import Glb, glb_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)
FORMS = st.sampled_from(
    [
        {"separators": (",", ":")},
        {"indent": 1},
        {"separators": (" ,\t", "\r\n: "), "ensure_ascii": False},
    ]
)


def container(text: bytes) -> bytes:
    return struct.pack("<4sIII4s", b"glTF", 2, 20 + len(text), len(text), b"JSON") + text


def parsed(text: bytes) -> Any:
    """Return what `json.loads` does: an object, or what is wrong."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos
    except (ValueError, RecursionError):
        return "invalid"
    return document if isinstance(document, dict) else "no object"


@given(
    st.dictionaries(st.text(max_size=3), VALUES, max_size=4) | VALUES,
    FORMS,
    st.integers(0, 200),
    st.sampled_from(["", ",", "]", "}", "[", "{", '"', ":", "0", " "]),
)
@example({"a": []}, {"indent": None}, 200, "")
@example({"a": [0]}, {"indent": None}, 7, ",")
@example({}, {"indent": None}, 1, ",")
def test_json_is_parsed_as_python_does(
    value: Any, form: dict[str, Any], at: int, inserted: str
) -> None:
    written = json.dumps(value, **form)
    text = (written[:at] + inserted + written[at:]).encode("utf-8", "surrogatepass")
    expected = parsed(text)
    if isinstance(expected, dict):
        assert json.dumps(Glb(container(text)).json) == json.dumps(expected)
        return
    with pytest.raises(InputError, match=r"^mesh: the JSON of the GLB is not ") as caught:
        Glb(container(text))
    if isinstance(expected, int) and sys.version_info < (3, 13):  # whose positions differ
        assert f"at character {expected}:" in str(caught.value)


def test_long_lists_are_parsed_item_by_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of the parser holds the interpreter lock until it returns."""
    lengths: list[int] = []
    parse = glb_json._parse_value

    def noted(text: str, at: int) -> tuple[Any, int]:
        value, end = parse(text, at)
        lengths.append(end - at)
        return value, end

    monkeypatch.setattr(glb_json, "_parse_value", noted)
    monkeypatch.delattr(glb_json.json, "loads")
    document = {"nodes": [{"name": f"{at}", "mesh": at} for at in range(5000)]}
    assert Glb(container(json.dumps(document).encode())).json == document
    assert max(lengths) < 40


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-le"])
def test_other_encodings_are_read_as_before(encoding: str) -> None:
    assert Glb(container('{"a": ["\u00e9"]}'.encode(encoding))).json == {"a": ["\u00e9"]}
