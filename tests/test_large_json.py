from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.server import encoded
from trellis2_server.base64_text import decode_base64
from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.large_json import (
    LONG_BYTES,
    MAX_ESCAPED_QUOTES,
    MAX_REMAINDER_BYTES,
    parse,
    parse_nested,
)

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
#: Parts of strings that make it hard to find their ends.
CONFUSING = st.lists(st.sampled_from(['"', "\\", '\\"', 'x"', "é\n", "/", "x"]), max_size=3)


@pytest.mark.costly
@given(st.dictionaries(TEXT, VALUES, max_size=5), CONFUSING, st.sampled_from([True, False]))
def test_objects_are_parsed_as_by_json_except_for_long_strings(
    fields: dict[str, Any], confusing: list[str], ascii_only: object
) -> None:
    fields |= {f"{k}": text * (LONG_BYTES // 2) for k, text in enumerate(confusing)}
    content = json.dumps(fields, ensure_ascii=bool(ascii_only)).encode()
    value, long = parse(content)
    for key, expected in fields.items():
        if key in long:
            assert json.loads(b'"%b"' % long[key]) == expected
            assert len(value[key]) <= 81
        else:
            assert value[key] == expected
    assert value.keys() == fields.keys()
    assert long.keys() == {
        key
        for key, expected in fields.items()
        if isinstance(expected, str)
        and len(json.dumps(expected, ensure_ascii=bool(ascii_only)).encode()) - 2 >= LONG_BYTES
    }


def test_long_strings_of_objects_become_views_at_any_depth() -> None:
    longest_left, cut_out = "y" * (LONG_BYTES - 1), 'x/"\\é' * LONG_BYTES
    value = {"data": [{"a": cut_out, "b": longest_left, "c": None}, 7], "d": {"e": {"a": cut_out}}}
    parsed = parse_nested(json.dumps(value).encode())
    views = [parsed["data"][0].pop("a"), parsed["d"]["e"].pop("a")]
    for view in views:
        assert isinstance(view, memoryview)
        assert json.loads(b'"%b"' % view) == cut_out
    assert parsed == {"data": [{"b": longest_left, "c": None}, 7], "d": {"e": {}}}
    with pytest.raises(TooLargeError):
        parse_nested(json.dumps(["y"] * MAX_REMAINDER_BYTES).encode())


def check_parsed_as_by_json(content: bytes) -> None:
    try:
        expected = json.loads(content)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011 - as json itself
            parse(content)
    else:
        assert parse(content) == (expected, {})


@given(st.binary(max_size=60))
def test_invalid_json_raises_a_value_error(content: bytes) -> None:
    check_parsed_as_by_json(content)


@pytest.mark.parametrize("end", ["", '"', '"}', '", "a"}'])
def test_truncated_json_is_invalid(end: str) -> None:
    content = ('{"image": "' + "x" * 300_000).encode()
    if end == '"}':
        assert parse(content + end.encode())[1].keys() == {"image"}
    else:
        with pytest.raises(json.JSONDecodeError):
            parse(content + end.encode())


@pytest.mark.parametrize(
    "content",
    [
        b" " * (MAX_REMAINDER_BYTES + 1),
        b"[" * (MAX_REMAINDER_BYTES + 1),
        b'{"a": [' + b"0," * MAX_REMAINDER_BYTES + b"0]}",
        b"{" + b",".join(b'"%d":0' % k for k in range(MAX_REMAINDER_BYTES // 8)) + b"}",
        b"[" + b",".join([b'"x"'] * MAX_REMAINDER_BYTES) + b"]",
        b'{"a": "' + b'\\"' * (MAX_ESCAPED_QUOTES + 1) + b'"}',
    ],
    ids=["space", "lists", "numbers", "keys", "strings", "quotes"],
)
def test_content_that_is_slow_to_parse_is_too_large(content: bytes) -> None:
    with pytest.raises(TooLargeError, match="the body "):
        parse(content)


def test_many_long_strings_are_supported() -> None:
    content = json.dumps([["y" * LONG_BYTES] * 200, {"a": "x" * LONG_BYTES}]).encode()
    value, long = parse(content)
    assert len(value[0]) == 200
    assert long == {}  # only the values of an object are returned


@settings(max_examples=30)
@given(st.binary(min_size=3, max_size=30), st.sampled_from([1, 7_000]), st.integers(0, 5))
def test_base64_is_decoded_with_any_json_escapes(some: bytes, times: int, kind: int) -> None:
    data = some * times
    text = f"data:image/png;base64,{encoded(data)}"
    written = [
        text,
        text.replace("/", "\\/"),
        text.replace("+", "\\u002b").replace("=", "\\u003D"),
        "\\n".join(text[at : at + 76] for at in range(0, len(text), 76)),
        "".join(f"\\u{ord(c):04x}" for c in text[:3000]) + text[3000:],
        text[:400] + "".join(f"\\u{ord(c):04x}" for c in text[400:]),
    ][kind]
    assert decode_base64(memoryview(written.encode()), max_bytes=300_000) == data


@pytest.mark.parametrize("wrong", ["\\\\", "\\", "\\u12", "\\u00e9", "é", "\\ud800", '\\"', "=A"])
@pytest.mark.parametrize("before", [0, 262_140, 262_143, 262_144])
def test_invalid_base64_is_rejected_at_any_position(wrong: str, before: int) -> None:
    text = "A" * before + wrong + "A" * 20
    with pytest.raises(InputError, match=r"^image: not base64"):
        decode_base64(memoryview(text.encode()), max_bytes=1_000_000)


def test_files_above_the_limit_are_not_decoded() -> None:
    text = memoryview(encoded(bytes(1_000_000)).encode())
    assert decode_base64(text, max_bytes=1_000_000) == bytes(1_000_000)
    for limit in (999_999, 100):
        with pytest.raises(TooLargeError, match=f"image: over the limit of {limit} bytes"):
            decode_base64(text, max_bytes=limit)


# ---- limits: at, and one over --------------------------------------------------------------------


@pytest.mark.parametrize(("length", "is_long"), [(LONG_BYTES - 1, False), (LONG_BYTES, True)])
def test_a_string_is_cut_out_from_a_length_on(length: int, *, is_long: bool) -> None:
    value, long = parse(b'{"a": "' + b"x" * length + b'"}')
    assert ("a" in long) is is_long
    assert value["a"] == ("x" * 80 + "…" if is_long else "x" * length)


@pytest.mark.parametrize("begin", [b"[", b'["x"', b'["x", "y"', b'{"a": 7'])
def test_what_is_left_may_be_as_large_as_the_limit(begin: bytes) -> None:
    end = b"}" if begin.startswith(b"{") else b"]"
    filler = b" " * (MAX_REMAINDER_BYTES - len(begin) - 1)
    counted = len(begin) + 1 - begin.count(b'"') // 2  # a closing quotation mark is not counted
    assert parse(begin + filler + end)[1] == {}
    more = b" " * (MAX_REMAINDER_BYTES - counted + 1)
    with pytest.raises(TooLargeError, match=f"over the limit of {MAX_REMAINDER_BYTES} bytes"):
        parse(begin + more + end)


def test_long_strings_do_not_count_in_what_is_left() -> None:
    long = b"x" * LONG_BYTES
    content = b'{"a": "' + long + b'"' + b" " * (MAX_REMAINDER_BYTES - 100) + b"}"
    assert bytes(parse(content)[1]["a"]) == long


def test_as_many_quotation_marks_as_the_limit_may_be_escaped() -> None:
    text = b"x" * LONG_BYTES + b'\\"' * MAX_ESCAPED_QUOTES
    value, long = parse(b'{"a": "' + text + b'"}')
    assert bytes(long["a"]) == text
    half = b'\\"' * (MAX_ESCAPED_QUOTES // 2) + b"x" * LONG_BYTES
    two = b'{"a": "' + half + b'", "b": "' + half + b'%b"}'
    assert parse(two % b"")[1].keys() == {"a", "b"}
    with pytest.raises(TooLargeError, match=f"more than {MAX_ESCAPED_QUOTES} quotation marks"):
        parse(two % b'\\"')
    del value


@pytest.mark.parametrize("count", range(1, 8))
@pytest.mark.parametrize("stride", [1, 2, 3, 1 << 20])
def test_a_quotation_mark_ends_a_string_unless_it_is_escaped(
    monkeypatch: pytest.MonkeyPatch, count: int, stride: int
) -> None:
    """However many backslashes are before it, and wherever a stride ends."""
    monkeypatch.setattr("trellis2_server.large_json._STRIDE", stride)
    content = b'{"a": "x' + b"\\" * count + b'", "b": "y"}'
    check_parsed_as_by_json(content)


def test_the_limits_are_what_they_are_said_to_be() -> None:
    assert (LONG_BYTES, MAX_REMAINDER_BYTES, MAX_ESCAPED_QUOTES) == (16_384, 131_072, 65_536)


def test_keys_that_may_be_there_once_are_not_lost() -> None:
    for value in ('"a"', '"' + "a" * 20_000 + '"', "null"):
        text = f'{{"image": {value}, "seed": 1, "seed": 2, "image": "b"}}'.encode()
        assert parse(text)[0] == {"image": "b", "seed": 2}
        with pytest.raises(InputError, match=r"^image: sent more than once$"):
            parse(text, ("image", "mesh"))
