"""`PendingWrites`: changes that are to be written to a store, in the batches that they go in.

Does not know: threads, the store, when something is written.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trellis2_server.storage.store import Artifact, JobName

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trellis2_server.storage.index import ArchiveIndex


@dataclass(slots=True, eq=False)
class Batch:
    """Changes that are written together.

    Attributes:
        deleted_jobs: uids.
        deleted_files: files of jobs that remain.
        files: contents of new files.
        records: new or changed records, by uid.
        names: new or changed names, by kind and name.
        is_bulk: whether it is one bulk file, with the record of its job as it is stored.
        ended: set when the batch is written, or could not be.
    """

    deleted_jobs: set[str] = field(default_factory=set[str])
    deleted_files: set[Artifact] = field(default_factory=set[Artifact])
    files: dict[Artifact, bytes] = field(default_factory=dict[Artifact, bytes])
    records: dict[str, str] = field(default_factory=dict[str, str])
    names: dict[tuple[str, str], JobName] = field(default_factory=dict[tuple[str, str], JobName])
    is_bulk: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def __bool__(self) -> bool:
        return bool(
            self.deleted_jobs or self.deleted_files or self.files or self.records or self.names
        )

    def concerns(self, uid: str) -> bool:
        """Whether the batch has the record, or a name, of a job. Files come with the record."""
        if self.is_bulk:
            return False
        return uid in self.records or any(name.uid == uid for name in self.names.values())


class PendingWrites:
    """Changes by batch: that which is being written, and the next one.

    Args:
        index: current files, records and names; not changed here.

    Attributes:
        current: what is being written.
        next: what is written after it.
        unwritten: contents of all files that are not written yet.
    """

    def __init__(self, index: ArchiveIndex) -> None:
        self._index = index
        self.current, self.next = Batch(), Batch()
        self.unwritten: dict[Artifact, bytes] = {}
        #: Large files, written after everything else.
        self._bulk: dict[Artifact, bytes] = {}

    def __bool__(self) -> bool:
        return bool(self.next or self._bulk)

    def find(self, uid: str) -> Batch | None:
        """Return the last batch with the record or a name of a job; None: all are written."""
        return next((batch for batch in (self.next, self.current) if batch.concerns(uid)), None)

    def is_deleting(self, uid: str) -> bool:
        """Whether the deletion of a job is not written yet."""
        return uid in self.next.deleted_jobs or uid in self.current.deleted_jobs

    # ---- changes ---------------------------------------------------------------------

    def add_file(self, artifact: Artifact, content: bytes, *, is_bulk: bool) -> None:
        """Add a file of a job that has a record; see `WriteQueue.write_file`."""
        self.unwritten[artifact] = content
        if is_bulk:
            self._bulk[artifact] = content
        else:
            self.next.files[artifact] = content
            # The store lists files when it saves the record of their job.
            self.next.records.setdefault(artifact.uid, self._index.records[artifact.uid])

    def cancel_file(self, artifact: Artifact) -> None:
        """Remove a file that is not written yet."""
        self.unwritten.pop(artifact, None)
        self.next.files.pop(artifact, None)
        self._bulk.pop(artifact, None)

    def delete_jobs(self, uids: set[str], names: Iterable[tuple[str, str]]) -> None:
        """Add the deletion of jobs; remove their records and names."""
        for uid in uids:
            self.next.records.pop(uid, None)
        for key in names:
            self.next.names.pop(key, None)
        self.next.deleted_jobs |= uids

    def add_everything(self) -> None:
        """Add all records and names: the store may have lost them."""
        self.next.records = dict(self._index.records)
        self.next.names = dict(self._index.names)

    # ---- batches ---------------------------------------------------------------------

    def take(self) -> Batch:
        """Make the next batch, or one bulk file, the current batch; return it."""
        batch, self.next = self.next, Batch()
        while self._bulk and not batch:
            artifact = next(iter(self._bulk))
            content = self._bulk.pop(artifact)
            record = self._index.records.get(artifact.uid)
            if record is not None:
                batch.is_bulk = True
                batch.files[artifact], batch.records[artifact.uid] = content, record
        self.current = batch
        return batch

    def finish(self) -> list[Artifact]:
        """Note that the current batch is written; return its files, but those added again since."""
        written = [artifact for artifact in self.current.files if not self._is_queued(artifact)]
        for artifact in written:
            self.unwritten.pop(artifact, None)
        self.current = Batch(ended=self.current.ended)
        return written

    def _is_queued(self, artifact: Artifact) -> bool:
        """Whether a file is to be written, perhaps after an earlier one of its name and size."""
        return artifact in self.next.files or artifact in self._bulk

    def requeue(self) -> None:
        """Add the current batch, which failed, again, without what was removed since."""
        failed, self.current = self.current, Batch(ended=self.current.ended)
        files = {
            artifact: content
            for artifact, content in failed.files.items()
            if artifact in self.unwritten and not self._is_queued(artifact)
        }
        if failed.is_bulk:
            self._bulk = files | self._bulk
            return
        queued = self.next
        queued.deleted_jobs |= failed.deleted_jobs
        queued.deleted_files |= failed.deleted_files
        queued.files = files | queued.files
        queued.records = {
            uid: record
            for uid, record in (failed.records | queued.records).items()
            if uid in self._index.records
        }
        queued.names = {
            key: name
            for key, name in (failed.names | queued.names).items()
            if key in self._index.names
        }
