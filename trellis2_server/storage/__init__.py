"""Job records and files, in memory or in a folder.

    archive          what jobs use: stores and reads without blocking the event loop
    write_queue      writes in batches on one thread, and retries failed ones; `pending_writes`
    deferred_files   makes files on threads, to be stored when they are made
    shared_reads     reads on a few threads
    index            files, records and names by job
    evictable        files in memory that may be dropped
    store            the protocol of stores, and what they hold
    memory_store     until the process ends
    disk_store       in a folder: `database` has the records, `job_files` the files
    record_copy      a copy of the records, for what damage makes unreadable
    rows             reads what is readable of a database, damaged ones too
    snapshots        geometry and material of a job, for exporting again
    serialization    arrays → compressed bytes

To store results elsewhere, implement `store.Store` and choose it in `make_store`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trellis2_server.storage.disk_store import DiskStore
from trellis2_server.storage.memory_store import MemoryStore

if TYPE_CHECKING:
    from trellis2_server.storage.store import Store


def make_store(folder: str | None) -> Store:
    """Make a store in a folder, or in memory if `folder` is None."""
    return MemoryStore() if folder is None else DiskStore(Path(folder))
