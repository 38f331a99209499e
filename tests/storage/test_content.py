"""Contents of files, in memory and on a disk."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.support.managers import in_a_loop
from trellis2_server.errors import StoreError
from trellis2_server.storage.content import BytesContent, Content, FileContent, OpenFile

if TYPE_CHECKING:
    from pathlib import Path

BYTES = bytes(range(256)) * 1000


def open_file(path: Path) -> OpenFile:
    return OpenFile(os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0)), path.name)


async def parts(content: Content, *where: int) -> list[bytes]:
    return [chunk async for chunk in content.chunks(*where)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(BYTES)
    return tmp_path / "file"


@pytest.mark.parametrize("has_pread", [True, False])
@pytest.mark.parametrize("kind", ["bytes", "file"])
@in_a_loop
async def test_a_content_is_sent_in_chunks_from_any_byte_to_any_other(
    path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, *, has_pread: bool
) -> None:
    if not has_pread:
        monkeypatch.delattr(os, "pread", raising=False)
    with ThreadPoolExecutor(2) as executor:
        content: Content = BytesContent(BYTES)
        if kind == "file":
            content = FileContent(open_file(path), executor, lambda _: None)
        assert content.size == len(BYTES)
        assert content.load() == await content.read() == b"".join(await parts(content)) == BYTES
        chunks = await parts(content, 1, 200_000, 65_536)
        assert b"".join(chunks) == BYTES[1:200_001]
        assert [len(chunk) for chunk in chunks] == [65_536, 65_536, 65_536, 3392]
        assert await parts(content, 255_999) == [b"\xff"]
        assert await parts(content, 7, 6) == []
        several = await asyncio.gather(*(parts(content, 0, None, 1000) for _ in range(20)))
        assert {b"".join(each) for each in several} == {BYTES}


@in_a_loop
async def test_contents_in_memory_share_the_bytes() -> None:
    content = BytesContent(BYTES)
    assert content.load() is BYTES
    assert await content.read() is BYTES
    assert [chunk is BYTES async for chunk in content.chunks(chunk_bytes=len(BYTES))] == [True]


@pytest.mark.skipif(os.name == "nt", reason="Windows does not delete an open file")
@in_a_loop
async def test_a_deleted_file_is_sent_to_its_end_and_closed_then(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[int] = []
    close = os.close
    monkeypatch.setattr(os, "close", lambda each: (closed.append(each), close(each)))
    with ThreadPoolExecutor(1) as executor:
        file = open_file(path)
        content = FileContent(file, executor, lambda _: None)
        chunks = content.chunks(chunk_bytes=100_000)
        sent = [await anext(chunks)]
        path.unlink()  # noqa: ASYNC240 - a test
        descriptor = file._descriptor
        closed.clear()  # by others, who had the number before
        del file, content
        sent.append(await anext(chunks))
        assert descriptor not in closed
        sent += [chunk async for chunk in chunks]
        assert b"".join(sent) == BYTES
        del chunks
    # its thread has ended: after an answer it holds what it ran for a moment longer
    gc.collect()
    assert descriptor in closed


@in_a_loop
async def test_a_content_is_sent_to_its_end_when_its_threads_are_shut_down(path: Path) -> None:
    executor = ThreadPoolExecutor(1)
    content = FileContent(open_file(path), executor, lambda _: None)
    executor.shutdown()
    assert b"".join(await parts(content)) == BYTES


@pytest.mark.parametrize("damage", ["cut", "flip"])
@in_a_loop
async def test_bytes_that_changed_after_the_file_was_opened_are_not_sent(
    path: Path, damage: str
) -> None:
    lost: list[StoreError] = []
    with ThreadPoolExecutor(1) as executor:
        content = FileContent(open_file(path), executor, lost.append)
        chunks = content.chunks(chunk_bytes=1000)
        await anext(chunks)
        if damage == "cut":
            os.truncate(path, 1500)
        else:
            path.write_bytes(b"\0" + BYTES[1:])  # noqa: ASYNC240 - a test
            os.utime(path, ns=(0, 0))  # as if it had been written at another time
        with pytest.raises(StoreError, match=r"^file was damaged on the disk$") as caught:
            await anext(chunks)
        assert caught.value.is_lost
        assert lost == [caught.value]


@in_a_loop
async def test_others_get_their_turn_between_two_chunks_from_memory() -> None:
    seen: list[int] = []

    async def other() -> None:
        while len(seen) < 100:
            seen.append(sent)
            await asyncio.sleep(0)

    sent = 0
    running = asyncio.ensure_future(other())
    async for _ in BytesContent(bytes(50)).chunks(chunk_bytes=1):
        sent += 1
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) >= 48
    await running


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1, 3 * 2**20 - 1])
def test_the_digest_of_a_file_is_that_of_all_its_bytes(tmp_path: Path, size: int) -> None:
    content = (BYTES * (size // len(BYTES) + 1))[:size]
    (tmp_path / "file").write_bytes(content)
    file = open_file(tmp_path / "file")
    assert file.size == size
    assert file.sha256() == hashlib.sha256(content).digest()
    assert file.read() == content
    assert file.read_at(size, 0) == b""
    with pytest.raises(StoreError, match="was damaged"):
        file.read_at(size, 1)


@in_a_loop
async def test_an_error_that_may_pass_is_not_reported_as_a_loss(path: Path) -> None:
    with ThreadPoolExecutor(1) as executor:
        file = OpenFile(os.open(path, os.O_WRONLY), "file")
        content = FileContent(file, executor, lambda _: pytest.fail("nothing is lost"))
        with pytest.raises(StoreError, match=r"^file cannot be read: "):
            await content.read()


def test_a_file_that_cannot_be_read_is_a_store_error_that_may_pass(path: Path) -> None:
    file = OpenFile(os.open(path, os.O_WRONLY), "file")
    with pytest.raises(StoreError, match=r"^file cannot be read: ") as caught:
        file.read()
    assert not caught.value.is_lost
