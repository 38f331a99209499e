from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from tests.support.server import encoded, picture
from trellis2_server.api.inflight_bodies import BodyAccount, InflightBodies
from trellis2_server.api.request_parsing import MAX_INLINE_BYTES, ParsedRequest, parse_request
from trellis2_server.errors import InputError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LIMIT = 1_000_000


def parse(
    parts: Iterable[bytes],
    content_type: str = "",
    query: str = "",
    limit: int = LIMIT,
    account: BodyAccount | None = None,
) -> ParsedRequest:
    """Parse content that arrives in these parts; then the client disconnects."""

    def messages() -> Iterator[dict[str, Any]]:
        for part in parts:
            yield {"type": "http.request", "body": part, "more_body": True}
        yield {"type": "http.request", "body": b"", "more_body": False}
        yield {"type": "http.disconnect"}

    remaining = messages()

    async def receive() -> dict[str, Any]:
        return next(remaining)

    headers = [(b"content-type", content_type.encode())] if content_type else []
    scope = {
        "type": "http", "method": "POST", "headers": headers, "query_string": query.encode(),
        "state": {"body": account or InflightBodies(2**30).open("client")},
    }  # fmt: skip
    return asyncio.run(parse_request(Request(scope, receive), max_bytes=limit))


def form(*parts: tuple[str, bytes]) -> bytes:
    lines = [b"--x\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (n.encode(), v)
             for n, v in parts]  # fmt: skip
    return b"".join(lines) + b"--x--\r\n"


FORM = "multipart/form-data; boundary=x"


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
