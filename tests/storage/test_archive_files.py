"""What an archive tells of files, records and names, and what is left when it is closed."""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.storage.test_archive import SteeredFileSystem, opened, read
from tests.support.engines import PATIENCE_S
from tests.support.managers import in_a_loop, until
from trellis2_server.errors import StoreError
from trellis2_server.storage.disk_store import DiskStore
from trellis2_server.storage.memory_store import MemoryStore
from trellis2_server.storage.store import Artifact, JobName

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trellis2_server.storage.store import StoreContents

UIDS = [str(uuid.UUID(int=i)) for i in range(4)]


class NotedStore(MemoryStore):
    """Notes what is saved, with the names."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: list[tuple[dict[str, str], list[JobName]]] = []
        self.deleted: list[set[str]] = []

    def save(self, records: Mapping[str, str], names: Iterable[JobName]) -> None:
        self.saved.append((dict(records), list(names)))

    def delete_jobs(self, uids: Iterable[str]) -> None:
        self.deleted.append(set(uids))
        super().delete_jobs(uids)


def found(folder: Path) -> StoreContents:
    """What another process finds in a folder."""
    store = DiskStore(folder)
    contents = store.open()
    store.close()
    return contents


# ---- records and names -------------------------------------------------------------------


@in_a_loop
async def test_a_record_that_changes_without_a_file_is_saved_and_the_same_one_is_not() -> None:
    store = NotedStore()
    archive = opened(store)
    archive.save_record(UIDS[0], "first")
    await archive.flush()
    for _ in range(2):
        archive.save_record(UIDS[0], "second")
        await archive.flush()
    assert store.saved == [({UIDS[0]: "first"}, []), ({UIDS[0]: "second"}, [])]
    archive.save_name(JobName("key", "k", UIDS[0]))
    await archive.flush()
    assert store.saved[2:] == [({}, [JobName("key", "k", UIDS[0])])]
    await archive.close()


@in_a_loop
async def test_a_job_is_saved_and_deleted_on_the_disk_when_the_wait_ends(tmp_path: Path) -> None:
    archive = opened(DiskStore(tmp_path))
    archive.save_record(UIDS[0], "made")
    await archive.wait_until_saved(UIDS[0])
    other = sqlite(tmp_path)
    assert other("SELECT uid, says FROM jobs") == [(UIDS[0], "made")]
    archive.remove([UIDS[0]])
    assert await archive.wait_until_deleted(UIDS[0]) is True
    assert other("SELECT uid FROM jobs") == []
    await archive.close()


def sqlite(folder: Path) -> Any:
    """Another process' view of the records."""
    import sqlite3
    from contextlib import closing

    def query(text: str) -> list[Any]:
        with closing(sqlite3.connect(folder / "results.sqlite")) as connection:
            return connection.execute(text).fetchall()

    return query


@in_a_loop
async def test_without_a_folder_nobody_waits_for_a_store() -> None:
    gate = threading.Event()

    class Held(NotedStore):
        def save(self, records: Mapping[str, str], names: Iterable[JobName]) -> None:
            assert gate.wait(PATIENCE_S)
            super().save(records, names)

    archive = opened(Held())
    assert archive.is_in_memory
    assert not archive.is_persistent
    archive.save_record(UIDS[0], "made")
    await asyncio.wait_for(archive.wait_until_saved(UIDS[0]), PATIENCE_S / 2)
    archive.remove([UIDS[0]])
    assert await asyncio.wait_for(archive.wait_until_deleted(UIDS[0]), PATIENCE_S / 2) is True
    gate.set()
    await archive.close()


@in_a_loop
async def test_removed_jobs_are_deleted_once_with_files_and_names() -> None:
    store = NotedStore()
    archive = opened(store)
    stored: list[Artifact] = []
    archive.on_stored = stored.append
    for uid in UIDS[:3]:
        archive.save_record(uid, "made")
        archive.save_name(JobName("key", uid, uid))
        for name in ("shape.glb", "textured.glb"):
            artifact = archive.store_file(uid, name, b"abc")
            assert stored[-1] == artifact == Artifact(uid, name, 3)
            assert archive.find(uid, name) == artifact
    assert archive.size == 18
    assert [artifact.name for artifact in archive.files(UIDS[0])] == ["shape.glb", "textured.glb"]
    archive.remove([UIDS[0], UIDS[1], "unknown"])
    archive.remove([UIDS[0]])
    archive.remove([])
    assert archive.size == 6
    assert archive.files(UIDS[0]) == []
    await archive.flush()
    assert store.deleted == [{UIDS[0], UIDS[1]}]
    assert store.saved == [({UIDS[2]: "made"}, [JobName("key", UIDS[2], UIDS[2])])]
    assert [artifact.uid for artifact in store._files] == [UIDS[2], UIDS[2]]
    await archive.close()


@in_a_loop
async def test_a_file_that_is_stored_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    archive = opened(DiskStore(tmp_path))
    archive.save_record(UIDS[0], "made")
    first = archive.store_file(UIDS[0], "shape.glb", b"first")
    second = archive.store_file(UIDS[0], "shape.glb", b"second one")
    assert archive.size == archive.unwritten_bytes == 10
    assert await read(archive, second) == b"second one"
    with pytest.raises(StoreError, match=r"^shape\.glb is no longer stored$") as caught:
        await archive.open_file(first)
    assert caught.value.is_lost
    await archive.flush()
    assert await read(archive, second) == b"second one"
    archive.discard(first)
    archive.discard(second)
    archive.discard(second)
    assert (archive.size, archive.find(UIDS[0], "shape.glb")) == (0, None)
    await archive.close()
    assert [(job.uid, dict(job.files)) for job in found(tmp_path).jobs] == [(UIDS[0], {})]


# ---- deferred and evictable files --------------------------------------------------------


@in_a_loop
async def test_a_file_that_is_coming_can_be_waited_for() -> None:
    archive = opened(MemoryStore())
    gate = threading.Event()

    def held() -> bytes:
        assert gate.wait(PATIENCE_S)
        return b"abc"

    archive.save_record(UIDS[0], "made")
    archive.store_deferred(UIDS[0], "input.png", held, is_evictable=False)
    archive.store_deferred(UIDS[1], "input.png", held, is_evictable=False)  # has no record
    assert archive.is_coming(UIDS[0], "input.png") is True
    assert not archive.is_coming(UIDS[1], "input.png")
    assert not archive.is_coming(UIDS[0], "shape.glb")
    assert await asyncio.wait_for(archive.find_soon(UIDS[0], "shape.glb"), PATIENCE_S / 2) is None
    waiting = asyncio.ensure_future(archive.find_soon(UIDS[0], "input.png"))
    await asyncio.sleep(0.001)
    assert not waiting.done()
    assert not archive.is_idle
    gate.set()
    assert await waiting == Artifact(UIDS[0], "input.png", 3)
    await archive.flush()
    assert archive.find(UIDS[1], "input.png") is None
    assert not archive.is_coming(UIDS[0], "input.png")
    assert archive.is_idle
    await archive.close()


@in_a_loop
async def test_without_memory_for_them_no_evictable_files_are_made() -> None:
    archive = opened(MemoryStore(), max_evictable_bytes=0)
    archive.save_record(UIDS[0], "made")
    archive.store_deferred(UIDS[0], "geometry", lambda: b"x", is_evictable=True)
    archive.store_deferred(UIDS[0], "input.png", lambda: b"x", is_evictable=False)
    await archive.flush()
    assert [artifact.name for artifact in archive.files(UIDS[0])] == ["input.png"]
    await archive.close()


@pytest.mark.parametrize(("size", "is_kept"), [(250, True), (251, False)])
@in_a_loop
async def test_evictable_files_may_have_all_of_the_limit(size: int, *, is_kept: bool) -> None:
    archive = opened(MemoryStore(), max_evictable_bytes=250)
    archive.save_record(UIDS[0], "made")
    archive.store_deferred(UIDS[0], "geometry", lambda: bytes(size), is_evictable=True)
    await archive.flush()
    assert (archive.find(UIDS[0], "geometry") is not None) == is_kept
    await archive.close()


@in_a_loop
async def test_while_a_disk_fails_evictable_files_are_evicted_from_memory(tmp_path: Path) -> None:
    files = SteeredFileSystem()
    archive = opened(DiskStore(tmp_path, files), max_evictable_bytes=250)
    files.failure = OSError(28, "No space left on device")
    assert not archive.is_in_memory
    for uid in UIDS:
        archive.save_record(uid, "made")
        archive.store_deferred(uid, "geometry", lambda: bytes(100), is_evictable=True)
        await archive.flush()
    assert archive.is_in_memory
    archive.retry_failed_writes()
    await archive.flush()
    assert [bool(archive.find(uid, "geometry")) for uid in UIDS] == [False, False, True, True]
    assert archive.unwritten_bytes == 200
    files.failure = None
    await archive.close()  # tries once more
    assert [list(job.files) for job in found(tmp_path).jobs] == [
        [], [], ["geometry"], ["geometry"],
    ]  # fmt: skip


# ---- opening and closing -----------------------------------------------------------------


@in_a_loop
async def test_jobs_of_a_folder_that_could_not_be_read_are_told_when_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "results"
    archive = opened(DiskStore(folder))
    archive.save_record(UIDS[0], "made")
    archive.save_name(JobName("key", "k", UIDS[0]))
    archive.store_file(UIDS[0], "shape.glb", b"abc")
    await archive.close()
    folder.rename(tmp_path / "away")
    folder.write_bytes(b"in the way")
    archive = opened(DiskStore(folder))
    told: list[StoreContents] = []

    def tell(contents: StoreContents) -> None:
        told.append(contents)
        raise ValueError("a bug")

    archive.on_opened = tell
    assert "cannot be used" in archive.notes[0]
    archive.save_record(UIDS[1], "new")
    folder.unlink()
    (tmp_path / "away").rename(folder)
    with caplog.at_level(logging.ERROR):
        archive.retry_failed_writes()
        await archive.flush()
    assert "Stored jobs cannot be served" in caplog.text
    assert [[job.uid for job in contents.jobs] for contents in told] == [[UIDS[0]]]
    assert archive.find(UIDS[0], "shape.glb") == Artifact(UIDS[0], "shape.glb", 3)
    assert archive.notes == []
    archive._writes.set_failed(StoreError("again"))
    archive.retry_failed_writes()
    await archive.flush()
    assert len(told) == 1  # known files stay known
    await archive.close()
    assert [job.uid for job in found(folder).jobs] == UIDS[:2]


@in_a_loop
async def test_the_warnings_of_a_store_are_notes_and_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "results.sqlite").write_bytes(b"no database " * 1000)
    with caplog.at_level(logging.WARNING):
        archive = opened(DiskStore(tmp_path))
    assert len(archive.notes) == 1
    assert "were damaged" in archive.notes[0]
    assert archive.notes[0] in caplog.text
    await archive.close()


@in_a_loop
async def test_a_file_that_is_lost_is_deleted_with_its_row_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive = opened(DiskStore(tmp_path))
    archive.save_record(UIDS[0], "made")
    shape = archive.store_file(UIDS[0], "shape.glb", b"abc")
    archive.store_file(UIDS[0], "textured.glb", b"abcd")
    await archive.flush()
    (tmp_path / "files" / f"{UIDS[0]}-shape.glb").write_bytes(b"abd")
    with caplog.at_level(logging.WARNING), pytest.raises(StoreError, match="damaged"):
        await archive.open_file(shape)
    await archive.flush()
    assert "Stored file lost: shape.glb was damaged on the disk" in caplog.text
    assert archive.size == 4
    assert sqlite(tmp_path)("SELECT name FROM files") == [("textured.glb",)]
    await archive.close()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@in_a_loop
async def test_a_closed_archive_leaves_no_thread_no_descriptor_and_no_lock(
    tmp_path: Path,
) -> None:
    before = set(threading.enumerate())
    archive = opened(DiskStore(tmp_path))
    archive.save_record(UIDS[0], "made")
    archive.store_deferred(UIDS[0], "geometry", lambda: b"abc", is_evictable=True)
    archive.store_deferred(UIDS[0], "input.png", lambda: b"abc", is_evictable=False)
    artifact = archive.store_file(UIDS[0], "shape.glb", b"abc")
    await archive.flush()
    assert await read(archive, artifact) == b"abc"
    archive.store_file(UIDS[0], "textured.glb", b"abcd")
    await archive.close()

    def left() -> list[str]:
        names = [each.name for each in set(threading.enumerate()) - before if each.is_alive()]
        descriptors = [each.readlink() for each in Path("/proc/self/fd").iterdir() if each.exists()]
        return [
            *(name for name in names if name.startswith(("archive", "reader", "deferred"))),
            *(str(path) for path in descriptors if path.is_relative_to(tmp_path)),
        ]

    await until(lambda: not left())
    again = DiskStore(tmp_path)
    (job,) = again.open().jobs
    assert sorted(job.files) == ["geometry", "input.png", "shape.glb", "textured.glb"]
    again.close()
