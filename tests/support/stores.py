"""What a store holds, whether it is in memory or on a disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trellis2_server.storage.store import Artifact, Store


def content_of(store: Store, artifact: Artifact) -> bytes:
    opened = store.open_file(artifact)
    return opened if isinstance(opened, bytes) else opened.read()
