"""Forms as clients send them, compared with Starlette's parser, and forms that cost too much."""

from __future__ import annotations

import asyncio
import base64
import tempfile
import threading
import tracemalloc
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import UploadFile
from starlette.requests import Request

from tests.support.requests_in_parts import parse as parse_request
from trellis2_server.api import forms
from trellis2_server.api.forms import FormContent, parse_form
from trellis2_server.errors import InputError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Sequence

FILE_NAMES = ("image", "mesh")
TYPE = "multipart/form-data; boundary=x"


def parse(content: bytes, content_type: str = TYPE, max_files: int = 2) -> FormContent:
    return parse_form(lambda: content, content_type, max_files=max_files, file_names=FILE_NAMES)


def part(headers: str, content: bytes = b"7") -> bytes:
    return b"--x\r\n%b\r\n\r\n%b\r\n" % (headers.encode(), content)


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--x--\r\n"


def text(name: str, content: bytes = b"7") -> bytes:
    return part(f'Content-Disposition: form-data; name="{name}"', content)


# ---- honest forms --------------------------------------------------------------------------------


async def starlette_form(content: bytes, content_type: str) -> dict[str, Any]:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    headers = [(b"content-type", content_type.encode())]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    async with request.form(max_part_size=2**30) as parsed:
        return {
            name: await value.read() if isinstance(value, UploadFile) else value
            for name, value in parsed.multi_items()
        }


#: Not those of files, which may be sent once, and are a file also without a file's name.
NAMES = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters='"\\'), min_size=1, max_size=9
).filter(lambda name: name not in FILE_NAMES)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=200)
CONTENT = st.binary(max_size=200) | st.sampled_from([b"\r\n--", b"\r\n" * 9, b"-" * 90, b"\r"])


@given(
    st.dictionaries(NAMES, TEXTS, max_size=5),
    st.lists(
        st.tuples(NAMES, st.text("ab. é", max_size=5), CONTENT),
        max_size=2,
        unique_by=lambda f: f[0],
    ),
)
def test_forms_of_httpx_have_the_fields_that_starlette_finds(
    fields: dict[str, str], files: Sequence[tuple[str, str, bytes]]
) -> None:
    parts = [(name, (None, value)) for name, value in fields.items()]
    parts += [(name, (file_name or "x", content)) for name, file_name, content in files]  # type: ignore[misc]
    if not parts:
        return
    request = httpx.Request("POST", "http://x", files=parts)
    content, kind = request.read(), request.headers["content-type"]
    ours = parse(content, kind)
    raw = {name: value.decode() for name, value in ours.raw_texts.items()}
    assert {**ours.texts, **raw, **ours.files} == asyncio.run(starlette_form(content, kind))


@pytest.mark.parametrize("stride", [1, 7, 64, 262_144])
def test_forms_of_curl_and_of_browsers_are_parsed_in_any_strides(
    stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "STRIDE_BYTES", stride)
    curl = (
        b"--------------------------d74496d66958873e\r\n"
        b'Content-Disposition: form-data; name="image"; filename="a b.png"\r\n'
        b"Content-Type: image/png\r\n\r\n\x89PNG\r\n\r\n--\r\n"
        b"--------------------------d74496d66958873e\r\n"
        b'Content-Disposition: form-data; name="seed"\r\n\r\n7\r\n'
        b"--------------------------d74496d66958873e--\r\n"
    )
    kind = "multipart/form-data; boundary=------------------------d74496d66958873e"
    parsed = parse(curl, kind)
    assert (parsed.texts, parsed.files) == ({"seed": "7"}, {"image": b"\x89PNG\r\n\r\n--"})
    boundary = b"----WebKitFormBoundary7MA4YWxkTrZu0gW"
    browser = (
        b"--%b\r\n"
        b'Content-Disposition: form-data; name="name"\r\n\r\n\xc3\xa9\xe2\x82\xac\r\n'
        b'--%b\r\nContent-Disposition: form-data; name="image"; filename="\xc3\xa9%%22.png"\r\n'
        b"Content-Type: image/png\r\n\r\n\r\n--%b--\r\n" % (boundary, boundary, boundary)
    )
    parsed = parse(browser, f'Multipart/Form-Data; Boundary="{boundary.decode()}"')
    assert (parsed.texts, parsed.files) == ({"name": "é€"}, {"image": b""})


def test_the_last_text_of_a_name_counts() -> None:
    assert parse(form(text("seed"), text("seed", b"8"))).texts == {"seed": "8"}
    assert parse(b"") == FormContent()


# ---- text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("charset", ["utf-8", "UTF8", '"utf-8"', "us-ascii", ""])
def test_text_may_be_declared_as_utf_8(charset: str) -> None:
    headers = (
        f'Content-Disposition: form-data; name="a"\r\nContent-Type: text/plain; charset={charset}'
    )
    parsed = parse(form(part(headers, "é".encode())), f"{TYPE}; charset={charset}")
    assert parsed.texts == {"a": "é"}


@pytest.mark.parametrize("charset", ["ISO-8859-1", "latin1", "windows-1252"])
def test_ascii_may_be_declared_as_a_charset_that_has_ascii(charset: str) -> None:
    headers = (
        f'Content-Disposition: form-data; name="a"\r\nContent-Type: text/plain; charset={charset}'
    )
    assert parse(form(part(headers, b"42"))).texts == {"a": "42"}
    with pytest.raises(InputError, match=r"^a: its text must be UTF-8, not charset="):
        parse(form(part(headers, b"\xe9")))


@pytest.mark.parametrize(
    "charset", ["punycode", "utf-16", "utf-7", "idna", "rot13", "é", "x" * 999]
)
def test_other_charsets_are_refused_with_the_name_of_the_field(charset: str) -> None:
    headers = (
        f'Content-Disposition: form-data; name="a"\r\nContent-Type: text/plain;charset={charset}'
    )
    with pytest.raises(InputError, match=r"^a: its text must be UTF-8") as error:
        parse(form(part(headers)))
    assert len(str(error.value)) < 200
    with pytest.raises(InputError, match=r"^the multipart body: its text must be UTF-8"):
        parse(form(text("a")), f"{TYPE}; charset={charset}")
    with pytest.raises(InputError, match=r"^_charset_: its text must be UTF-8"):
        parse(form(text("_charset_", charset.encode())))


def test_bytes_that_are_not_utf_8_are_refused_with_the_name_of_the_field() -> None:
    for content in (b"\xff", b"\xc3", b"\xed\xa0\x80", b" " * 300_000 + b"\xff"):
        with pytest.raises(InputError, match=r"^a: its text is not UTF-8"):
            parse(form(text("a", content)))
    with pytest.raises(InputError, match="a name is not UTF-8"):
        parse(form(text("a")).replace(b'"a"', b'"\xff"'))


def test_the_charset_of_a_file_means_nothing() -> None:
    headers = 'Content-Disposition: form-data; name="image"; filename="a"\r\n'
    headers += "Content-Type: image/png; charset=punycode"
    assert parse(form(part(headers, b"\xff"))).files == {"image": b"\xff"}


def test_long_texts_are_cut_as_in_json_and_files_in_base64_are_not() -> None:
    content = "é".encode() * 200_000
    assert parse(form(text("a", content))).texts == {"a": "é" * 80 + "…"}
    assert parse(form(text("a", content[:16_382]))).texts == {"a": "é" * 8_191}
    encoded = base64.b64encode(bytes(400_000))
    assert parse_request([form(text("image", encoded))], TYPE).picture == bytes(400_000)
    with pytest.raises(TooLargeError, match="without its files is over the limit of 131072 bytes"):
        parse(form(*(text(f"a{k}", b" " * 16_000) for k in range(9))))


# ---- what would cost too much -------------------------------------------------------------------

DISPOSITION = 'Content-Disposition: form-data; name="a"'


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (form(*(text(f"a{k}") for k in range(201))), "more than 200 fields"),
        (form(*(text("a") for _ in range(300))), "more than 202 parts"),
        (form(text("a", b"\r\n--xy" * 300)), "more than 202 parts"),
        (b"--x\r\n" * 1000, "more than 202 parts"),
        (form(*(part(f'{DISPOSITION[:-1]}{k}"; filename="a"') for k in "abc")), "than 2 files"),
        (form(part(f"{DISPOSITION}" + "\r\nA: b" * 8)), "more than 8 headers|is broken"),
        (form(part(f"{DISPOSITION}\r\nA: " + "b" * 9_000)), "part with headers over|is broken"),
        (form(part(f"{DISPOSITION}\r\n" + "b" * 9_000 + ": a")), "headers over|is broken"),
        (form(part(f"{DISPOSITION}" + ("\r\nA: " + "b" * 3_000) * 3)), "part with headers over"),
        (b"\r\n" * 3_000 + form(text("a")), "too much around its parts"),
        (form(text("a")) + b" " * 5_000, "too much around its parts"),
        (form(text("a"))[:-6], "is cut short: its end is missing"),
        (form(part(f'{DISPOSITION}; filename="a"', b"x" * 99))[:-20], "is cut short"),
        (b"--x\r\n" + b"a" * 9_000_000, "part with headers over|is broken"),
        (b"a" * 5_000, "too much around its parts"),
        (b"a" * 50, "is broken"),
        (form(part("A: b")), "a part has no name"),
    ],
)  # fmt: skip
def test_malformed_and_costly_forms_are_refused(content: bytes, cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        parse(content)


@pytest.mark.parametrize("kind", ["multipart/form-data", f"{TYPE[:-1]}{'x' * 201}", f"{TYPE[:-1]}"])
def test_a_form_needs_a_boundary_of_a_moderate_length(kind: str) -> None:
    with pytest.raises(InputError, match="boundary is missing or too long"):
        parse(form(text("a"))[2:], kind)


@given(
    st.lists(
        st.sampled_from([
            b"--x", b"--", b"\r\n", b"\r\n\r\n", b"\r", b"x", b" ", b"\t",
            b"Content-Disposition: form-data;", b' name="image"', b' name="seed"',
            b'; filename="a"', b"Content-Type: text/plain; charset=undefined", b"\xff", b":", b"",
        ]),
        max_size=40,
    ),
    st.sampled_from([1, 3, 262_144]),
)  # fmt: skip
def test_any_parts_of_forms_in_any_order_are_parsed_or_refused(
    pieces: list[bytes], stride: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forms, "STRIDE_BYTES", stride)
        try:
            parse(b"".join(pieces))
        except InputError as error:
            str(error).encode()


# ---- where and in how much memory ----------------------------------------------------------------


def test_forms_are_parsed_off_the_event_loop_without_files_on_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[threading.Thread] = []

    class Parser(forms.MultipartParser):
        def write(self, data: bytes) -> int:
            threads.append(threading.current_thread())
            return super().write(data)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a file on disk")

    monkeypatch.setattr(forms, "MultipartParser", Parser)
    for name in ("SpooledTemporaryFile", "TemporaryFile", "NamedTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, refuse)
    file = part('Content-Disposition: form-data; name="image"; filename="a"', b"y" * 3_000_000)
    assert parse_request([form(file)], TYPE, limit=2**24).picture == b"y" * 3_000_000
    assert parse_request([form(text("seed"))], TYPE).fields == {"seed": "7"}
    assert threading.current_thread() not in threads
    assert threads


@pytest.mark.parametrize("kind", ["file", "base64", "json", "picture"])
def test_a_body_is_held_once_beside_its_file(kind: str) -> None:
    size = 8_000_000
    chunk = bytes(65_535)
    if kind in {"base64", "json"}:
        chunk = base64.b64encode(chunk)
    name, end = b'--x\r\nContent-Disposition: form-data; name="image"', b"\r\n--x--"
    head, tail, content_type = {
        "file": (name + b'; filename="a"\r\n\r\n', end, TYPE),
        "base64": (name + b"\r\n\r\n", end, TYPE),
        "json": (b'{"image": "', b'"}', ""),
        "picture": (b"", b"", "image/png"),
    }[kind]  # fmt: skip

    def chunks() -> Any:
        yield head
        yield from (bytes(bytearray(chunk)) for _ in range(size // len(chunk)))
        yield tail

    tracemalloc.start()
    try:
        picture = parse_request(chunks(), content_type, limit=2**30).picture
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert picture is not None
    assert len(picture) > size * 0.7
    copies = 1 if kind == "picture" else 2
    assert peak < size * (copies + 0.3)


# ---- limits: at, and one over --------------------------------------------------------------------


def refuses(content: bytes, kind: str = TYPE) -> bool:
    try:
        parse(content, kind)
    except (InputError, TooLargeError):
        return True
    return False


def headers_of(size: int) -> bytes:
    """A form whose only part has headers whose names and values have that many bytes."""
    own = len('Content-Dispositionform-data; name="a"')
    left = size - own - len("ABC")
    values = ["b" * (left // 3 + (at < left % 3)) for at in range(3)]
    lines = [f"{name}: {each}" for name, each in zip("ABC", values, strict=True)]
    return form(part("\r\n".join([DISPOSITION, *lines])))


@pytest.mark.parametrize(
    ("limit", "content"),
    [
        (forms.MAX_FIELDS, lambda n: form(*(text(f"a{k}") for k in range(n)))),
        (forms.MAX_HEADERS, lambda n: form(part(DISPOSITION + "\r\nA: b" * (n - 1)))),
        (forms.MAX_MARGIN_BYTES, lambda n: b" " * (n - 2) + b"\r\n" + form(text("a"))),
        (forms.MAX_TEXT_BYTES, lambda n: form(*(
            text(f"a{at}", b" " * min(16_000, n - at)) for at in range(0, n, 16_000)
        ))),
    ],
    ids=["fields", "headers", "margin", "text"],
)  # fmt: skip
def test_a_form_may_have_as_much_as_the_limit_and_no_more(limit: int, content: Any) -> None:
    if limit != forms.MAX_MARGIN_BYTES:  # where the parser wants nothing before the first part
        assert not refuses(content(limit))
    assert refuses(content(limit + 1))


def test_what_follows_a_form_may_be_as_long_as_the_limit() -> None:
    whole = form(text("a"))
    rest = len(b"--\r\n")  # counts
    assert not refuses(whole + b" " * (forms.MAX_MARGIN_BYTES - rest))
    assert refuses(whole + b" " * (forms.MAX_MARGIN_BYTES - rest + 1))


def test_headers_may_be_as_long_as_the_limit() -> None:
    assert not refuses(headers_of(forms.MAX_HEADER_BYTES))
    assert refuses(headers_of(forms.MAX_HEADER_BYTES + 1))


def test_a_boundary_may_be_as_long_as_the_limit() -> None:
    for length, is_refused in ((200, False), (201, True)):
        boundary = b"x" * length
        content = form(text("a")).replace(b"--x", b"--" + boundary)
        kind = f"multipart/form-data; boundary={boundary.decode()}"
        assert refuses(content, kind) is is_refused


def test_a_text_is_long_from_a_size_on() -> None:
    for size, is_long in ((forms.LONG_BYTES - 1, False), (forms.LONG_BYTES, True)):
        [found] = parse(form(text("a", b"x" * size))).texts.values()
        assert found == ("x" * 80 + "…" if is_long else "x" * size)


def test_the_limits_are_what_they_are_said_to_be() -> None:
    assert (forms.MAX_FIELDS, forms.MAX_HEADERS, forms.MAX_HEADER_BYTES) == (200, 8, 8_192)
    assert (forms.MAX_MARGIN_BYTES, forms.MAX_BOUNDARY_BYTES) == (4_096, 200)
    assert (forms.LONG_BYTES, forms.MAX_TEXT_BYTES, forms.STRIDE_BYTES) == (
        16_384, 131_072, 262_144,
    )  # fmt: skip


@pytest.mark.parametrize("stride", [4, 5, 6, 7, 64])
def test_delimiters_are_found_wherever_a_stride_ends(
    monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    monkeypatch.setattr(forms, "STRIDE_BYTES", stride)
    for filler in range(9):
        body = b"." * filler + b"\r\n--x" + b"." * filler + b"\r\n--x\r\n--x"
        found = list(forms._occurrences(body, b"\r\n--x"))
        assert found == [filler, 2 * filler + 5, 2 * filler + 10]
