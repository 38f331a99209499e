from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from tests.support.requests_in_parts import FORM, LIMIT, account, form, parse
from tests.support.server import encoded, picture
from trellis2_server.api.request_parsing import (
    FILES,
    MAX_INLINE_BYTES,
    parse_fields,
    parse_request,
)
from trellis2_server.errors import InputError, QueueFullError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trellis2_server.api.inflight_bodies import BodyAccount


@given(st.integers(0, 200), st.sampled_from(["", "application/json", "text/plain"]))
def test_a_body_may_arrive_in_any_chunks(cut: int, content_type: str) -> None:
    content = json.dumps({"image": encoded(picture()), "seed": 1}).encode()
    body = parse((content[:cut], b"", content[cut:]), content_type)
    assert (body.fields, body.picture) == ({"seed": 1}, picture())


def test_a_large_body_is_parsed_on_another_thread_with_the_same_result() -> None:
    content = json.dumps({"image": encoded(picture()), "x": "y" * MAX_INLINE_BYTES}).encode()
    assert parse([content]).picture == picture()
    with pytest.raises(InputError, match="nested too deeply"):
        parse([b"[" * (MAX_INLINE_BYTES + 1)])


def test_a_form_contains_the_picture_as_a_file_or_as_base64() -> None:
    seed = ('name="seed"', b"7")
    for part in (
        ('name="image"; filename="a.png"', picture()),
        ('name="image"', encoded(picture()).encode()),
    ):
        body = parse([form(part, seed)], FORM)
        assert (body.fields, body.picture) == ({"seed": "7"}, picture())
    assert parse([form(seed)], FORM).picture is None


def test_a_raw_picture_has_its_fields_in_the_query() -> None:
    body = parse([picture()], "image/png; x=y", "seed=7&seed=8&texture=true")
    assert (body.fields, body.picture) == ({"seed": "8", "texture": "true"}, picture())
    assert parse([], "IMAGE/JPEG").picture is None
    assert parse([b"x"], "application/octet-stream").picture == b"x"


@pytest.mark.parametrize("content_type", ["", FORM, "image/png"])
def test_reading_stops_at_the_limit(content_type: str) -> None:
    chunks = 0

    def endless() -> Iterable[bytes]:
        nonlocal chunks
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for chunks in range(1, 200):  # noqa: B007 - counted for the assertion
            yield b"0" * 10_000

    with pytest.raises(TooLargeError, match="limit of 100000 bytes"):
        parse(endless(), content_type, limit=100_000)


@given(st.binary(max_size=300), st.sampled_from(["", FORM, "image/png", "multipart/form-data"]))
def test_any_bytes_are_parsed_or_rejected(content: bytes, content_type: str) -> None:
    try:
        parse([content], content_type)
    except InputError as error:
        str(error).encode()


@given(st.lists(st.sampled_from([
    b"--x", b"--", b"\r\n", b"\r\n\r\n", b"Content-Disposition: form-data;", b' name="image"',
    b' name="seed"', b'; filename="a"', b"Content-Type: text/plain; charset=undefined", b"\xff",
    b"Content-Transfer-Encoding: base64", b"1", b"",
]), max_size=30))  # fmt: skip
def test_any_form_is_parsed_or_rejected(parts: list[bytes]) -> None:
    try:
        parse([b"".join(parts)], FORM + "; charset=undefined")
    except InputError as error:
        str(error).encode()


# ---- the account of the body ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["json", "form", "picture", "none"])
def test_after_parsing_only_the_files_are_held(kind: str) -> None:
    held, mesh = account(), b"mesh" * 100
    content, content_type = {
        "json": (json.dumps({"image": encoded(picture()), "mesh": encoded(mesh)}).encode(), ""),
        "form": (
            form(('name="image"; filename="a"', picture()), ('name="mesh"; filename="b"', mesh)),
            FORM,
        ),
        "picture": (picture(), "image/png"),
        "none": (b'{"seed": 1}' + b" " * 1000, ""),
    }[kind]
    parsed = parse([content], content_type, account=held)
    files = [each for each in (parsed.picture, parsed.mesh) if each]
    assert held.held_bytes == sum(map(len, files))
    assert parsed.mesh == (mesh if kind in {"json", "form"} else None)
    assert (parsed.picture == picture()) is (kind != "none")


def test_bytes_are_taken_before_they_are_read() -> None:
    small = account(999)
    with pytest.raises(QueueFullError):
        parse([b" " * 500, b" " * 500], account=small)
    assert small.held_bytes == 500
    exact = account(1000)
    with pytest.raises(InputError, match="the body is empty"):
        parse([b" " * 500, b" " * 500], account=exact)
    assert exact.held_bytes == 1000


def receive_all(*parts: bytes, declared: str | None = None, limit: int = LIMIT) -> BodyAccount:
    """Receive a body whose length is declared; return its account, before it is parsed."""
    held = account()
    messages = [
        *({"type": "http.request", "body": part, "more_body": True} for part in parts),
        {"type": "http.request", "body": b"", "more_body": False},
    ]

    async def receive() -> dict[str, Any]:
        taken.append(held.held_bytes)
        return messages.pop(0)

    taken: list[int] = []
    headers = [] if declared is None else [(b"content-length", declared.encode())]
    scope = {
        "type": "http", "method": "POST", "headers": [*headers, (b"content-type", b"image/x")],
        "query_string": b"", "state": {"body": held},
    }  # fmt: skip
    asyncio.run(parse_request(Request(scope, receive), max_bytes=limit))
    held.held_bytes = taken[0]
    return held


def test_a_declared_length_is_taken_and_checked_at_once() -> None:
    assert receive_all(b"x" * 9, declared="9").held_bytes == 9
    assert receive_all(b"x" * 9).held_bytes == 0
    assert receive_all(b"x" * 9, declared="odd").held_bytes == 0
    assert receive_all(b"x" * 10, declared="10", limit=10)
    with pytest.raises(TooLargeError, match="over the limit of 10 bytes"):
        receive_all(declared="11", limit=10)
    with pytest.raises(TooLargeError):
        receive_all(declared="9" * 30, limit=10)


@pytest.mark.parametrize(("size", "is_refused"), [(10, False), (11, True)])
@pytest.mark.parametrize("parts", [1, 2, 11])
def test_a_body_of_the_limit_is_received_and_a_larger_one_is_not(
    size: int, parts: int, *, is_refused: bool
) -> None:
    content = b"x" * size
    split = [content[at * size // parts : (at + 1) * size // parts] for at in range(parts)]
    if is_refused:
        with pytest.raises(TooLargeError):
            parse(split, "image/x", limit=10)
    else:
        assert parse(split, "image/x", limit=10).picture == content


@pytest.mark.parametrize("content", [b"", b" \n", b" " * MAX_INLINE_BYTES])
def test_an_empty_body_is_said_to_be_so(content: bytes) -> None:
    with pytest.raises(InputError, match="the body is empty: send JSON"):
        parse([content])


def test_a_body_of_white_space_is_no_empty_one_above_the_size() -> None:
    with pytest.raises(InputError, match="not JSON"):
        parse([b" " * (MAX_INLINE_BYTES + 1)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1]", "must be a JSON object"),
        (b"{", "is not JSON: .* at character 1"),
        (b'{"a": \xff}', "not JSON: not UTF-8"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number that is too long"),
        (b'{"image": 7}', "^image: must be a base64 string$"),
        (b'{"mesh": []}', "^mesh: must be a base64 string$"),
    ],
)
def test_a_body_that_is_no_request_is_told_why(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse([content])


def test_a_form_has_no_other_files_and_no_empty_ones() -> None:
    with pytest.raises(InputError, match=r"^image: empty$"):
        parse([form(('name="image"; filename="a"', b""))], FORM)
    with pytest.raises(InputError, match=r"^photo: is a file; only pictures and the mesh"):
        parse([form(('name="photo"; filename="a"', b"x"))], FORM)
    assert {"image", "mesh", "images", "image_urls", "image_left", "mv_image_back"} < set(FILES)
    nothing = parse([b'{"image": null, "mesh": null}'])
    assert (nothing.picture, nothing.mesh, nothing.fields) == (None, None, {})


def fields_of(content: bytes, query: bytes = b"") -> tuple[dict[str, object], int]:
    held = account()
    messages = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    scope = {
        "type": "http", "method": "POST", "headers": [], "query_string": query,
        "state": {"body": held},
    }  # fmt: skip
    found = asyncio.run(parse_fields(Request(scope, receive), max_bytes=LIMIT))
    return found, held.held_bytes


def test_fields_alone_may_be_in_the_query_and_hold_nothing() -> None:
    assert fields_of(b"", b"a=1") == ({"a": "1"}, 0)
    assert fields_of(b" ", b"a=1") == ({"a": "1"}, 0)
    with_file = json.dumps({"a": 2, "image": encoded(b"file")}).encode()
    assert fields_of(with_file, b"a=1") == ({"a": 2}, 0)
