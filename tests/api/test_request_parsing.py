from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from tests.support.server import encoded, picture
from trellis2_server.api.request_parsing import MAX_INLINE_BYTES, ParsedRequest, parse_request
from trellis2_server.errors import InputError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Iterable

LIMIT = 1_000_000


def read(
    parts: Iterable[bytes], kind: str = "", query: str = "", limit: int = LIMIT
) -> ParsedRequest:
    """What `read_body` makes of a body that comes in these parts; afterwards the client leaves."""
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": part, "more_body": True} for part in parts
    ]
    messages += [{"type": "http.request", "body": b"", "more_body": False}]
    rest = iter([*messages, {"type": "http.disconnect"}])

    async def receive() -> dict[str, Any]:
        return next(rest)

    headers = [(b"content-type", kind.encode())] if kind else []
    scope = {
        "type": "http", "method": "POST", "headers": headers, "query_string": query.encode(),
        "app": None,
    }  # fmt: skip
    return asyncio.run(parse_request(Request(scope, receive), max_bytes=limit))


def form(*parts: tuple[str, bytes]) -> bytes:
    lines = [b"--x\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (n.encode(), v)
             for n, v in parts]  # fmt: skip
    return b"".join(lines) + b"--x--\r\n"


FORM = "multipart/form-data; boundary=x"


@given(st.integers(0, 200), st.sampled_from(["", "application/json", "text/plain"]))
def test_a_body_may_come_in_any_parts(cut: int, kind: str) -> None:
    content = json.dumps({"image": encoded(picture()), "seed": 1}).encode()
    body = read((content[:cut], b"", content[cut:]), kind)
    assert (body.fields, body.picture) == ({"seed": 1}, picture())


def test_a_large_body_is_parsed_on_another_thread_to_the_same() -> None:
    content = json.dumps({"image": encoded(picture()), "x": "y" * MAX_INLINE_BYTES}).encode()
    assert read([content]).picture == picture()
    with pytest.raises(InputError, match="nested too deeply"):
        read([b"[" * (MAX_INLINE_BYTES + 1)])


def test_a_form_carries_the_picture_as_a_file_or_as_text() -> None:
    seed = ('name="seed"', b"7")
    for part in (
        ('name="image"; filename="a.png"', picture()),
        ('name="image"', encoded(picture()).encode()),
    ):
        body = read([form(part, seed)], FORM)
        assert (body.fields, body.picture) == ({"seed": "7"}, picture())
    assert read([form(seed)], FORM).picture is None


def test_a_raw_picture_has_its_fields_in_the_query() -> None:
    body = read([picture()], "image/png; x=y", "seed=7&seed=8&texture=true")
    assert (body.fields, body.picture) == ({"seed": "8", "texture": "true"}, picture())
    assert read([], "IMAGE/JPEG").picture is None
    assert read([b"x"], "application/octet-stream").picture == b"x"


@pytest.mark.parametrize("kind", ["", FORM, "image/png"])
def test_no_more_than_the_limit_is_taken(kind: str) -> None:
    taken = 0

    def endless() -> Iterable[bytes]:
        nonlocal taken
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for taken in range(1, 200):  # noqa: B007 - counted for the assertion
            yield b"0" * 10_000

    with pytest.raises(TooLargeError, match="limit of 100000 bytes"):
        read(endless(), kind, limit=100_000)


@given(st.binary(max_size=300), st.sampled_from(["", FORM, "image/png", "multipart/form-data"]))
def test_any_bytes_are_a_body_or_the_clients_error(content: bytes, kind: str) -> None:
    try:
        read([content], kind)
    except InputError as error:
        str(error).encode()


@given(st.lists(st.sampled_from([
    b"--x", b"--", b"\r\n", b"\r\n\r\n", b"Content-Disposition: form-data;", b' name="image"',
    b' name="seed"', b'; filename="a"', b"Content-Type: text/plain; charset=undefined", b"\xff",
    b"Content-Transfer-Encoding: base64", b"1", b"",
]), max_size=30))  # fmt: skip
@pytest.mark.filterwarnings("ignore:Unclosed file <tempfile:ResourceWarning")
def test_any_form_is_read_or_refused(parts: list[bytes]) -> None:
    try:
        read([b"".join(parts)], FORM + "; charset=undefined")
    except InputError as error:
        str(error).encode()
