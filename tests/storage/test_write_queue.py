from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.managers import in_a_loop
from tests.support.stores import content_of
from trellis2_server.errors import StoreError
from trellis2_server.storage.index import ArchiveIndex
from trellis2_server.storage.memory_store import MemoryStore
from trellis2_server.storage.store import Artifact, JobName
from trellis2_server.storage.write_queue import WriteQueue

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SHAPE, TEXTURED = Artifact("a", "shape.glb", 3), Artifact("b", "shape.glb", 3)


class FailingStore(MemoryStore):
    """Records what is saved; fails while `failure` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.failure: Exception | None = None
        self.records: dict[str, str] = {}
        self.names: list[JobName] = []

    def write(self, artifact: Artifact, content: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        super().write(artifact, content)

    def save(self, records: Mapping[str, str], names: Iterable[JobName]) -> None:
        self.records.update(records)
        self.names.extend(names)


class Queue:
    """A queue with a store and an index, and the calls that it makes."""

    def __init__(self) -> None:
        self.store, self.index = FailingStore(), ArchiveIndex()
        self.written: list[Artifact] = []
        self.failures = 0
        self.writes = WriteQueue(
            self.store, self.index, on_written=self.written.extend, on_failed=self.note_failure
        )
        self.writes.set_open()

    def note_failure(self) -> None:
        self.failures += 1

    def add(self, artifact: Artifact) -> None:
        self.index.records[artifact.uid] = f"record of {artifact.uid}"
        self.index.add_file(artifact)
        self.writes.write_file(artifact, b"abc")


@in_a_loop
async def test_a_file_is_written_with_the_record_of_its_job() -> None:
    queue = Queue()
    queue.add(SHAPE)
    assert queue.writes.unwritten(SHAPE) == b"abc"
    assert queue.writes.unwritten_bytes == 3
    await queue.writes.wait()
    assert queue.writes.is_idle
    assert queue.writes.unwritten(SHAPE) is None
    assert content_of(queue.store, SHAPE) == b"abc"
    assert queue.store.records == {"a": "record of a"}
    assert queue.written == [SHAPE]
    await queue.writes.close()


@pytest.mark.parametrize("failure", [StoreError("disk full"), ValueError("a bug")])
def test_a_failed_batch_is_written_again_without_what_was_removed(failure: Exception) -> None:
    @in_a_loop
    async def test() -> None:
        queue = Queue()
        queue.store.failure = failure
        queue.add(SHAPE)
        queue.add(TEXTURED)
        queue.writes.write_name(JobName("key", "k", "b"))
        queue.index.add_name(JobName("key", "k", "b"))
        await queue.writes.wait()
        assert queue.failures == 1
        assert queue.writes.failure
        assert queue.writes.unwritten_bytes == 6
        del queue.index.records["a"]
        queue.index.remove_file(SHAPE)
        queue.writes.cancel_file(SHAPE)
        queue.writes.delete_jobs({"a"}, [])  # tries again: it may make room
        await queue.writes.wait()
        assert queue.failures == 2
        assert queue.writes.unwritten_bytes == 3
        queue.store.failure = None
        queue.writes.retry()
        await queue.writes.wait()
        assert queue.writes.failure is None
        assert queue.writes.unwritten_bytes == 0
        assert queue.written == [TEXTURED]
        assert queue.store.records == {"b": "record of b"}
        assert queue.store.names == [JobName("key", "k", "b")]
        await queue.writes.close()

    test()


@in_a_loop
async def test_a_store_that_opens_for_reading_only_is_a_failure_until_it_is_opened_again() -> None:
    queue = Queue()
    queue.writes.set_open(StoreError("read-only"))
    assert "read-only" in (queue.writes.failure or "")
    queue.add(SHAPE)
    await queue.writes.wait_until_saved("a")  # nobody waits for such a disk
    assert (queue.writes.is_idle, queue.written) == (True, [])
    queue.writes.retry()
    await queue.writes.wait()
    assert (queue.writes.failure, queue.written) == (None, [SHAPE])
    await queue.writes.close()


@in_a_loop
async def test_a_job_is_saved_when_all_of_it_is_written() -> None:
    queue = Queue()
    await queue.writes.wait_until_saved("a")  # there is nothing to write
    queue.add(SHAPE)
    await queue.writes.wait_until_saved("a")
    assert queue.store.records == {"a": "record of a"}
    await queue.writes.close()


@in_a_loop
async def test_nothing_is_written_before_the_store_is_open_and_all_after_it_is_reopened() -> None:
    queue = Queue()
    queue.writes = WriteQueue(
        queue.store, queue.index, on_written=queue.written.extend, on_failed=queue.note_failure
    )
    queue.writes.retry()
    queue.add(SHAPE)
    assert queue.writes.is_idle
    queue.writes.set_failed(StoreError("in the way"))
    queue.index.records["old"] = "an older record"
    queue.writes.retry()
    await queue.writes.wait()
    assert queue.written == [SHAPE]
    assert queue.store.records == {"a": "record of a", "old": "an older record"}
    await queue.writes.close()
