from __future__ import annotations

import asyncio
import threading

import pytest

from tests.support.engines import PATIENCE_S
from tests.support.managers import in_a_loop, until
from trellis2_server.errors import ShuttingDownError, StoreError
from trellis2_server.storage.memory_store import MemoryStore
from trellis2_server.storage.shared_reads import SharedReads
from trellis2_server.storage.store import Artifact

SHAPE = Artifact("a", "shape.glb", 3)


class CountingStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def open_file(self, artifact: Artifact) -> bytes:
        self.reads += 1
        return super().open_file(artifact)


@in_a_loop
async def test_a_cancelled_read_does_not_disturb_the_others() -> None:
    store = CountingStore()
    store.write(SHAPE, b"abc")
    reads = SharedReads(store, lambda *_: pytest.fail("nothing is lost"))
    tasks = [asyncio.ensure_future(reads.open_file(SHAPE)) for _ in range(4)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    assert [content.load() for content in await asyncio.gather(*tasks[1:])] == [b"abc"] * 3
    assert store.reads == 1
    assert reads.is_idle
    reads.close()
    with pytest.raises(ShuttingDownError):
        await reads.open_file(SHAPE)


@in_a_loop
async def test_a_lost_file_is_reported_once() -> None:
    lost: list[tuple[Artifact, str]] = []
    reads = SharedReads(MemoryStore(), lambda artifact, error: lost.append((artifact, str(error))))
    results = await asyncio.gather(
        reads.open_file(SHAPE), reads.open_file(SHAPE), return_exceptions=True
    )
    assert [type(result) for result in results] == [StoreError, StoreError]
    assert lost == [(SHAPE, "shape.glb is no longer stored")]
    reads.close()


class GatedStore(MemoryStore):
    """Opens files when a gate opens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.opening = 0
        self._lock = threading.Lock()

    def open_file(self, artifact: Artifact) -> bytes:
        with self._lock:
            self.opening += 1
        assert self.gate.wait(PATIENCE_S)
        if artifact.name == "busy":
            raise StoreError("Too many open files")
        return super().open_file(artifact)


@in_a_loop
async def test_two_files_are_opened_at_a_time_and_the_others_wait() -> None:
    store = GatedStore()
    files = [Artifact("a", f"file_{letter}", 1) for letter in "abc"]
    for artifact in files:
        store.write(artifact, b"x")
    reads = SharedReads(store, lambda *_: pytest.fail("nothing is lost"))
    assert reads.is_idle
    opening = asyncio.gather(*(reads.open_file(artifact) for artifact in files))
    await until(lambda: store.opening >= 2)
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert store.opening == 2
    assert not reads.is_idle
    store.gate.set()
    assert [content.load() for content in await opening] == [b"x"] * 3
    assert reads.is_idle
    reads.close()


@in_a_loop
async def test_an_error_that_may_pass_is_not_a_loss_and_the_file_is_opened_again() -> None:
    store = GatedStore()
    store.gate.set()
    reads = SharedReads(store, lambda *_: pytest.fail("nothing is lost"))
    for _ in range(2):
        with pytest.raises(StoreError, match="Too many open files"):
            await reads.open_file(Artifact("a", "busy", 1))
    assert store.opening == 2
    reads.close()


@in_a_loop
async def test_closing_does_not_wait_for_a_file_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    store = GatedStore()
    store.write(SHAPE, b"abc")
    reads = SharedReads(store, lambda *_: pytest.fail("nothing is lost"))
    opening = asyncio.ensure_future(reads.open_file(SHAPE))
    await until(lambda: store.opening == 1)
    reads.close()
    assert not opening.done()
    store.gate.set()
    assert (await opening).load() == b"abc"
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("reader"):
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
