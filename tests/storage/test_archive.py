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
from trellis2_server.storage.archive import MAX_WAITING_PACKS, Archive
from trellis2_server.storage.store import Artifact, DiskStore, Files, MemoryStore, Name

if TYPE_CHECKING:
    from pathlib import Path

    from trellis2_server.storage.store import Store

UIDS = [str(uuid.UUID(int=i)) for i in range(10)]


class SteeredFiles(Files):
    """Waits at a gate before it writes, and fails with what it is told."""

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

    def read(self, path: Path) -> bytes:
        if self.failure is not None and self.failure.errno == 24:
            raise self.failure
        return super().read(path)


def opened(store: Store, **more: Any) -> Archive:
    archive = Archive(store, max_packed_bytes=more.pop("max_packed_bytes", 1000))
    archive.open()
    return archive


def held(archive: Archive) -> int:
    """Bytes of files in memory."""
    return sum(len(content) for content in archive._fresh.values())


@in_a_loop
async def test_a_file_is_answered_from_memory_until_it_is_on_the_disk(tmp_path: Path) -> None:
    files = SteeredFiles()
    archive = opened(DiskStore(tmp_path, files))
    files.gate.clear()
    archive.record(UIDS[0], "made")
    artifact = archive.keep(UIDS[0], "shape.glb", b"x" * 1000)
    assert await archive.read(artifact) == b"x" * 1000
    assert held(archive) == archive.size == 1000
    files.gate.set()
    await archive.flush()
    assert held(archive) == 0
    assert await archive.read(artifact) == b"x" * 1000
    await archive.close()
    again = Archive(DiskStore(tmp_path), max_packed_bytes=0)
    found = again.open()
    assert [(job.uid, job.says) for job in found.jobs] == [(UIDS[0], "made")]
    assert again.find(UIDS[0], "shape.glb") == artifact
    assert again.size == 1000
    assert await again.read(artifact) == b"x" * 1000
    await again.close()


@in_a_loop
async def test_a_full_disk_costs_nothing_but_memory_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = SteeredFiles()
    archive = opened(DiskStore(tmp_path, files))
    files.failure = OSError(28, "No space left on device")
    with caplog.at_level(logging.WARNING):
        made: list[Artifact] = []
        for uid in UIDS[:3]:
            archive.record(uid, "made")
            archive.name(Name("ticket", uid, uid))
            made.append(archive.keep(uid, "shape.glb", uid.encode()))
            await archive.flush()
    assert [await archive.read(artifact) for artifact in made] == [u.encode() for u in UIDS[:3]]
    assert len(archive.notes) == 1
    assert "No space left on device" in archive.notes[0]
    assert len([r for r in caplog.records if "worker.result_dir fails" in r.message]) == 1
    archive.remove([UIDS[0]])
    await archive.flush()
    files.failure = None
    archive.tend()
    await archive.flush()
    assert not archive.notes
    assert held(archive) == 0
    await archive.close()
    store = DiskStore(tmp_path)
    found = store.open()
    assert [job.uid for job in found.jobs] == UIDS[1:3]
    assert [name.uid for name in found.names] == UIDS[1:3]
    assert store.read(made[1]) == UIDS[1].encode()
    store.close()


@in_a_loop
async def test_a_folder_that_vanished_is_begun_anew_with_what_is_known(tmp_path: Path) -> None:
    archive = opened(DiskStore(tmp_path / "results"))
    archive.record(UIDS[0], "old")
    old = archive.keep(UIDS[0], "shape.glb", b"old")
    await archive.flush()
    (tmp_path / "results").rename(tmp_path / "away")
    archive.record(UIDS[1], "new")
    new = archive.keep(UIDS[1], "shape.glb", b"new")
    await archive.flush()
    assert "gone" in archive.notes[0]
    assert await archive.read(new) == b"new"
    with pytest.raises(StoreError) as caught:
        await archive.read(old)
    assert caught.value.is_lost
    assert archive.find(UIDS[0], "shape.glb") is None
    archive.tend()
    await archive.flush()
    assert not archive.notes
    await archive.close()
    store = DiskStore(tmp_path / "results")
    assert {job.says: list(job.files) for job in store.open().jobs} == {
        "old": [],
        "new": ["shape.glb"],
    }
    store.close()


@in_a_loop
async def test_a_folder_that_cannot_be_used_at_the_start_is_used_once_it_can(
    tmp_path: Path,
) -> None:
    (tmp_path / "results").write_bytes(b"in the way")
    archive = opened(DiskStore(tmp_path / "results"))
    assert "cannot be used" in archive.notes[0]
    archive.record(UIDS[0], "made")
    artifact = archive.keep(UIDS[0], "shape.glb", b"abc")
    await archive.flush()
    assert await archive.read(artifact) == b"abc"
    archive.tend()
    await archive.flush()
    assert archive.notes
    (tmp_path / "results").unlink()
    archive.tend()
    await archive.flush()
    assert not archive.notes
    assert held(archive) == 0
    assert await archive.read(artifact) == b"abc"
    await archive.close()


@in_a_loop
async def test_what_cannot_be_read_just_now_is_not_given_up(tmp_path: Path) -> None:
    files = SteeredFiles()
    archive = opened(DiskStore(tmp_path, files))
    archive.record(UIDS[0], "made")
    artifact = archive.keep(UIDS[0], "shape.glb", b"abc")
    await archive.flush()
    files.failure = OSError(24, "Too many open files")
    with pytest.raises(StoreError, match="Too many open files"):
        await archive.read(artifact)
    files.failure = None
    assert await archive.read(artifact) == b"abc"
    (tmp_path / "files" / f"{UIDS[0]}-shape.glb").write_bytes(b"abd")
    with pytest.raises(StoreError, match="damaged"):
        await archive.read(artifact)
    with pytest.raises(StoreError, match="no longer kept"):
        await archive.read(artifact)
    assert archive.size == 0
    await archive.close()


@in_a_loop
async def test_of_spare_files_in_memory_the_least_recently_used_goes_first() -> None:
    archive = opened(MemoryStore(), max_packed_bytes=250)
    for uid in UIDS[:3]:
        archive.record(uid, "")
        archive.keep(uid, "shape.glb", b"x" * 1000)
        archive.pack(uid, "geometry", lambda: b"g" * 100, is_spare=True)
        await archive.flush()
        first = archive.find(UIDS[0], "geometry")
        assert first is not None
        assert await archive.read(first) == b"g" * 100
    assert [bool(archive.find(uid, "geometry")) for uid in UIDS[:3]] == [True, False, True]
    assert archive.size == 3200
    archive.remove(UIDS[:3])
    assert archive.size == 0
    await archive.flush()
    await archive.close()


@in_a_loop
async def test_on_a_disk_spare_files_take_no_memory(tmp_path: Path) -> None:
    archive = opened(DiskStore(tmp_path), max_packed_bytes=250)
    for uid in UIDS[:5]:
        archive.record(uid, "")
        archive.pack(uid, "geometry", lambda: b"g" * 100, is_spare=True)
        await archive.flush()
    assert all(archive.find(uid, "geometry") for uid in UIDS[:5])
    assert held(archive) == 0
    await archive.close()


@in_a_loop
async def test_what_cannot_be_packed_or_comes_too_fast_is_not_kept() -> None:
    archive = opened(MemoryStore())
    gate = threading.Event()

    def held_up() -> bytes:
        assert gate.wait(PATIENCE_S)
        return b"g"

    def broken() -> bytes:
        raise ValueError("no")

    for uid in UIDS:
        archive.record(uid, "")
        archive.pack(uid, "geometry", held_up, is_spare=True)
    archive.pack(UIDS[0], "input.png", broken, is_spare=False)
    assert not archive.is_idle
    archive.remove([UIDS[1]])
    gate.set()
    await archive.flush()
    await until(lambda: archive.is_idle)
    kept = [uid for uid in UIDS if archive.find(uid, "geometry")]
    assert kept == [UIDS[0], *UIDS[2:MAX_WAITING_PACKS]]
    assert archive.find(UIDS[0], "input.png") is None
    await archive.close()


@in_a_loop
async def test_who_reads_the_same_file_at_once_shares_its_bytes(tmp_path: Path) -> None:
    archive = opened(DiskStore(tmp_path))
    archive.record(UIDS[0], "made")
    artifact = archive.keep(UIDS[0], "shape.glb", b"x" * 1_000_000)
    await archive.flush()
    impatient = asyncio.ensure_future(archive.read(artifact))
    several = [asyncio.ensure_future(archive.read(artifact)) for _ in range(5)]
    await asyncio.sleep(0)
    impatient.cancel()
    assert len({id(content) for content in await asyncio.gather(*several)}) == 1
    await archive.close()


@in_a_loop
async def test_a_file_asked_for_while_the_process_leaves_is_refused_in_words(
    tmp_path: Path,
) -> None:
    archive = opened(DiskStore(tmp_path))
    archive.record(UIDS[0], "made")
    artifact = archive.keep(UIDS[0], "shape.glb", b"x")
    await archive.close()
    with pytest.raises(ShuttingDownError):
        await archive.read(artifact)
