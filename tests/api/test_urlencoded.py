"""Forms without parts, as HTML, `requests` and `curl -d` send them."""

from __future__ import annotations

import base64
from urllib.parse import quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.requests_in_parts import parse
from tests.support.server import encoded, picture
from trellis2_server.api import urlencoded
from trellis2_server.api.forms import LONG_BYTES, MAX_FIELDS, MAX_TEXT_BYTES, FormContent
from trellis2_server.api.urlencoded import parse_urlencoded
from trellis2_server.errors import InputError, TooLargeError

TYPE = "application/x-www-form-urlencoded"
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=50)


def read(content: bytes) -> FormContent:
    return parse_urlencoded(lambda: content, file_names=("image", "mesh"))


@given(st.dictionaries(TEXTS.filter(lambda name: name not in {"image", "mesh"}), TEXTS, min_size=1))
def test_what_is_encoded_is_read(fields: dict[str, str]) -> None:
    assert read(urlencode(fields).encode()).texts == fields


def test_a_request_has_its_fields_and_its_files() -> None:
    fields = {"image": encoded(picture()), "mesh": encoded(b"mesh"), "seed": "7"}
    parsed = parse([urlencode(fields).encode()], f"{TYPE}; charset=UTF-8")
    assert (parsed.picture, parsed.mesh) == (picture(), b"mesh")
    assert parsed.fields == {"seed": "7"}


@pytest.mark.parametrize("stride", [3, 4, 7, 262_144])
def test_files_may_be_escaped_as_much_as_clients_like(
    stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urlencoded, "STRIDE_BYTES", stride)
    content = bytes(range(256)) * 2 + b"\xff\xef\xbe" * 9  # has `+` and `/`
    text = base64.b64encode(content).decode()
    lines = base64.encodebytes(content).decode()
    for value in (
        text,  # `curl -d image=$(base64 …)`: a plus sign is meant
        quote_plus(text),
        quote_plus(lines),
        quote_plus(f"data:image/png;base64,{text}"),
        text.replace("+", "%2b").replace("/", "%2f"),
        text.replace("+", "-").replace("/", "_").rstrip("="),
    ):
        assert parse([f"seed=7&image={value}&x=".encode()], TYPE).picture == content


@pytest.mark.parametrize("value", ["%89PNG", "%", "abcd%4", "%zz"])
def test_a_file_that_is_no_base64_is_refused(value: str) -> None:
    with pytest.raises(InputError, match=r"^image: not base64$"):
        parse([f"image={value}".encode()], TYPE)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"image=QUJD&image=QUJD", "^image: sent more than once"),
        (b"hello", "has no field; set Content-Type"),
        (b"=&" * (MAX_FIELDS + 1), f"more than {MAX_FIELDS} fields"),
        (b"&" * 5_000_000, f"more than {MAX_FIELDS} fields"),
        (b"a=%ff", "^a: its text is not UTF-8"),
        (b"%ff=a", "^the body: its text is not UTF-8"),
    ],
)
def test_malformed_and_costly_bodies_are_refused(content: bytes, cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        read(content)


def test_the_last_text_counts_and_long_ones_are_cut() -> None:
    assert read(b"seed=7&seed=8&texture&x=").texts == {"seed": "8", "x": ""}
    assert read(b"a=" + b"x" * (LONG_BYTES - 1)).texts == {"a": "x" * (LONG_BYTES - 1)}
    assert read(b"a=" + b"%41" * LONG_BYTES).texts["a"].startswith("AAAA")
    assert len(read(b"a=" + b"x" * LONG_BYTES).texts["a"]) == 81
    many = b"&".join(b"a%d=%b" % (k, b"x" * 16_000) for k in range(1 + MAX_TEXT_BYTES // 16_000))
    with pytest.raises(TooLargeError, match="without its files is over the limit"):
        read(many)
