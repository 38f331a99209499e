"""Which parts of a form are files, and that none is lost."""

from __future__ import annotations

import pytest

from tests.api.test_forms import form, parse, part, text
from trellis2_server.api.forms import FormContent
from trellis2_server.errors import InputError


@pytest.mark.parametrize("kinds", ["ff", "ft", "tf", "tt"])
@pytest.mark.parametrize("name", ["image", "mesh"])
def test_no_file_is_lost_because_another_one_has_its_name(kinds: str, name: str) -> None:
    disposition = f'Content-Disposition: form-data; name="{name}"'
    parts = {"f": part(f'{disposition}; filename="a"', b"file"), "t": text(name, b"text")}
    with pytest.raises(InputError, match=f"^{name}: sent more than once$"):
        parse(form(*(parts[kind] for kind in kinds)))


MESH = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ("\r\nContent-Type: image/png", b"abcd"),
        ("\r\nContent-Type: application/octet-stream", b"abcd"),
        ("; filename*=UTF-8''%e2%82%ac.png", b"abcd"),
        ("; FileName* = utf-8''a.png\r\nContent-Type: text/plain", b"abcd"),
        ("", b"\x89PNG\r\n\x1a\n"),
        ("", b"\xff\xd8\xff\xe0"),
        ("", b"glTF\2\0\0\0"),
        ("", MESH),
        ("\r\nContent-Type: text/plain", MESH),
        ("", b"solid\nfacet normal 0 0 1\nouter loop"),
    ],
)
def test_a_part_without_a_file_name_is_a_file_if_its_type_or_its_bytes_say_so(
    headers: str, content: bytes
) -> None:
    for name in ("image", "mesh"):
        sent = part(f'Content-Disposition: form-data; name="{name}"{headers}', content)
        parsed = parse(form(sent, text("seed")))
        assert (parsed.files, parsed.raw_texts) == ({name: content}, {})
        assert parsed.texts == {"seed": "7"}


@pytest.mark.parametrize(
    "content",
    [
        b"iVBORw0KGgo=",
        b"data:image/png;base64,iVBO",
        b" iVBO\r\n  Rw0K\r\n",
        b"a-_b",
        b"QUJD" * 999,
    ],
)
def test_base64_in_a_part_without_a_file_name_is_none(content: bytes) -> None:
    for headers in ("", "\r\nContent-Type: text/plain; charset=utf-8"):
        parsed = parse(
            form(part(f'Content-Disposition: form-data; name="image"{headers}', content))
        )
        assert (parsed.files, parsed.raw_texts) == ({}, {"image": content})


def test_a_file_input_of_a_browser_without_a_file_is_left_out() -> None:
    headers = 'Content-Disposition: form-data; name="mesh"; filename=""\r\n'
    headers += "Content-Type: application/octet-stream"
    assert parse(form(part(headers, b""), text("seed"))) == FormContent(texts={"seed": "7"})
    assert parse(form(part(headers, b"x"))).files == {"mesh": b"x"}


def test_the_boundary_may_be_in_the_body_alone() -> None:
    sent = form(part('Content-Disposition: form-data; name="image"; filename="a"', b"file"))
    for kind in ("multipart/form-data", "", "text/plain"):
        assert parse(sent, kind).files == {"image": b"file"}
