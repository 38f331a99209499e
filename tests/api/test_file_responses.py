"""Files and ranges of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from trellis2_server.api.file_responses import _parse_range, file_response
from trellis2_server.storage.content import BytesContent

if TYPE_CHECKING:
    from trellis2_server.storage.content import Content

SIZES = st.integers(1, 40)
PLACES = st.integers(0, 60)


def selected(header: str, size: int) -> bytes | None:
    """The bytes of a file of that size that a range selects; None: not a range."""
    content = bytes(range(size))
    found = _parse_range(header, size)
    if found is None:
        return None
    first, last = found
    assert last < size
    return content[first : last + 1]


@given(SIZES, PLACES, PLACES)
def test_a_range_selects_both_of_its_ends_and_no_more_than_the_file(
    size: int, first: int, last: int
) -> None:
    wanted = None if last < first else bytes(range(size))[first : last + 1]
    assert selected(f"bytes={first}-{last}", size) == wanted


@given(SIZES, PLACES)
def test_an_open_range_selects_all_from_its_place(size: int, first: int) -> None:
    assert selected(f"bytes={first}-", size) == bytes(range(size))[first:]


@given(SIZES, PLACES)
def test_a_suffix_selects_so_many_of_the_last_bytes(size: int, count: int) -> None:
    wanted = bytes(range(size))[max(0, size - count) :]
    first, last = _parse_range(f"bytes=-{count}", size) or (0, -1)
    assert bytes(range(size))[first : last + 1] == wanted


def test_what_is_no_single_range_of_bytes_is_ignored() -> None:
    for header in ("bytes=-", "bytes=2-1", "bytes=0-1,3-4", "lines=0-1", "", "bytes=a-"):
        assert _parse_range(header, 10) is None


# ---- responses -----------------------------------------------------------------------------------

CONTENT, ETAG = b"0123456789", '"tag"'


class Answer:
    """A response to a request with these headers: its status, headers and body."""

    def __init__(self, method: str = "GET", size: int | None = 10, **headers: str) -> None:
        self.opened = 0
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        asyncio.run(self._ask(method, size, headers))

    async def _ask(self, method: str, size: int | None, headers: dict[str, str]) -> None:
        named = [(name.replace("_", "-").encode(), each.encode()) for name, each in headers.items()]
        request = Request({"type": "http", "method": method, "headers": named})

        async def opened() -> Content:
            self.opened += 1
            return BytesContent(CONTENT)

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.headers = {name.decode(): each.decode() for name, each in message["headers"]}
            else:
                self.body += message["body"]

        response = await file_response(
            request, opened, etag=ETAG, size=size, media_type="model/x", headers={"X-Y": "z"}
        )
        await response({"type": "http"}, asyncio.Event().wait, send)


def test_a_file_is_sent_whole_with_its_tag() -> None:
    answer = Answer()
    assert (answer.status, answer.body, answer.opened) == (200, CONTENT, 1)
    assert answer.headers == {
        "x-y": "z", "etag": ETAG, "accept-ranges": "bytes", "content-length": "10",
        "content-type": "model/x",
    }  # fmt: skip


@pytest.mark.parametrize("size", [10, None])
def test_a_head_opens_nothing_and_has_the_size_if_it_is_known(size: int | None) -> None:
    answer = Answer("HEAD", size)
    assert (answer.status, answer.body, answer.opened) == (200, b"", 0)
    assert answer.headers.get("content-length") == (None if size is None else "10")
    assert (answer.headers["etag"], answer.headers["content-type"]) == (ETAG, "model/x")


@pytest.mark.parametrize(
    ("tags", "has_changed"),
    [
        (ETAG, False),
        (f"W/{ETAG}", False),
        (f'"a", {ETAG}', False),
        ("*", False),
        ('"a"', True),
        ("", True),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_file_that_the_client_has_is_not_sent_again(
    method: str, tags: str, *, has_changed: bool
) -> None:
    answer = Answer(method, if_none_match=tags, range="bytes=0-1")
    assert answer.status == (304 if not has_changed else 206 if method == "GET" else 200)
    if not has_changed:
        assert (answer.body, answer.opened) == (b"", 0)
        assert answer.headers["etag"] == ETAG
        assert answer.headers["x-y"] == "z"


@pytest.mark.parametrize(
    ("byte_range", "content", "described"),
    [
        ("bytes=0-0", b"0", "bytes 0-0/10"),
        ("bytes=9-9", b"9", "bytes 9-9/10"),
        ("bytes=2-5", b"2345", "bytes 2-5/10"),
        ("bytes=8-99", b"89", "bytes 8-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=4-", b"456789", "bytes 4-9/10"),
    ],
)
def test_a_range_is_sent_with_its_place(byte_range: str, content: bytes, described: str) -> None:
    answer = Answer(range=byte_range)
    assert (answer.status, answer.body) == (206, content)
    assert answer.headers["content-range"] == described
    assert answer.headers["content-length"] == str(len(content))
    same = Answer(range=byte_range, if_range=ETAG)
    assert (same.status, same.body) == (206, content)
    for other in ('"other"', f"W/{ETAG}"):
        changed = Answer(range=byte_range, if_range=other)
        assert (changed.status, changed.body) == (200, CONTENT)


@pytest.mark.parametrize("byte_range", ["bytes=10-", "bytes=10-12", "bytes=-0"])
def test_a_range_outside_of_the_file_is_refused_with_its_size(byte_range: str) -> None:
    answer = Answer(range=byte_range)
    assert (answer.status, answer.body) == (416, b"")
    assert answer.headers["content-range"] == "bytes */10"


@pytest.mark.parametrize("byte_range", ["bytes=2-1", "bytes=0-1,3-4", "chars=0-1", "bytes=x"])
def test_a_range_that_is_not_understood_is_ignored(byte_range: str) -> None:
    answer = Answer(range=byte_range)
    assert (answer.status, answer.body) == (200, CONTENT)
    assert "content-range" not in answer.headers
