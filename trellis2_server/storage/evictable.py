"""`EvictableFiles`: which files in memory to drop first.

Does not know: the contents of the files, how they are dropped.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trellis2_server.storage.store import Artifact


class EvictableFiles:
    """Files that may be dropped from memory, in order of their last use.

    Args:
        max_bytes: limit of their total size.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._files: OrderedDict[Artifact, None] = OrderedDict()

    @property
    def size(self) -> int:
        """Total size, in bytes."""
        return sum(artifact.size for artifact in self._files)

    def add(self, artifact: Artifact) -> None:
        """Add a file as the most recently used one."""
        self._files[artifact] = None

    def touch(self, artifact: Artifact) -> None:
        """Make a file the most recently used one, if it is evictable."""
        if artifact in self._files:
            self._files.move_to_end(artifact)

    def remove(self, artifact: Artifact) -> None:
        """Remove a file, if it is evictable."""
        self._files.pop(artifact, None)

    def pop_excess(self) -> list[Artifact]:
        """Remove and return the least recently used files that exceed the limit."""
        excess: list[Artifact] = []
        size = self.size
        while size > self.max_bytes:
            artifact, _ = self._files.popitem(last=False)
            size -= artifact.size
            excess.append(artifact)
        return excess
