from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.server import encoded
from trellis2_server.api.large_json import LONG_BYTES, MAX_ESCAPED_QUOTES, MAX_REST_BYTES, parse
from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.base64_text import decode_base64

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
#: What confuses who looks for the ends of strings.
CONFUSING = st.lists(st.sampled_from(['"', "\\", '\\"', 'x"', "é\n", "/", "x"]), max_size=3)


@given(st.dictionaries(TEXT, VALUES, max_size=5), CONFUSING, st.sampled_from([True, False]))
def test_an_object_is_what_json_says_but_for_its_long_strings(
    fields: dict[str, Any], confusing: list[str], ascii_only: object
) -> None:
    fields |= {f"{k}": text * (LONG_BYTES // 2) for k, text in enumerate(confusing)}
    content = json.dumps(fields, ensure_ascii=bool(ascii_only)).encode()
    value, long = parse(content)
    for key, meant in fields.items():
        if key in long:
            assert json.loads(b'"%b"' % long[key]) == meant
            assert len(value[key]) <= 81
        else:
            assert value[key] == meant
    assert value.keys() == fields.keys()
    assert long.keys() == {
        key
        for key, meant in fields.items()
        if isinstance(meant, str)
        and len(json.dumps(meant, ensure_ascii=bool(ascii_only)).encode()) - 2 >= LONG_BYTES
    }


@given(st.binary(max_size=60))
def test_what_is_no_json_is_a_value_error(content: bytes) -> None:
    try:
        meant = json.loads(content)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011 - as json itself
            parse(content)
    else:
        assert parse(content) == (meant, {})


@pytest.mark.parametrize("end", ["", '"', '"}', '", "a"}'])
def test_a_body_that_was_cut_short_is_no_json(end: str) -> None:
    content = ('{"image": "' + "x" * 300_000).encode()
    if end == '"}':
        assert parse(content + end.encode())[1].keys() == {"image"}
    else:
        with pytest.raises(json.JSONDecodeError):
            parse(content + end.encode())


@pytest.mark.parametrize(
    "content",
    [
        b" " * (MAX_REST_BYTES + 1),
        b"[" * (MAX_REST_BYTES + 1),
        b'{"a": [' + b"0," * MAX_REST_BYTES + b"0]}",
        b"{" + b",".join(b'"%d":0' % k for k in range(MAX_REST_BYTES // 8)) + b"}",
        b"[" + b",".join([b'"x"'] * MAX_REST_BYTES) + b"]",
        b'{"a": "' + b'\\"' * (MAX_ESCAPED_QUOTES + 1) + b'"}',
    ],
    ids=["space", "lists", "numbers", "keys", "strings", "quotes"],
)
def test_what_takes_long_to_parse_is_too_large(content: bytes) -> None:
    with pytest.raises(TooLargeError, match="the body "):
        parse(content)


def test_many_long_strings_are_no_trouble() -> None:
    content = json.dumps([["y" * LONG_BYTES] * 200, {"a": "x" * LONG_BYTES}]).encode()
    value, long = parse(content)
    assert len(value[0]) == 200
    assert long == {}  # a list's are nobody's


@settings(max_examples=30)
@given(st.binary(min_size=3, max_size=30), st.sampled_from([1, 7_000]), st.integers(0, 5))
def test_base64_comes_back_however_json_wrote_it(some: bytes, times: int, kind: int) -> None:
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
def test_what_is_no_base64_is_refused_wherever_it_is(wrong: str, before: int) -> None:
    text = "A" * before + wrong + "A" * 20
    with pytest.raises(InputError, match=r"^image: not base64"):
        decode_base64(memoryview(text.encode()), max_bytes=1_000_000)


def test_more_than_the_limit_is_not_decoded() -> None:
    text = memoryview(encoded(bytes(1_000_000)).encode())
    assert decode_base64(text, max_bytes=1_000_000) == bytes(1_000_000)
    for limit in (999_999, 100):
        with pytest.raises(TooLargeError, match=f"image: over the limit of {limit} bytes"):
            decode_base64(text, max_bytes=limit)
