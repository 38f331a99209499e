"""Bodies whose content type is missing, wrong or unknown."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.requests_in_parts import FORM, form, parse
from tests.support.server import encoded, picture
from trellis2_server.api.body_kinds import HEAD_BYTES, body_kind, form_boundary, json_codec
from trellis2_server.api.request_parsing import MAX_INLINE_BYTES
from trellis2_server.errors import InputError, TooLargeError

URLENCODED = "application/x-www-form-urlencoded"
#: What `curl --data-binary` declares, nothing, and what nobody registered.
VAGUE = ["", URLENCODED, "application/octet-stream", "text/plain", "binary/x-unknown", "*/*"]
CODECS = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "utf-8-sig"]


@pytest.mark.parametrize("kind", VAGUE)
@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_picture_is_one_whatever_its_content_type(kind: str, file_format: str) -> None:
    content = picture(file_format=file_format)
    parsed = parse([content[:2], content[2:]], kind, "seed=7")
    assert (parsed.picture, parsed.fields) == (content, {"seed": "7"})


@pytest.mark.parametrize("kind", VAGUE)
def test_json_and_forms_are_such_whatever_their_content_type(kind: str) -> None:
    fields = {"image": encoded(picture()), "seed": 7}
    for content in (json.dumps(fields), f"\n {json.dumps(fields, indent=1)}"):
        assert parse([content.encode()], kind).picture == picture()
    sent = form(('name="image"; filename="a"', picture()), ('name="seed"', b"7"))
    assert parse([sent], kind).picture == picture()


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x1cftypheic", "picture"),
        (b"%PDF-1.7", "picture"),
        (b"<svg xmlns=", "picture"),
        (b"<!doctype html>", "picture"),
        (b"glTF\2\0\0\0", "picture"),
        (b"\xc3\xa9\xff", "picture"),
        (b"hello", "json"),
        ("é".encode() * 512 + b"\xc3", "json"),
        (b"seed=7", "json"),
        (b" \r\n", "empty"),
    ],
)
def test_what_is_neither_goes_to_the_reader_that_can_say_so(head: bytes, kind: str) -> None:
    assert body_kind(head[:HEAD_BYTES], "") == kind
    assert body_kind(head[:HEAD_BYTES], "image/png") == "picture"
    assert body_kind(head[:HEAD_BYTES], "multipart/form-data") == "form"


@given(st.binary(max_size=60), st.sampled_from([*VAGUE, FORM, "image/png", "application/json"]))
def test_any_bytes_of_any_type_are_parsed_or_refused(content: bytes, kind: str) -> None:
    try:
        parse([content], kind)
    except InputError as error:
        str(error).encode()


def test_the_boundary_of_a_form_is_its_first_line() -> None:
    assert form_boundary(b"--a b\r\nContent-Disposition: x") == b"a b"
    assert form_boundary(b"\r\n--x\r\ncontent-type: x") == b"x"
    for none in (
        b"--x\r\nA: b",
        b"x\r\nContent-Type: a",
        b"--" + b"x" * 201 + b"\r\nContent-Type:",
    ):
        assert form_boundary(none) == b""


# ---- JSON in other encodings ---------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [0, MAX_INLINE_BYTES, 600_001])
def test_json_may_be_utf_16_or_32_at_any_length(codec: str, size: int) -> None:
    content = bytes(size) + b"end"
    text = json.dumps({"image": encoded(content), "text": "é𝄞", "seed": 7}, ensure_ascii=False)
    parsed = parse([text.encode(codec)], "application/json", limit=2**24)
    assert parsed.picture == content
    assert parsed.fields == {"text": "é𝄞", "seed": 7}


@pytest.mark.parametrize("codec", ["utf-16", "utf-32-be"])
def test_text_that_is_cut_in_a_character_is_refused(codec: str) -> None:
    with pytest.raises(InputError, match=f"the body is not JSON: not {codec[:6].upper()}"):
        parse([json.dumps({"text": "x" * 9}).encode(codec)[:-1]])


def test_text_that_would_grow_is_refused_before_it_does() -> None:
    text = json.dumps({"text": "語" * 200_000}, ensure_ascii=False).encode("utf-16-le")
    with pytest.raises(TooLargeError, match="without its files is over the limit"):
        parse([text], limit=2**24)


def test_ascii_and_utf_8_have_no_codec() -> None:
    for head in (b"", b"{", b"{}", b'{"a": 1}', '{"é": 1}'.encode(), b"\xef\xbb\xbf{}"):
        assert json_codec(head) is None
