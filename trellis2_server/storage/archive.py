"""`Archive`: stores the jobs' files and records without blocking the event loop.

Files can be read as soon as they are stored: from memory until they are written. Without a
working disk, everything stays in memory (see `write_queue`).

Does not know: HTTP, jobs, the content of records.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from trellis2_server.errors import StoreError
from trellis2_server.storage.content import BytesContent
from trellis2_server.storage.evictable import EvictableFiles
from trellis2_server.storage.index import ArchiveIndex
from trellis2_server.storage.shared_reads import SharedReads
from trellis2_server.storage.store import Artifact, JobName, StoreContents
from trellis2_server.storage.write_queue import WriteQueue
from trellis2_server.thread_priority import lower_priority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trellis2_server.storage.content import Content
    from trellis2_server.storage.store import Store

logger = logging.getLogger(__name__)

#: Threads that make deferred files; two, so that a picture need not wait for a geometry.
_DEFERRED_THREADS: Final = 2
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
    """

    def __init__(self, store: Store, *, max_evictable_bytes: int) -> None:
        self.is_persistent = store.is_persistent
        self.on_stored: Callable[[Artifact], None] | None = None
        self._store = store
        self._index = ArchiveIndex()
        self._evictable = EvictableFiles(max_evictable_bytes)
        self._writes = WriteQueue(
            store, self._index, on_written=self._note_written, on_failed=self._evict
        )
        self._reads = SharedReads(store, self._note_lost)
        self._deferred: dict[asyncio.Task[None], tuple[str, str]] = {}
        self._deferred_executor = ThreadPoolExecutor(_DEFERRED_THREADS, "deferred", lower_priority)
        self._warnings: tuple[str, ...] = ()

    # ---- opening, closing, state -----------------------------------------------------

    def open(self) -> StoreContents:
        """Open the store and return its contents. Blocks: call it before serving.

        Raises:
            ConfigError: another process uses the store, or a newer version wrote it.
        """
        try:
            contents = self._store.open()
        except StoreError as error:
            self._writes.set_failed(error)
            return StoreContents()
        self._writes.set_open()
        self._warnings = tuple(contents.warnings)
        for warning in contents.warnings:
            logger.warning(warning)
        for job in contents.jobs:
            self._index.records[job.uid] = job.record
            for artifact in job.files.values():
                self._index.add_file(artifact)
        for name in contents.names:
            self._index.add_name(name)
        return contents

    async def close(self) -> None:
        """Write what is left, if possible, and close the store."""
        await self.flush()
        self.retry_failed_writes()
        await self.flush()
        await self._writes.close()
        self._reads.close()
        self._deferred_executor.shutdown(wait=False)

    async def flush(self) -> None:
        """Wait until everything, deferred files included, is written or could not be."""
        while self._deferred:
            await asyncio.wait(self._deferred)
        await self.wait_until_written()

    async def wait_until_written(self) -> None:
        """Wait until all stored files and records are written or could not be.

        Does not wait for deferred files.
        """
        await self._writes.wait()

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

    def store_file(self, uid: str, name: str, content: bytes) -> Artifact:
        """Store a file of a job that has a record; it can be read at once."""
        artifact = Artifact(uid, name, len(content))
        replaced = self.find(uid, name)
        if replaced is not None:
            self._drop(replaced)
        self._index.add_file(artifact)
        self._writes.write_file(artifact, content)
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
        task = asyncio.get_running_loop().create_task(
            self._store_deferred(uid, name, make, is_evictable=is_evictable)
        )
        self._deferred[task] = (uid, name)
        task.add_done_callback(self._deferred.pop)

    async def _store_deferred(
        self, uid: str, name: str, make: Callable[[], bytes], *, is_evictable: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            content = await loop.run_in_executor(self._deferred_executor, make)
        except Exception as error:  # noqa: BLE001 - the job itself is not affected
            logger.warning("File not stored: %s", error, extra={"uid": uid, "file": name})
            return
        if uid not in self._index.records:
            return
        artifact = self.store_file(uid, name, content)
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
        return uid in self._index.records and (uid, name) in self._deferred.values()

    async def find_soon(self, uid: str, name: str) -> Artifact | None:
        """Find a file of a job; if it is deferred, wait until it is stored."""
        while making := [task for task, file in self._deferred.items() if file == (uid, name)]:
            await asyncio.wait(making)
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
