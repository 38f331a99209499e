from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.pictures import allow_input_error
from trellis2_server.base64_text import decode_base64
from trellis2_server.errors import InputError, TooLargeError


@given(
    st.binary(min_size=1, max_size=200),
    st.sampled_from(["+/", "-_"]),
    st.sampled_from(["", "=", "=="]),
    st.sampled_from(["", " data:image/png;base64,\r\n", "DATA:;Base64,"]),
)
def test_base64_is_decoded_in_every_variant(
    data: bytes, alphabet: str, padding: str, prefix: str
) -> None:
    text = base64.b64encode(data, alphabet.encode()).decode().rstrip("=") + padding
    text = "\n ".join(text[i : i + 7] for i in range(0, len(text), 7))
    assert decode_base64(prefix + text, max_bytes=200) == data


@pytest.mark.parametrize(
    "text", ["", " \n", "====", "data:image/png;base64,", "data:image/png,abcd", "data:", "a",
             "not base64!", "été", "ab=cd", "https://example.com/a.png"],
)  # fmt: skip
def test_other_text_is_an_input_error_that_names_the_field(text: str) -> None:
    with pytest.raises(InputError, match=r"^image: "):
        decode_base64(text, max_bytes=1000)


def test_base64_over_the_limit_is_too_large_and_names_the_limit() -> None:
    text = base64.b64encode(b"x" * 300).decode()
    assert len(decode_base64(text, max_bytes=300)) == 300
    with pytest.raises(TooLargeError, match="299"):
        decode_base64(text, max_bytes=299)


@pytest.mark.parametrize("size", [301, 302])
def test_the_limit_counts_the_last_bytes_of_a_text_without_padding(size: int) -> None:
    text = base64.b64encode(bytes(size)).decode().rstrip("=")
    assert decode_base64(text, max_bytes=size) == bytes(size)
    with pytest.raises(TooLargeError):
        decode_base64(text, max_bytes=size - 1)


@given(st.text(max_size=60))
def test_arbitrary_text_raises_at_most_an_input_error(text: str) -> None:
    with allow_input_error():
        assert isinstance(decode_base64(text, max_bytes=20), bytes)


@pytest.mark.parametrize("size", [1, 196_606, 196_609, 500_000])
def test_json_escapes_are_decoded_across_chunks(size: int) -> None:
    data = bytes(i * i % 251 for i in range(size))
    text = base64.b64encode(data).decode()
    escaped = json.dumps(text)[1:-1].replace("/", "\\/").replace("A", "\\u0041")
    assert decode_base64(memoryview(escaped.encode()), max_bytes=size) == data
