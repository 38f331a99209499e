from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import PATIENCE_S
from tests.support.managers import in_a_loop, until
from trellis2_server.errors import ShuttingDownError, StoreError
from trellis2_server.storage.archive import Archive
from trellis2_server.storage.disk_store import DiskStore
from trellis2_server.storage.file_system import FileSystem
from trellis2_server.storage.memory_store import MemoryStore
from trellis2_server.storage.store import Artifact, JobName

if TYPE_CHECKING:
    from pathlib import Path

    from trellis2_server.storage.store import Store

UIDS = [str(uuid.UUID(int=i)) for i in range(10)]


class SteeredFileSystem(FileSystem):
    """Waits at a gate before it writes, and fails if told to."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.failure: OSError | None = None
        self.writes = 0

    def write(self, path: Path, content: bytes) -> None:
        assert self.gate.wait(PATIENCE_S)
        self.writes += 1
        if self.failure is not None:
            raise self.failure
        super().write(path, content)

    def open(self, path: Path) -> int:
        if self.failure is not None and self.failure.errno == 24:
            raise self.failure
        return super().open(path)


async def read(archive: Archive, artifact: Artifact) -> bytes:
    return await (await archive.open_file(artifact)).read()


def opened(store: Store, **more: Any) -> Archive:
    archive = Archive(store, max_evictable_bytes=more.pop("max_evictable_bytes", 1000))
    archive.open()
    return archive


@in_a_loop
async def test_a_file_is_read_from_memory_until_it_is_on_the_disk(tmp_path: Path) -> None:
    files = SteeredFileSystem()
    archive = opened(DiskStore(tmp_path, files))
    files.gate.clear()
    archive.save_record(UIDS[0], "made")
    artifact = archive.store_file(UIDS[0], "shape.glb", b"x" * 1000)
    assert await read(archive, artifact) == b"x" * 1000
    assert archive.unwritten_bytes == archive.size == 1000
    files.gate.set()
    await archive.flush()
    assert archive.unwritten_bytes == 0
    assert await read(archive, artifact) == b"x" * 1000
    await archive.close()
    again = Archive(DiskStore(tmp_path), max_evictable_bytes=0)
    found = again.open()
    assert [(job.uid, job.record) for job in found.jobs] == [(UIDS[0], "made")]
    assert again.find(UIDS[0], "shape.glb") == artifact
    assert again.size == 1000
    assert await read(again, artifact) == b"x" * 1000
    await again.close()


@in_a_loop
async def test_a_full_disk_costs_only_memory_and_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = SteeredFileSystem()
    archive = opened(DiskStore(tmp_path, files))
    files.failure = OSError(28, "No space left on device")
    with caplog.at_level(logging.WARNING):
        made: list[Artifact] = []
        for uid in UIDS[:3]:
            archive.save_record(uid, "made")
            archive.save_name(JobName("ticket", uid, uid))
            made.append(archive.store_file(uid, "shape.glb", uid.encode()))
            await archive.flush()
    assert [await read(archive, artifact) for artifact in made] == [u.encode() for u in UIDS[:3]]
    assert len(archive.notes) == 1
    assert "No space left on device" in archive.notes[0]
    assert len([r for r in caplog.records if "worker.result_dir fails" in r.message]) == 1
    archive.remove([UIDS[0]])
    await archive.flush()
    files.failure = None
    archive.retry_failed_writes()
    await archive.flush()
    assert not archive.notes
    assert archive.unwritten_bytes == 0
    await archive.close()
    store = DiskStore(tmp_path)
    found = store.open()
    assert [job.uid for job in found.jobs] == UIDS[1:3]
    assert [name.uid for name in found.names] == UIDS[1:3]
    assert store.open_file(made[1]).read() == UIDS[1].encode()
    store.close()


@in_a_loop
async def test_a_folder_that_vanished_is_made_again_with_the_known_records(tmp_path: Path) -> None:
    archive = opened(DiskStore(tmp_path / "results"))
    archive.save_record(UIDS[0], "old")
    old = archive.store_file(UIDS[0], "shape.glb", b"old")
    await archive.flush()
    (tmp_path / "results").rename(tmp_path / "away")
    archive.save_record(UIDS[1], "new")
    new = archive.store_file(UIDS[1], "shape.glb", b"new")
    await archive.flush()
    assert "gone" in archive.notes[0]
    assert await read(archive, new) == b"new"
    with pytest.raises(StoreError) as caught:
        await read(archive, old)
    assert caught.value.is_lost
    assert archive.find(UIDS[0], "shape.glb") is None
    archive.retry_failed_writes()
    await archive.flush()
    assert not archive.notes
    await archive.close()
    store = DiskStore(tmp_path / "results")
    assert {job.record: list(job.files) for job in store.open().jobs} == {
        "old": [],
        "new": ["shape.glb"],
    }
    store.close()


@in_a_loop
async def test_a_folder_that_cannot_be_used_at_the_start_is_used_later(
    tmp_path: Path,
) -> None:
    (tmp_path / "results").write_bytes(b"in the way")
    archive = opened(DiskStore(tmp_path / "results"))
    assert "cannot be used" in archive.notes[0]
    archive.save_record(UIDS[0], "made")
    artifact = archive.store_file(UIDS[0], "shape.glb", b"abc")
    await archive.flush()
    assert await read(archive, artifact) == b"abc"
    archive.retry_failed_writes()
    await archive.flush()
    assert archive.notes
    (tmp_path / "results").unlink()
    archive.retry_failed_writes()
    await archive.flush()
    assert not archive.notes
    assert archive.unwritten_bytes == 0
    assert await read(archive, artifact) == b"abc"
    await archive.close()


@in_a_loop
async def test_a_failed_read_is_repeated_and_a_damaged_file_discarded(tmp_path: Path) -> None:
    files = SteeredFileSystem()
    archive = opened(DiskStore(tmp_path, files))
    archive.save_record(UIDS[0], "made")
    artifact = archive.store_file(UIDS[0], "shape.glb", b"abc")
    await archive.flush()
    files.failure = OSError(24, "Too many open files")
    with pytest.raises(StoreError, match="Too many open files"):
        await read(archive, artifact)
    files.failure = None
    assert await read(archive, artifact) == b"abc"
    (tmp_path / "files" / f"{UIDS[0]}-shape.glb").write_bytes(b"abd")
    with pytest.raises(StoreError, match="damaged"):
        await read(archive, artifact)
    with pytest.raises(StoreError, match="no longer stored"):
        await read(archive, artifact)
    assert archive.size == 0
    await archive.close()


@in_a_loop
async def test_the_least_recently_used_evictable_file_is_evicted_first() -> None:
    archive = opened(MemoryStore(), max_evictable_bytes=250)
    for uid in UIDS[:3]:
        archive.save_record(uid, "")
        archive.store_file(uid, "shape.glb", b"x" * 1000)
        archive.store_deferred(uid, "geometry", lambda: b"g" * 100, is_evictable=True)
        await archive.flush()
        first = archive.find(UIDS[0], "geometry")
        assert first is not None
        assert await read(archive, first) == b"g" * 100
    assert [bool(archive.find(uid, "geometry")) for uid in UIDS[:3]] == [True, False, True]
    assert archive.size == 3200
    archive.remove(UIDS[:3])
    assert archive.size == 0
    await archive.flush()
    await archive.close()


@in_a_loop
async def test_evictable_files_on_a_disk_take_no_memory(tmp_path: Path) -> None:
    archive = opened(DiskStore(tmp_path), max_evictable_bytes=250)
    for uid in UIDS[:5]:
        archive.save_record(uid, "")
        archive.store_deferred(uid, "geometry", lambda: b"g" * 100, is_evictable=True)
        await archive.flush()
    assert all(archive.find(uid, "geometry") for uid in UIDS[:5])
    assert archive.unwritten_bytes == 0
    await archive.close()


@in_a_loop
async def test_deferred_files_that_fail_or_are_too_many_are_not_stored() -> None:
    archive = opened(MemoryStore())
    gate = threading.Event()

    def held_up() -> bytes:
        assert gate.wait(PATIENCE_S)
        return b"g"

    def broken() -> bytes:
        raise ValueError("no")

    for uid in UIDS:
        archive.save_record(uid, "")
        archive.store_deferred(uid, "geometry", held_up, is_evictable=True)
    archive.store_deferred(UIDS[0], "input.png", broken, is_evictable=False)
    assert not archive.is_idle
    archive.remove([UIDS[1]])
    gate.set()
    await archive.flush()
    await until(lambda: archive.is_idle)
    stored = [uid for uid in UIDS if archive.find(uid, "geometry")]
    assert stored == [UIDS[0], *UIDS[2:4]]  # of four that wait at most
    assert archive.find(UIDS[0], "input.png") is None
    await archive.close()


@in_a_loop
async def test_all_contents_of_a_file_share_its_descriptor(tmp_path: Path) -> None:
    archive = opened(DiskStore(tmp_path))
    archive.save_record(UIDS[0], "made")
    artifact = archive.store_file(UIDS[0], "shape.glb", b"x" * 1_000_000)
    await archive.flush()
    impatient = asyncio.ensure_future(archive.open_file(artifact))
    several = [asyncio.ensure_future(archive.open_file(artifact)) for _ in range(5)]
    await asyncio.sleep(0)
    impatient.cancel()
    contents: list[Any] = [*await asyncio.gather(*several), await archive.open_file(artifact)]
    assert len({id(content._file) for content in contents}) == 1
    await archive.close()


@in_a_loop
async def test_reading_from_a_closed_archive_is_a_shutting_down_error(
    tmp_path: Path,
) -> None:
    archive = opened(DiskStore(tmp_path))
    archive.save_record(UIDS[0], "made")
    artifact = archive.store_file(UIDS[0], "shape.glb", b"x")
    await archive.close()
    with pytest.raises(ShuttingDownError):
        await read(archive, artifact)
