"""`MemoryStore`: files in memory until the process ends, and no records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trellis2_server.errors import StoreError
from trellis2_server.storage.store import StoreContents

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trellis2_server.storage.store import Artifact, JobName


class MemoryStore:
    """A `Store` in memory."""

    is_persistent = False

    def __init__(self) -> None:
        self._files: dict[Artifact, bytes] = {}

    def claim(self) -> None:
        """Do nothing: other processes cannot use this memory."""

    def open(self) -> StoreContents:
        """Return empty contents."""
        return StoreContents()

    def reopen(self) -> StoreContents:
        """Do nothing: memory does not fail."""
        return StoreContents()

    def close(self) -> None:
        """Drop all files."""
        self._files.clear()

    def write(self, artifact: Artifact, content: bytes) -> None:
        """Store a file."""
        self._files[artifact] = content

    def open_file(self, artifact: Artifact) -> bytes:
        """Return the bytes of a file.

        Raises:
            StoreError: the file is not stored.
        """
        try:
            return self._files[artifact]
        except KeyError:
            raise StoreError(f"{artifact.name} is no longer stored", is_lost=True) from None

    def save(self, records: Mapping[str, str], names: Iterable[JobName]) -> None:
        """Do nothing: the records are needed only after a restart."""

    def delete_file(self, artifact: Artifact) -> None:
        """Drop one file."""
        self._files.pop(artifact, None)

    def delete_jobs(self, uids: Iterable[str]) -> None:
        """Drop the files of jobs."""
        self.delete_files_of(uids)

    def delete_files_of(self, uids: Iterable[str]) -> None:
        """Drop the files of jobs."""
        deleted = set(uids)
        for artifact in [a for a in self._files if a.uid in deleted]:
            del self._files[artifact]
