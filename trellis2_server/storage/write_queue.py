"""`WriteQueue`: writes changes to a store in batches, on one thread.

Changes that cannot be written stay queued, with a note for the operator. Nothing is written
then until `retry`, which writes all of them: the server continues without its disk.

Does not know: HTTP, jobs, the content of records.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trellis2_server.errors import ServerError, StoreError
from trellis2_server.storage.store import Artifact, JobName
from trellis2_server.thread_priority import lower_priority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trellis2_server.storage.index import ArchiveIndex
    from trellis2_server.storage.store import Store

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Batch:
    """Changes that are written together.

    Attributes:
        deleted_jobs: uids.
        deleted_files: files of jobs that remain.
        files: contents of new files.
        records: new or changed records, by uid.
        names: new or changed names, by kind and name.
    """

    deleted_jobs: set[str] = field(default_factory=set[str])
    deleted_files: set[Artifact] = field(default_factory=set[Artifact])
    files: dict[Artifact, bytes] = field(default_factory=dict[Artifact, bytes])
    records: dict[str, str] = field(default_factory=dict[str, str])
    names: dict[tuple[str, str], JobName] = field(default_factory=dict[tuple[str, str], JobName])

    def __bool__(self) -> bool:
        return bool(
            self.deleted_jobs or self.deleted_files or self.files or self.records or self.names
        )


class WriteQueue:
    """Queue of changes to a store. All methods belong to the event loop's thread.

    Args:
        store: not open.
        index: current files, records and names; not changed here.
        on_written: called with files after they were written.
        on_failed: called after a batch could not be written and was queued again.

    Attributes:
        failure: the reason why nothing is written at the moment, or None.
    """

    def __init__(
        self,
        store: Store,
        index: ArchiveIndex,
        *,
        on_written: Callable[[Iterable[Artifact]], None],
        on_failed: Callable[[], None],
    ) -> None:
        self._store = store
        self._index = index
        self._on_written = on_written
        self._on_failed = on_failed
        self.failure: str | None = None
        self._is_open = False
        self._must_reopen = False
        self._unwritten: dict[Artifact, bytes] = {}
        self._next = _Batch()
        self._writing: asyncio.Task[None] | None = None
        self._executor = ThreadPoolExecutor(1, "archive", lower_priority)

    # ---- state -----------------------------------------------------------------------

    def set_open(self) -> None:
        """Start to write: the store is open."""
        self._is_open = True

    def set_failed(self, error: ServerError) -> None:
        """Stop to write until `retry`."""
        failure = f"results are kept in memory only, worker.result_dir fails: {error}"
        if failure != self.failure:
            logger.warning("%s", failure)
        self.failure = failure

    def retry(self) -> None:
        """Reopen the store and write again, if writing failed."""
        if self.failure is not None:
            self._must_reopen = True
            self._start()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being written."""
        return self._writing is None

    async def wait(self) -> None:
        """Wait until all queued changes are written or could not be written."""
        if self._writing is not None:
            await asyncio.shield(self._writing)

    async def close(self) -> None:
        """Close the store and accept no more changes."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._executor, self._store.close)
        self._executor.shutdown(wait=False)

    # ---- changes ---------------------------------------------------------------------

    @property
    def unwritten_bytes(self) -> int:
        """Total size of the files that are not written yet, in bytes."""
        return sum(len(content) for content in self._unwritten.values())

    def unwritten(self, artifact: Artifact) -> bytes | None:
        """Return the content of a file that is not written yet."""
        return self._unwritten.get(artifact)

    def write_file(self, artifact: Artifact, content: bytes) -> None:
        """Queue a file of a job that has a record."""
        self._unwritten[artifact] = self._next.files[artifact] = content
        # The store lists files when it saves the record of their job.
        self._next.records.setdefault(artifact.uid, self._index.records[artifact.uid])
        self._start()

    def write_record(self, uid: str, record: str) -> None:
        """Queue a record."""
        self._next.records[uid] = record
        self._start()

    def write_name(self, name: JobName) -> None:
        """Queue a name."""
        self._next.names[name.kind, name.name] = name
        self._start()

    def cancel_file(self, artifact: Artifact) -> None:
        """Remove a file from the queue."""
        self._unwritten.pop(artifact, None)
        self._next.files.pop(artifact, None)

    def delete_file(self, artifact: Artifact) -> None:
        """Queue the deletion of a file."""
        self._next.deleted_files.add(artifact)
        self._start()

    def delete_jobs(self, uids: set[str], names: Iterable[tuple[str, str]]) -> None:
        """Queue the deletion of jobs; remove their records and names from the queue."""
        for uid in uids:
            self._next.records.pop(uid, None)
        for key in names:
            self._next.names.pop(key, None)
        self._next.deleted_jobs |= uids
        self._start()

    # ---- writing ---------------------------------------------------------------------

    def _start(self) -> None:
        can_write = self._is_open and self.failure is None
        if self._writing is None and (can_write or self._must_reopen):
            self._writing = asyncio.get_running_loop().create_task(self._write_all())

    async def _write_all(self) -> None:
        try:
            is_written = True
            while self._must_reopen or (is_written and self._next):
                is_written = await self._write_next()
        finally:
            self._writing = None

    async def _write_next(self) -> bool:
        """Write the queued changes; return whether that succeeded."""
        loop = asyncio.get_running_loop()
        batch = _Batch()
        try:
            if self._must_reopen:
                self._must_reopen = False
                await loop.run_in_executor(self._executor, self._store.reopen)
                self._is_open = True
                self._next.records = dict(self._index.records)
                self._next.names = dict(self._index.names)
            batch, self._next = self._next, batch
            await loop.run_in_executor(self._executor, self._write, batch)
        except ServerError as error:
            self.set_failed(error)
        except Exception as error:
            logger.exception("Results could not be written")
            self.set_failed(StoreError(type(error).__name__))
        else:
            self._finish(batch)
            return True
        self._requeue(batch)
        self._on_failed()
        return False

    def _write(self, batch: _Batch) -> None:
        """Write a batch; runs on the writer's thread."""
        if batch.deleted_jobs:
            self._store.delete_jobs(batch.deleted_jobs)
        for artifact in batch.deleted_files:
            self._store.delete_file(artifact)
        for artifact, content in batch.files.items():
            self._store.write(artifact, content)
        if batch.records or batch.names:
            self._store.save(batch.records, batch.names.values())

    def _finish(self, batch: _Batch) -> None:
        for artifact in batch.files:
            self._unwritten.pop(artifact, None)
        self._on_written(batch.files)
        if self.failure is not None:
            logger.warning("Results are written to worker.result_dir again")
            self.failure = None

    def _requeue(self, batch: _Batch) -> None:
        """Queue a failed batch again, without what was removed in the meantime."""
        queued = self._next
        queued.deleted_jobs |= batch.deleted_jobs
        queued.deleted_files |= batch.deleted_files
        queued.files = {
            artifact: content
            for artifact, content in (batch.files | queued.files).items()
            if artifact in self._unwritten
        }
        queued.records = {
            uid: record
            for uid, record in (batch.records | queued.records).items()
            if uid in self._index.records
        }
        queued.names = {
            key: name
            for key, name in (batch.names | queued.names).items()
            if key in self._index.names
        }
