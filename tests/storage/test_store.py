"""Behaviour that all stores share."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from tests.support.stores import content_of
from trellis2_server.errors import StoreError
from trellis2_server.storage import make_store
from trellis2_server.storage.disk_store import DiskStore
from trellis2_server.storage.memory_store import MemoryStore
from trellis2_server.storage.store import Artifact, JobName

if TYPE_CHECKING:
    from pathlib import Path

    from trellis2_server.storage.store import Store

UID = str(uuid.UUID(int=1))
CONTENT = b"content" * 10_000
SHAPE = Artifact(UID, "shape.glb", len(CONTENT))


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_file_is_read_as_it_was_written_until_its_job_is_removed(
    kind: str, tmp_path: Path
) -> None:
    store: Store = MemoryStore() if kind == "memory" else DiskStore(tmp_path)
    assert not store.open().jobs
    store.write(SHAPE, CONTENT)
    store.save({UID: "done"}, [JobName("ticket", "t", UID, "textured")])
    assert content_of(store, SHAPE) == CONTENT
    store.delete_jobs([UID])
    with pytest.raises(StoreError) as caught:
        content_of(store, SHAPE)
    assert caught.value.is_lost
    store.write(SHAPE, CONTENT)
    store.delete_file(SHAPE)
    with pytest.raises(StoreError, match=r"^shape\.glb is no longer stored$"):
        content_of(store, SHAPE)
    store.close()


def test_the_setting_chooses_the_store(tmp_path: Path) -> None:
    assert isinstance(make_store(None), MemoryStore)
    assert isinstance(make_store(str(tmp_path)), DiskStore)
