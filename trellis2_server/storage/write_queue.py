"""`WriteQueue`: writes changes to a store in batches, on one thread.

Those who tell a client of a result wait until its record and files are written, and those who tell
that a job is deleted until its record is gone (`wait_until_saved`, `wait_until_deleted`). Large
files that nobody waits for are written one at a time, after everything else.

Changes that cannot be written stay queued, with a note for the operator. Nothing is written
then until `retry`, which writes all of them: the server continues without its disk. Deletions try
again at once, because they may make room. Nobody waits for a disk that fails, or that does not
answer for `STALL_S`.

Does not know: HTTP, jobs, the content of records.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.errors import ServerError, StoreError
from trellis2_server.storage.pending_writes import PendingWrites
from trellis2_server.thread_priority import lower_priority

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from trellis2_server.storage.index import ArchiveIndex
    from trellis2_server.storage.pending_writes import Batch
    from trellis2_server.storage.store import Artifact, JobName, Store, StoreContents

logger = logging.getLogger(__name__)

#: How long a batch may take until the disk counts as failing, seconds.
STALL_S: Final = 30.0


class WriteQueue:
    """Queue of changes to a store. All methods belong to the event loop's thread.

    Args:
        store: not open.
        index: current files, records and names; not changed here.
        on_written: called with files after they were written.
        on_failed: called after a batch could not be written and was queued again.

    Attributes:
        failure: the reason why nothing is written at the moment, or None.
        on_opened: called with the contents of a store that could not be read at the start, before
            anything is written to it.
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
        self._on_written = on_written
        self._on_failed = on_failed
        self.failure: str | None = None
        self.on_opened: Callable[[StoreContents], None] = lambda _: None
        self._is_open = False
        self._must_reopen = False
        self._pending = PendingWrites(index)
        self._turn_ended = asyncio.Event()
        self._is_stalled = False
        self._writing: asyncio.Task[None] | None = None
        self._executor = ThreadPoolExecutor(1, "archive", lower_priority)

    # ---- state -----------------------------------------------------------------------

    def set_open(self, failure: StoreError | None = None) -> None:
        """Start to write: the store is open. After a failure, it is open for reading only."""
        self._is_open = failure is None
        if failure is not None:
            self.set_failed(failure)

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

    async def wait_until_saved(self, uid: str) -> None:
        """Wait until a job's record, names and files are written as they are now.

        Returns at once while nothing can be written, and does not wait for bulk files.
        """
        batch = self._pending.find(uid)
        if batch is not None and self.failure is None:
            await batch.ended.wait()

    async def wait_until_deleted(self, uid: str) -> bool:
        """Wait until a removed job is deleted from the store; return whether it is.

        It is not if the store fails, or does not answer.
        """
        while self._pending.is_deleting(uid) and self._writing is not None and not self._is_stalled:
            await self._turn_ended.wait()
        return not self._pending.is_deleting(uid)

    def close(self) -> asyncio.Future[None]:
        """Accept no more changes, and close the store as soon as a write that runs has ended.

        Nobody waits for that write any more.
        """
        if self._writing is not None:
            self._give_up("it does not answer")
        loop = asyncio.get_running_loop()
        closing = loop.run_in_executor(self._executor, self._store.close)
        self._executor.shutdown(wait=False)
        return closing

    # ---- changes ---------------------------------------------------------------------

    @property
    def unwritten_bytes(self) -> int:
        """Total size of the files that are not written yet, in bytes."""
        return sum(len(content) for content in self._pending.unwritten.values())

    def unwritten(self, artifact: Artifact) -> bytes | None:
        """Return the content of a file that is not written yet."""
        return self._pending.unwritten.get(artifact)

    def write_file(self, artifact: Artifact, content: bytes, *, is_bulk: bool = False) -> None:
        """Queue a file of a job that has a record.

        Args:
            artifact: the file.
            content: its bytes.
            is_bulk: whether it may be written after everything else.
        """
        self._pending.add_file(artifact, content, is_bulk=is_bulk)
        self._start()

    def write_record(self, uid: str, record: str) -> None:
        """Queue a record."""
        self._pending.next.records[uid] = record
        self._start()

    def write_name(self, name: JobName) -> None:
        """Queue a name."""
        self._pending.next.names[name.kind, name.name] = name
        self._start()

    def cancel_file(self, artifact: Artifact) -> None:
        """Remove a file from the queue."""
        self._pending.cancel_file(artifact)

    def delete_file(self, artifact: Artifact) -> None:
        """Queue the deletion of a file."""
        self._pending.next.deleted_files.add(artifact)
        self._start()

    def delete_jobs(self, uids: set[str], names: Iterable[tuple[str, str]]) -> None:
        """Queue the deletion of jobs; remove their records and names from the queue.

        It is tried at once even if writing failed: it may make room.
        """
        self._pending.delete_jobs(uids, names)
        self._must_reopen = self._must_reopen or self.failure is not None
        self._start()

    # ---- writing ---------------------------------------------------------------------

    def _start(self) -> None:
        can_write = self._is_open and self.failure is None
        if self._writing is None and (can_write or self._must_reopen):
            self._writing = asyncio.get_running_loop().create_task(self._write_all())

    async def _write_all(self) -> None:
        try:
            is_written = True
            while self._must_reopen or (is_written and self._pending):
                with self._stall_noted():
                    is_written = await self._write_next()
        finally:
            self._writing = None
            self._end_turn()

    @contextmanager
    def _stall_noted(self) -> Generator[None]:
        """Count the disk as failing if a turn takes too long, until it ends."""
        text = f"it has not answered for {STALL_S:.0f} s"
        timer = asyncio.get_running_loop().call_later(STALL_S, self._give_up, text)
        try:
            yield
        finally:
            timer.cancel()
            self._is_stalled = False
            self._end_turn()

    def _give_up(self, reason: str) -> None:
        """Have nobody wait for the turn that runs."""
        self._is_stalled = True
        self.set_failed(StoreError(reason))
        self._end_turn()

    def _end_turn(self) -> None:
        """Wake those who wait for the batch that was written or, after a failure, for any."""
        self._turn_ended.set()
        self._turn_ended = asyncio.Event()
        self._pending.current.ended.set()
        if self.failure is not None:
            self._pending.next.ended.set()
            self._pending.next.ended = asyncio.Event()

    async def _write_next(self) -> bool:
        """Write the queued changes, or one bulk file; return whether that succeeded."""
        try:
            if self._must_reopen:
                await self._reopen()
            await self._on_thread(self._write, self._pending.take())
        except ServerError as error:
            self.set_failed(error)
        except Exception as error:
            logger.exception("Results could not be written")
            self.set_failed(StoreError(type(error).__name__))
        else:
            self._finish()
            return True
        self._pending.requeue()
        self._on_failed()
        return False

    async def _reopen(self) -> None:
        self._must_reopen = False
        contents = await self._on_thread(
            self._reopen_store, frozenset(self._pending.next.deleted_jobs)
        )
        self._is_open = True
        self.on_opened(contents)
        self._pending.add_everything()

    async def _on_thread(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call, *arguments)

    def _reopen_store(self, deleted_jobs: frozenset[str]) -> StoreContents:
        """Open the store again; runs on the writer's thread."""
        try:
            return self._store.reopen()
        except StoreError:
            if not deleted_jobs:
                raise
            self._store.delete_files_of(deleted_jobs)
            return self._store.reopen()

    def _write(self, batch: Batch) -> None:
        """Write a batch; runs on the writer's thread."""
        if batch.deleted_jobs:
            self._store.delete_jobs(batch.deleted_jobs)
            batch.deleted_jobs = set()  # done, even if the rest fails
        for artifact in batch.deleted_files:
            self._store.delete_file(artifact)
        for artifact, content in batch.files.items():
            self._store.write(artifact, content)
        if batch.records or batch.names:
            self._store.save(batch.records, batch.names.values())

    def _finish(self) -> None:
        self._on_written(self._pending.finish())
        if self.failure is not None:
            logger.warning("Results are written to worker.result_dir again")
            self.failure = None
