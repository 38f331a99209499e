"""`Archive`: keeps the jobs' files and records in a store, off the event loop.

What was just handed over is answered from memory while it is being written. What cannot be
written stays in memory, with a note for the operator; then nothing is written until `tend`
tries all of it again: the server goes on without its disk.

    keep     a file that was made              → an `Artifact`, at once
    pack     the same, made on a thread here   (a job's geometry)
    record   what is to be said of a job
    read     a file, exactly as it was made

All methods belong to the event loop's thread. One thread writes, a few others read.

What this module does not know: HTTP, what a job is, what a record says.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from trellis2_server.errors import ServerError, ShuttingDownError, StoreError
from trellis2_server.storage.store import Artifact, Name, Opened
from trellis2_server.thread_priority import lower_priority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trellis2_server.storage.store import Store

logger = logging.getLogger(__name__)

_READERS: Final = 2
#: So that a picture need not wait for a geometry.
_PACKERS: Final = 2
#: Geometries that wait to be packed, at most: more than that are not kept.
MAX_WAITING_PACKS: Final = 4


@dataclass(slots=True)
class _Batch:
    """What is to be written next."""

    removed: set[str] = field(default_factory=set[str])
    dropped: set[Artifact] = field(default_factory=set[Artifact])
    files: dict[Artifact, bytes] = field(default_factory=dict[Artifact, bytes])
    records: dict[str, str] = field(default_factory=dict[str, str])
    names: dict[tuple[str, str], Name] = field(default_factory=dict[tuple[str, str], Name])

    def __bool__(self) -> bool:
        return bool(self.removed or self.dropped or self.files or self.records or self.names)


class Archive:
    """Keeps results.

    Args:
        store: where; not open.
        max_packed_bytes: of spare files that are kept in memory; least recently used out first.

    Attributes:
        size: bytes of all files that are kept.
        is_lasting: whether records are kept at all.
        on_kept: is told of each file that is there.
    """

    def __init__(self, store: Store, *, max_packed_bytes: int) -> None:
        self._store = store
        self._max_packed = max_packed_bytes
        self.is_lasting = store.is_lasting
        self.on_kept: Callable[[Artifact], None] | None = None
        self._files: dict[str, dict[str, Artifact]] = {}
        self.size = 0
        self._packed: OrderedDict[Artifact, None] = OrderedDict()
        self._fresh: dict[Artifact, bytes] = {}
        self._records: dict[str, str] = {}
        self._names: dict[tuple[str, str], Name] = {}
        self._names_of: dict[str, set[tuple[str, str]]] = {}
        self._next = _Batch()
        self._writing: asyncio.Task[None] | None = None
        self._reading: dict[Artifact, asyncio.Future[bytes]] = {}
        self._packing: set[asyncio.Task[None]] = set()
        self._is_open = False
        self._must_reopen = False
        self._failure: str | None = None
        self._warnings: tuple[str, ...] = ()
        self._writer = ThreadPoolExecutor(1, "archive", lower_priority)
        self._readers = ThreadPoolExecutor(_READERS, "reader", lower_priority)
        self._packer = ThreadPoolExecutor(_PACKERS, "packer", lower_priority)

    # ---- life ------------------------------------------------------------------------

    def open(self) -> Opened:
        """What the store held. Blocks: call it before anything is served.

        Raises:
            ConfigError: another process uses the store, or a newer version wrote it.
        """
        try:
            opened = self._store.open()
        except StoreError as error:
            self._failed(error)
            return Opened()
        self._is_open = True
        self._warnings = tuple(opened.warnings)
        for warning in opened.warnings:
            logger.warning(warning)
        for job in opened.jobs:
            self._records[job.uid] = job.says
            for artifact in job.files.values():
                self._count(artifact)
        for name in opened.names:
            self._know(name)
        return opened

    async def close(self) -> None:
        """Write what is left, as far as that works, and let the store go."""
        await self.flush()
        self.tend()
        await self.flush()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._writer, self._store.close)
        for executor in (self._writer, self._readers, self._packer):
            executor.shutdown(wait=False)

    async def flush(self) -> None:
        """Wait until what was handed over is written, or could not be."""
        while self._packing:
            await asyncio.wait(self._packing)
        await self.written()

    async def written(self) -> None:
        """Wait until what was handed over is written, or could not be; not for what is packed."""
        if self._writing is not None:
            await asyncio.shield(self._writing)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being packed, written or read."""
        return not self._packing and self._writing is None and not self._reading

    @property
    def notes(self) -> list[str]:
        """What the operator should know."""
        return [*self._warnings, *([self._failure] if self._failure else [])]

    def tend(self) -> None:
        """Try again what could not be written."""
        if self._failure is not None:
            self._must_reopen = True
            self._begin_writing()

    # ---- keeping ---------------------------------------------------------------------

    def record(self, uid: str, says: str) -> None:
        """Have this said of a job from now on, also after a restart."""
        if self._records.get(uid) != says:
            self._records[uid] = self._next.records[uid] = says
            self._begin_writing()

    def name(self, name: Name) -> None:
        """Have the job found by another name too, also after a restart."""
        self._know(name)
        self._next.names[name.kind, name.name] = name
        self._begin_writing()

    def _know(self, name: Name) -> None:
        key = name.kind, name.name
        known = self._names.get(key)
        if known is not None:
            self._names_of[known.uid].discard(key)
        self._names[key] = name
        self._names_of.setdefault(name.uid, set()).add(key)

    def keep(self, uid: str, name: str, content: bytes) -> Artifact:
        """Have a file of a job that has a record; it can be read at once."""
        artifact = Artifact(uid, name, len(content))
        self._count(artifact)
        self._fresh[artifact] = self._next.files[artifact] = content
        # The store names a file in the record of its job.
        self._next.records.setdefault(uid, self._records[uid])
        self._begin_writing()
        if self.on_kept is not None:
            self.on_kept(artifact)
        return artifact

    def pack(self, uid: str, name: str, make: Callable[[], bytes], *, is_spare: bool) -> None:
        """Keep what `make` gives, called on a thread here.

        Args:
            uid: of the job.
            name: of the file.
            make: whatever it raises, the file is just not kept.
            is_spare: it is let go first: where too many wait, and where memory is short.
        """
        if is_spare and (not self._max_packed or len(self._packing) >= MAX_WAITING_PACKS):
            return
        task = asyncio.get_running_loop().create_task(self._pack(uid, name, make, is_spare))
        self._packing.add(task)
        task.add_done_callback(self._packing.discard)

    async def _pack(
        self,
        uid: str,
        name: str,
        make: Callable[[], bytes],
        is_spare: bool,  # noqa: FBT001
    ) -> None:
        try:
            content = await asyncio.get_running_loop().run_in_executor(self._packer, make)
        except Exception as error:  # noqa: BLE001 - a job is none the worse for it
            logger.warning("Not kept: %s", error, extra={"uid": uid, "file": name})
            return
        if uid not in self._records:  # the job was removed meanwhile
            return
        artifact = self.keep(uid, name, content)
        if is_spare:
            self._packed[artifact] = None
            if not self._store.is_lasting:
                self._bound_packed()

    def _bound_packed(self) -> None:
        """Let go what was packed and is in memory, the least recently used first."""
        size = sum(artifact.size for artifact in self._packed)
        while size > self._max_packed:
            artifact, _ = self._packed.popitem(last=False)
            size -= artifact.size
            self.discard(artifact)

    def find(self, uid: str, name: str) -> Artifact | None:
        """That file of the job, if it is kept."""
        return self._files.get(uid, {}).get(name)

    def files(self, uid: str) -> list[Artifact]:
        """All that are kept of the job."""
        return list(self._files.get(uid, {}).values())

    def discard(self, artifact: Artifact) -> None:
        """Keep a file no longer."""
        if self._forget(artifact):
            self._next.dropped.add(artifact)
            self._begin_writing()

    def remove(self, uids: Iterable[str]) -> None:
        """Keep nothing of these jobs."""
        gone = {uid for uid in uids if self._records.pop(uid, None) is not None}
        if not gone:
            return
        for uid in gone:
            for artifact in self.files(uid):
                self._forget(artifact)
            self._next.records.pop(uid, None)
            for key in self._names_of.pop(uid, ()):
                del self._names[key]
                self._next.names.pop(key, None)
        self._next.removed |= gone
        self._begin_writing()

    def _count(self, artifact: Artifact) -> None:
        known = self.find(artifact.uid, artifact.name)
        if known is not None:
            self._forget(known)
        self._files.setdefault(artifact.uid, {})[artifact.name] = artifact
        self.size += artifact.size

    def _forget(self, artifact: Artifact) -> bool:
        files = self._files.get(artifact.uid, {})
        if files.get(artifact.name) != artifact:
            return False
        del files[artifact.name]
        if not files:
            del self._files[artifact.uid]
        self.size -= artifact.size
        self._packed.pop(artifact, None)
        self._fresh.pop(artifact, None)
        self._next.files.pop(artifact, None)
        return True

    # ---- reading ---------------------------------------------------------------------

    async def read(self, artifact: Artifact) -> bytes:
        """The file, exactly as it was made.

        Raises:
            StoreError: it is not kept any more, what the disk has is not what was made (it is
                kept no longer then), or it cannot be read now.
            ShuttingDownError: the process is leaving.
        """
        if artifact in self._packed:
            self._packed.move_to_end(artifact)
        fresh = self._fresh.get(artifact)
        if fresh is not None:
            return fresh
        if self.find(artifact.uid, artifact.name) != artifact:
            raise StoreError(f"{artifact.name} is no longer kept", is_lost=True)
        reading = self._reading.get(artifact)  # all who read it now share the bytes
        if reading is None:
            loop = asyncio.get_running_loop()
            try:
                reading = loop.run_in_executor(self._readers, self._store.read, artifact)
            except RuntimeError as error:  # its threads take nothing more
                raise ShuttingDownError("the server is shutting down", retry_after_s=30) from error
            self._reading[artifact] = reading
            reading.add_done_callback(partial(self._read, artifact))
        return await asyncio.shield(reading)

    def _read(self, artifact: Artifact, reading: asyncio.Future[bytes]) -> None:
        del self._reading[artifact]
        error = None if reading.cancelled() else reading.exception()
        is_lost = isinstance(error, StoreError) and error.is_lost
        if is_lost and self.find(artifact.uid, artifact.name) == artifact:
            logger.warning("A file is lost: %s", error, extra={"uid": artifact.uid})
            self.discard(artifact)

    # ---- writing ---------------------------------------------------------------------

    def _begin_writing(self) -> None:
        is_well = self._is_open and self._failure is None
        if self._writing is None and (is_well or self._must_reopen):
            self._writing = asyncio.get_running_loop().create_task(self._write_all())

    async def _write_all(self) -> None:
        try:
            is_well = True
            while self._must_reopen or (is_well and self._next):
                is_well = await self._write_next()
        finally:
            self._writing = None

    async def _write_next(self) -> bool:
        """Write what there is; whether that worked."""
        loop = asyncio.get_running_loop()
        batch = _Batch()
        try:
            if self._must_reopen:
                self._must_reopen = False
                await loop.run_in_executor(self._writer, self._store.reopen)
                self._is_open = True
                self._next.records = dict(self._records)
                self._next.names = dict(self._names)
            batch, self._next = self._next, batch
            await loop.run_in_executor(self._writer, self._write, batch)
        except ServerError as error:
            self._failed(error)
        except Exception as error:
            logger.exception("Results could not be written")
            self._failed(StoreError(type(error).__name__))
        else:
            self._written(batch)
            return True
        self._take_back(batch)
        return False

    def _write(self, batch: _Batch) -> None:
        """On the writer's thread."""
        if batch.removed:
            self._store.remove(batch.removed)
        for artifact in batch.dropped:
            self._store.forget(artifact)
        for artifact, content in batch.files.items():
            self._store.write(artifact, content)
        if batch.records or batch.names:
            self._store.save(batch.records, batch.names.values())

    def _written(self, batch: _Batch) -> None:
        for artifact in batch.files:
            self._fresh.pop(artifact, None)
            if self._store.is_lasting:
                self._packed.pop(artifact, None)
        if self._failure is not None:
            logger.warning("Results are written to worker.result_dir again")
            self._failure = None

    def _take_back(self, batch: _Batch) -> None:
        """Have what could not be written be written later, unless it was removed meanwhile."""
        later = self._next
        later.removed |= batch.removed
        later.dropped |= batch.dropped
        later.files = {
            artifact: content
            for artifact, content in (batch.files | later.files).items()
            if artifact in self._fresh
        }
        later.records = {
            uid: says
            for uid, says in (batch.records | later.records).items()
            if uid in self._records
        }
        later.names = {
            key: name for key, name in (batch.names | later.names).items() if key in self._names
        }
        self._bound_packed()

    def _failed(self, error: ServerError) -> None:
        failure = f"results are kept in memory only, worker.result_dir fails: {error}"
        if failure != self._failure:
            logger.warning("%s", failure)
        self._failure = failure
