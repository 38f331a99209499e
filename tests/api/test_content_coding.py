"""Bodies with a `Content-Encoding`, honest and hostile."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.requests_in_parts import FORM, LIMIT, account, form, parse
from tests.support.server import encoded, picture
from trellis2_server.api import content_coding
from trellis2_server.api.content_coding import (
    INLINE_BYTES,
    MAX_MEMBERS,
    STEP_BYTES,
    BodyDecoder,
    make_decoder,
)
from trellis2_server.errors import ContentCodingError, InputError, QueueFullError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Iterable

GZIP = {"content-encoding": "gzip"}


def in_parts(content: bytes, size: int) -> list[bytes]:
    return [content[at : at + size] for at in range(0, len(content), size)]


def decoded(parts: Iterable[bytes], coding: str = "gzip") -> list[bytes]:
    async def collect() -> list[bytes]:
        decoder = BodyDecoder(coding)
        pieces = [piece for part in parts async for piece in decoder.decode(part)]
        decoder.finish()
        return pieces

    return asyncio.run(collect())


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate"])
@given(content=st.binary(max_size=3000), repeats=st.integers(1, 40), size=st.integers(1, 700))
def test_what_is_encoded_is_decoded_from_any_chunks(
    coding: str, content: bytes, repeats: int, size: int
) -> None:
    content *= repeats
    compress = zlib.compress if coding == "deflate" else gzip.compress
    assert b"".join(decoded(in_parts(compress(content), size), coding)) == content


def test_json_forms_and_pictures_may_be_encoded() -> None:
    text = json.dumps({"image": encoded(picture()), "seed": 7}).encode()
    for content, kind in (
        (text, "application/json"),
        (form(('name="image"; filename="a"', picture()), ('name="seed"', b"7")), FORM),
        (picture(), "image/png"),
    ):
        body = parse(in_parts(gzip.compress(content), 50), kind, headers=GZIP, query="seed=7")
        assert body.picture == picture()
        assert str(body.fields["seed"]) == "7"
    assert parse([text], headers={"content-encoding": "Identity"}).picture == picture()


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "gzip, br", "x" * 999])
def test_another_coding_is_refused_with_those_that_are_decoded(coding: str) -> None:
    with pytest.raises(ContentCodingError, match="is not supported; send gzip, deflate") as error:
        parse([b"{}"], headers={"content-encoding": coding})
    assert len(str(error.value)) < 150


def test_no_coding_and_identity_need_no_decoder() -> None:
    assert [make_decoder(each) for each in ("", "identity", " IDENTITY , ")] == [None] * 3
    assert make_decoder(" GZip ") is not None


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (gzip.compress(bytes(999))[:-9], "is cut short: the end of its gzip is missing"),
        (gzip.compress(b"{}")[:5], "is cut short"),
        (b"{}", "is not valid gzip"),
        (gzip.compress(b"{}") + b"more", "is not valid gzip"),
        (gzip.compress(b"") * (MAX_MEMBERS + 1), f"more than {MAX_MEMBERS} members of gzip"),
    ],
    ids=["cut", "header", "json", "more", "members"],  # the contents hold the time of day
)
def test_what_is_not_what_it_says_is_refused(content: bytes, cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        parse([content], headers=GZIP)


def test_members_one_after_the_other_are_one_body_and_padding_is_none() -> None:
    content = gzip.compress(b"{}") + gzip.compress(b" " * 9) + bytes(20)
    for size in (1, 7, 999):
        assert b"".join(decoded(in_parts(content, size))) == b"{}" + b" " * 9
    assert b"".join(decoded([gzip.compress(b"x") * MAX_MEMBERS])) == b"x" * MAX_MEMBERS


def test_a_bomb_stops_at_the_limit_and_is_never_whole_in_memory() -> None:
    bomb = gzip.compress(bytes(50 * LIMIT))
    held = account()
    with pytest.raises(TooLargeError, match=f"over the limit of {LIMIT} bytes"):
        parse([bomb], headers=GZIP, account=held)
    assert held.held_bytes <= LIMIT
    for part in ([bomb], in_parts(bomb, 1000)):
        assert max(map(len, decoded(part))) <= STEP_BYTES
    with pytest.raises(QueueFullError):  # before the bytes that are too many are kept
        parse([bomb], headers=GZIP, limit=2**30, account=account(20_000))


def test_little_is_decoded_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    here: list[int] = []
    decode: Any = vars(BodyDecoder)["_decode"]

    def observed(self: BodyDecoder, data: bytes, max_bytes: int) -> tuple[bytes, bytes]:
        piece = decode(self, data, max_bytes)
        if threading.current_thread() is threading.main_thread():
            here.append(len(piece[0]))
        return piece

    monkeypatch.setattr(content_coding.BodyDecoder, "_decode", observed)
    bomb = gzip.compress(bytes(10 * LIMIT))
    decoded([bomb])
    decoded(in_parts(bomb, 4000))
    assert max(here) <= INLINE_BYTES
    assert len(here) <= len(bomb) // 4000 + 2
