"""`Archive`: stores the jobs' files and records without blocking the event loop.

Files can be read as soon as they are stored: from memory until they are written. Without a
working disk, everything stays in memory (see `write_queue`).

Does not know: HTTP, jobs, the content of records.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final

from trellis2_server.errors import StoreError
from trellis2_server.storage.content import BytesContent
from trellis2_server.storage.deferred_files import DeferredFiles
from trellis2_server.storage.evictable import EvictableFiles
from trellis2_server.storage.index import ArchiveIndex
from trellis2_server.storage.shared_reads import SharedReads
from trellis2_server.storage.store import Artifact, JobName, StoreContents
from trellis2_server.storage.write_queue import WriteQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trellis2_server.storage.content import Content
    from trellis2_server.storage.store import Store

logger = logging.getLogger(__name__)

#: Maximum number of deferred files that wait; evictable files beyond it are not stored.
MAX_DEFERRED_FILES: Final = 4


class Archive:
    """Stores results. All methods belong to the event loop's thread.

    Args:
        store: where to store; not open.
        max_evictable_bytes: limit for evictable files in memory; the least recently used ones
            are dropped first. 0: no evictable files are stored.

    Attributes:
        is_persistent: whether results remain after a restart.
        on_stored: called with each new file.
        on_opened: called with the contents of a folder that could not be read at the start, once
            it can be.
    """

    def __init__(self, store: Store, *, max_evictable_bytes: int) -> None:
        self.is_persistent = store.is_persistent
        self.on_stored: Callable[[Artifact], None] | None = None
        self.on_opened: Callable[[StoreContents], None] | None = None
        self._store = store
        self._index = ArchiveIndex()
        self._evictable = EvictableFiles(max_evictable_bytes)
        self._writes = WriteQueue(
            store, self._index, on_written=self._note_written, on_failed=self._evict
        )
        self._writes.on_opened = self._note_opened
        self._reads = SharedReads(store, self._note_lost)
        self._deferred = DeferredFiles()
        self._warnings: tuple[str, ...] = ()

    # ---- opening, closing, state -----------------------------------------------------

    def open(self) -> StoreContents:
        """Open the store and return its contents. Blocks: call it before serving.

        What is on a disk that is full or read-only is served; see `notes`.

        Raises:
            ConfigError: another process uses the store, or a newer version wrote it.
        """
        try:
            contents = self._store.open()
        except StoreError as error:
            self._writes.set_failed(error)
            return StoreContents()
        self._writes.set_open(contents.failure)
        return self._add(contents)

    def _add(self, contents: StoreContents) -> StoreContents:
        self._warnings = tuple(contents.warnings)
        for warning in contents.warnings:
            logger.warning(warning)
        return self._index.add(contents)

    def _note_opened(self, contents: StoreContents) -> None:
        """Add the contents of a folder that could not be read at the start."""
        added = self._add(contents)
        if self.on_opened is not None and added.jobs:
            try:
                self.on_opened(added)
            except Exception:  # what was made since is written all the same
                logger.exception("Stored jobs cannot be served")

    async def close(self) -> None:
        """Write what is left, if possible, and close the store."""
        try:
            await self.flush()
            self.retry_failed_writes()
            await self.flush()
        finally:  # also if a disk does not answer, and this is cancelled
            closed = self._writes.close()
            self._reads.close()
            self._deferred.close()
        await closed

    async def flush(self) -> None:
        """Wait until everything, deferred files included, is written or could not be."""
        await self._deferred.wait()
        await self._writes.wait()

    async def wait_until_saved(self, uid: str) -> None:
        """Wait until a job, as it is now, is written, without bulk files; not while that fails."""
        if self.is_persistent:
            await self._writes.wait_until_saved(uid)

    async def wait_until_deleted(self, uid: str) -> bool:
        """Wait until a removed job cannot come back after a restart; return whether it cannot."""
        return not self.is_persistent or await self._writes.wait_until_deleted(uid)

    def retry_failed_writes(self) -> None:
        """Write again what could not be written."""
        self._writes.retry()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being made, written or opened."""
        return not self._deferred and self._writes.is_idle and self._reads.is_idle

    @property
    def notes(self) -> list[str]:
        """Sentences for the operator."""
        return [*self._warnings, *([self._writes.failure] if self._writes.failure else [])]

    @property
    def size(self) -> int:
        """Total size of all stored files, in bytes."""
        return self._index.size

    @property
    def is_in_memory(self) -> bool:
        """Whether new files stay in memory: there is no folder, or it fails."""
        return not self.is_persistent or self._writes.failure is not None

    @property
    def unwritten_bytes(self) -> int:
        """Total size of the files that are not written yet, in bytes."""
        return self._writes.unwritten_bytes

    # ---- storing ---------------------------------------------------------------------

    def save_record(self, uid: str, record: str) -> None:
        """Save the record of a job, for after a restart."""
        if self._index.records.get(uid) != record:
            self._index.records[uid] = record
            self._writes.write_record(uid, record)

    def save_name(self, name: JobName) -> None:
        """Save a further name of a job, for after a restart."""
        self._index.add_name(name)
        self._writes.write_name(name)

    def store_file(self, uid: str, name: str, content: bytes, *, is_bulk: bool = False) -> Artifact:
        """Store a file of a job that has a record; it can be read at once.

        A bulk file is written after everything else, and nobody waits for that.
        """
        artifact = Artifact(uid, name, len(content))
        replaced = self.find(uid, name)
        if replaced is not None:
            self._drop(replaced)
        self._index.add_file(artifact)
        self._writes.write_file(artifact, content, is_bulk=is_bulk)
        if self.on_stored is not None:
            self.on_stored(artifact)
        return artifact

    def store_deferred(
        self, uid: str, name: str, make: Callable[[], bytes], *, is_evictable: bool
    ) -> None:
        """Make a file on a thread, then store it, unless its job was removed in the meantime.

        Args:
            uid: the job's.
            name: file name.
            make: returns the content. If it raises, the file is not stored.
            is_evictable: whether the file may be dropped: not stored at all if many deferred
                files wait, and evicted later if memory is short.
        """
        if is_evictable and (
            not self._evictable.max_bytes or len(self._deferred) >= MAX_DEFERRED_FILES
        ):
            return
        store = partial(self._store_made, uid, name, is_evictable=is_evictable)
        self._deferred.start(uid, name, make, store)

    def _store_made(self, uid: str, name: str, content: bytes, *, is_evictable: bool) -> None:
        if uid in self._index.records:
            artifact = self.store_file(uid, name, content, is_bulk=is_evictable)
            if is_evictable:
                self._evictable.add(artifact)
                if not self.is_persistent:
                    self._evict()

    # ---- finding and removing --------------------------------------------------------

    def find(self, uid: str, name: str) -> Artifact | None:
        """Find a stored file of a job."""
        return self._index.find(uid, name)

    def is_coming(self, uid: str, name: str) -> bool:
        """Whether a deferred file of a job is being made."""
        return uid in self._index.records and self._deferred.has(uid, name)

    async def find_soon(self, uid: str, name: str) -> Artifact | None:
        """Find a file of a job; if it is deferred, wait until it is stored."""
        await self._deferred.wait_for(uid, name)
        return self.find(uid, name)

    def files(self, uid: str) -> list[Artifact]:
        """List the stored files of a job."""
        return self._index.files(uid)

    def discard(self, artifact: Artifact) -> None:
        """Delete a file, if it is stored."""
        if self._drop(artifact):
            self._writes.delete_file(artifact)

    def remove(self, uids: Iterable[str]) -> None:
        """Delete jobs, their files and their names."""
        removed = {uid for uid in uids if self._index.records.pop(uid, None) is not None}
        if not removed:
            return
        names: set[tuple[str, str]] = set()
        for uid in removed:
            for artifact in self.files(uid):
                self._drop(artifact)
            names |= self._index.remove_names(uid)
        self._writes.delete_jobs(removed, names)

    def _drop(self, artifact: Artifact) -> bool:
        """Remove a file from everything in memory; return whether it was stored."""
        if not self._index.remove_file(artifact):
            return False
        self._evictable.remove(artifact)
        self._writes.cancel_file(artifact)
        return True

    def _evict(self) -> None:
        for artifact in self._evictable.pop_excess():
            self.discard(artifact)

    def _note_written(self, artifacts: Iterable[Artifact]) -> None:
        if self.is_persistent:  # they no longer use memory
            for artifact in artifacts:
                self._evictable.remove(artifact)

    # ---- reading ---------------------------------------------------------------------

    async def open_file(self, artifact: Artifact) -> Content:
        """Return the content of a file, exactly as it was stored.

        Raises:
            StoreError: the file is no longer stored, is damaged on the disk (then it is
                deleted), or cannot be read at the moment.
            ShuttingDownError: the archive is closed.
        """
        self._evictable.touch(artifact)
        unwritten = self._writes.unwritten(artifact)
        if unwritten is not None:
            return BytesContent(unwritten)
        if not self._index.has(artifact):
            raise StoreError(f"{artifact.name} is no longer stored", is_lost=True)
        return await self._reads.open_file(artifact)

    def _note_lost(self, artifact: Artifact, error: StoreError) -> None:
        if self._index.has(artifact):
            logger.warning("Stored file lost: %s", error, extra={"uid": artifact.uid})
            self.discard(artifact)
