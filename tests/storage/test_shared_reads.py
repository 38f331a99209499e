from __future__ import annotations

import asyncio

import pytest

from tests.support.managers import in_a_loop
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
