"""Writes that take long, that fail halfway, and what comes meanwhile."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING

import pytest

from tests.storage.test_write_queue import SHAPE, TEXTURED, FailingStore, Queue
from tests.support import managers
from tests.support.engines import PATIENCE_S
from tests.support.managers import Leap, in_a_loop, until
from trellis2_server.errors import StoreError
from trellis2_server.storage.store import Artifact, JobName, StoreContents
from trellis2_server.storage.write_queue import WriteQueue

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# ---- a disk that does not answer ---------------------------------------------------------


class HeldStore(FailingStore):
    """Waits at a gate before it writes; notes the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.calls: list[str] = []
        self.is_broken = False

    def write(self, artifact: Artifact, content: bytes) -> None:
        self.calls.append("write")
        assert self.gate.wait(PATIENCE_S)
        super().write(artifact, content)

    def save(self, records: Mapping[str, str], names: Iterable[JobName]) -> None:
        self.calls.append("save")
        super().save(records, names)

    def reopen(self) -> StoreContents:
        self.calls.append("reopen")
        if self.is_broken:
            raise StoreError("no room")
        return StoreContents(warnings=("reopened",))

    def delete_jobs(self, uids: Iterable[str]) -> None:
        self.calls.append(f"delete {sorted(uids)}")

    def delete_files_of(self, uids: Iterable[str]) -> None:
        self.calls.append(f"delete files of {sorted(uids)}")
        self.is_broken = False

    def close(self) -> None:
        self.calls.append("close")


class HeldQueue(Queue):
    store: HeldStore

    def __init__(self) -> None:
        super().__init__()
        self.store = HeldStore()
        self.writes = WriteQueue(
            self.store, self.index, on_written=self.written.extend, on_failed=self.note_failure
        )
        self.writes.set_open()


@pytest.fixture
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of a test's time, which leaps too."""
    monkeypatch.setattr(managers, "PATIENCE_S", 100 + PATIENCE_S)


@pytest.mark.usefixtures("_patience")
@in_a_loop
async def test_after_30_s_nobody_waits_for_a_write_any_more_until_it_ends() -> None:
    leap, queue = Leap(), HeldQueue()
    queue.add(SHAPE)
    queue.writes.delete_jobs({"x"}, [])
    waiting = [
        asyncio.ensure_future(queue.writes.wait_until_saved("a")),
        asyncio.ensure_future(queue.writes.wait_until_deleted("y")),
    ]
    await until(lambda: queue.store.calls[-1:] == ["write"])
    queue.writes.delete_jobs({"y"}, [])
    leap(29.5)
    for _ in range(5):
        await asyncio.sleep(0.001)
    assert queue.writes.failure is None
    assert not waiting[0].done()
    deleting = asyncio.ensure_future(queue.writes.wait_until_deleted("y"))
    await asyncio.sleep(0)
    assert not deleting.done()
    leap(1)
    await waiting[0]
    assert await deleting is False
    assert queue.writes.failure is not None
    assert queue.writes.failure.endswith("it has not answered for 30 s")
    await queue.writes.wait_until_saved("a")  # at once
    assert not await queue.writes.wait_until_deleted("y")
    queue.store.gate.set()
    await queue.writes.wait()
    assert (queue.writes.failure, queue.written) == (None, [SHAPE])
    assert await queue.writes.wait_until_deleted("y")
    await queue.writes.close()


@pytest.mark.usefixtures("_patience")
@in_a_loop
async def test_a_write_that_has_ended_is_not_given_up_later() -> None:
    leap, queue = Leap(), HeldQueue()
    queue.store.gate.set()
    queue.add(SHAPE)
    await queue.writes.wait()
    for _ in range(3):
        leap(31)
        await asyncio.sleep(0.001)
    assert queue.writes.failure is None
    await queue.writes.close()


@in_a_loop
async def test_closing_waits_for_no_write_and_closes_the_store_after_it() -> None:
    before = set(threading.enumerate())
    queue = HeldQueue()
    queue.add(SHAPE)
    await until(lambda: queue.store.calls == ["write"])
    waiting = asyncio.ensure_future(queue.writes.wait_until_saved("a"))
    await asyncio.sleep(0)
    closing = queue.writes.close()
    await waiting
    assert "it does not answer" in (queue.writes.failure or "")
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert queue.store.calls == ["write"]
    queue.store.gate.set()
    await closing
    assert queue.store.calls[-1] == "close"
    await queue.writes.wait()
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("archive"):
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


@in_a_loop
async def test_closing_while_nothing_is_written_is_no_failure() -> None:
    queue = HeldQueue()
    await queue.writes.close()
    assert (queue.writes.failure, queue.store.calls) == (None, ["close"])


# ---- order -------------------------------------------------------------------------------


@in_a_loop
async def test_jobs_are_deleted_before_files_are_written_and_records_saved() -> None:
    queue = HeldQueue()
    queue.store.gate.set()
    queue.add(SHAPE)
    queue.writes.delete_file(Artifact("a", "old.glb", 1))
    queue.writes.delete_jobs({"x", "y"}, [])
    await queue.writes.wait()
    assert queue.store.calls == ["delete ['x', 'y']", "write", "save"]


@pytest.mark.parametrize("what", ["record", "name"])
@in_a_loop
async def test_a_record_or_a_name_alone_is_saved(what: str) -> None:
    queue = HeldQueue()
    if what == "record":
        queue.writes.write_record("a", "changed")
    else:
        queue.writes.write_name(JobName("key", "k", "a"))
    await queue.writes.wait_until_saved("a")
    assert queue.store.records == ({"a": "changed"} if what == "record" else {})
    assert queue.store.names == ([] if what == "record" else [JobName("key", "k", "a")])
    await queue.writes.wait()
    queue.writes.delete_file(SHAPE)
    await queue.writes.wait()
    assert queue.store.calls == ["save"]
    await queue.writes.close()


@in_a_loop
async def test_nobody_waits_for_a_bulk_file_which_comes_last() -> None:
    queue = HeldQueue()
    queue.index.records["a"] = "record"
    bulk = Artifact("a", "shape.kept", 3)
    queue.writes.write_file(bulk, b"abc", is_bulk=True)
    queue.writes.write_record("a", "record")
    await queue.writes.wait_until_saved("a")
    assert queue.store.calls[:1] == ["save"]
    assert not queue.writes.is_idle
    assert queue.writes.unwritten(bulk) == b"abc"
    queue.store.gate.set()
    await queue.writes.wait()
    assert queue.writes.unwritten_bytes == 0
    assert queue.written == [bulk]
    await queue.writes.close()


@in_a_loop
async def test_a_deletion_that_was_done_is_not_repeated_when_the_rest_fails() -> None:
    queue = HeldQueue()
    queue.store.gate.set()
    queue.store.failure = StoreError("disk full")
    queue.add(SHAPE)
    queue.writes.delete_jobs({"x"}, [])
    assert await queue.writes.wait_until_deleted("x")
    await queue.writes.wait()
    queue.store.failure = None
    queue.writes.retry()
    await queue.writes.wait()
    assert [call for call in queue.store.calls if call != "write"] == [
        "delete ['x']", "reopen", "save",
    ]  # fmt: skip
    await queue.writes.close()


@in_a_loop
async def test_files_of_deleted_jobs_make_room_for_a_store_that_has_none() -> None:
    queue = HeldQueue()
    queue.store.gate.set()
    queue.store.is_broken = True
    opened: list[StoreContents] = []
    queue.writes.on_opened = opened.append
    queue.writes.set_failed(StoreError("no room"))
    queue.add(SHAPE)
    queue.writes.retry()
    await queue.writes.wait()
    assert queue.store.calls == ["reopen"]  # without a deletion, there is nothing to make room by
    assert (queue.failures, opened) == (1, [])
    assert queue.writes.unwritten_bytes == 3
    queue.writes.delete_jobs({"x"}, [])
    await queue.writes.wait()
    assert queue.store.calls[1:] == [
        "reopen", "delete files of ['x']", "reopen", "delete ['x']", "write", "save",
    ]  # fmt: skip
    assert opened == [StoreContents(warnings=("reopened",))]
    assert queue.writes.failure is None
    await queue.writes.close()


@in_a_loop
async def test_a_failure_is_logged_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    queue = HeldQueue()
    queue.store.gate.set()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            queue.writes.set_failed(StoreError("disk full"))
        queue.writes.set_failed(StoreError("disk gone"))
        queue.writes.retry()
        await queue.writes.wait()
        queue.add(SHAPE)
        await queue.writes.wait()
    assert [record.message.rpartition(": ")[2] for record in caplog.records] == [
        "disk full", "disk gone", "Results are written to worker.result_dir again",
    ]  # fmt: skip
    await queue.writes.close()


@in_a_loop
async def test_what_comes_during_a_write_is_written_after_it() -> None:
    queue = HeldQueue()
    queue.add(SHAPE)
    await until(lambda: queue.store.calls == ["write"])
    queue.add(TEXTURED)
    queue.writes.write_record("a", "newer")
    newer = asyncio.ensure_future(queue.writes.wait_until_saved("a"))
    queue.store.gate.set()
    await newer
    assert queue.store.records == {"a": "newer", "b": "record of b"}
    await queue.writes.wait()
    assert queue.store.calls == ["write", "save", "write", "save"]
    await queue.writes.close()
