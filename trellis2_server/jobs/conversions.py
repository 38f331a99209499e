"""`Conversions`: finished models in other file types, and their pictures, made once and stored.

A stored conversion has the name of its model, the file type or the kind of picture, a digest of a
placement that is not the type's or of how the picture is drawn, and the version of the server that
made it, such as `textured.obj-1_2_0`: another version makes it again. Conversions are dropped
before any job is, least recently used first.

Does not know: HTTP, how a model is converted.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from trellis2_server import __version__
from trellis2_server.digests import md5
from trellis2_server.errors import StoreError
from trellis2_server.jobs.export_calls import ExportWork, with_contents
from trellis2_server.parameters import PictureForm, PlacedFile
from trellis2_server.storage.content import BytesContent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trellis2_server.jobs.executor import Executor
    from trellis2_server.jobs.export_calls import ExportCalls
    from trellis2_server.parameters import DerivedForm
    from trellis2_server.settings import WorkerSettings
    from trellis2_server.storage.archive import Archive
    from trellis2_server.storage.content import Content
    from trellis2_server.storage.store import Artifact

#: End of the names of conversions that this version made.
_SUFFIX: Final = "-" + re.sub(r"[^a-z0-9]+", "_", __version__.lower())
#: Digits of a type or a digest → letters.
_LETTERS: Final = str.maketrans("0123456789", "ghijklmnop")
#: Part of `worker.max_kept_bytes` that conversions in memory may take.
_PART_OF_MEMORY: Final = 1 / 4
#: Part of `worker.max_result_bytes` that conversions on the disk may take.
_PART_OF_DISK: Final = 1 / 10


class Conversions:
    """The stored conversions of all jobs. Belongs to the event loop's thread.

    Args:
        archive: stores them.
        export_calls: where they are made.
        executor: makes them.
        limits: from which their own limits follow.
    """

    def __init__(
        self,
        archive: Archive,
        export_calls: ExportCalls,
        executor: Executor,
        limits: WorkerSettings,
    ) -> None:
        self._archive = archive
        self._export_calls = export_calls
        self._executor = executor
        self._max_result_bytes = limits.max_result_bytes
        self._max_memory_bytes = int(limits.max_kept_bytes * _PART_OF_MEMORY)
        self._max_disk_bytes = int(limits.max_result_bytes * _PART_OF_DISK)
        #: Least recently used first. Some may be deleted, with their job.
        self._known: OrderedDict[Artifact, None] = OrderedDict()

    @property
    def max_bytes(self) -> int:
        """Limit of their total size, bytes."""
        return self._max_memory_bytes if self._archive.is_in_memory else self._max_disk_bytes

    def find(self, model: Artifact, file_type: DerivedForm) -> Artifact | None:
        """Return the stored conversion of a model; None: it has to be made."""
        return self._archive.find(model.uid, _name(model, file_type))

    async def convert(
        self,
        model: Artifact,
        content: Content,
        file_type: DerivedForm,
        client: str,
        *,
        may_refuse: bool,
    ) -> Content:
        """Return the conversion of a model: the stored one, or make it.

        Args:
            model: the stored GLB.
            content: its content.
            file_type: another form than "glb", or a picture.
            client: see `ExportCalls.run`.
            may_refuse: see `ExportCalls.run`.

        Raises:
            TooManyRequestsError: see `ExportCalls.run`.
            ServerError: the conversion failed, or was not started.
        """
        stored = self.find(model, file_type)
        if stored is not None:
            try:
                found = await self._archive.open_file(stored)
            except StoreError:  # it is made again
                self._archive.discard(stored)
            else:
                self._touch(stored)
                return found
        work = ExportWork(
            self._call(content, file_type),
            (model, file_type),
            partial(self._store, model, file_type),
        )
        return await self._export_calls.run(work, client, may_refuse=may_refuse)

    async def convert_bytes(self, content: Content, file_type: DerivedForm, client: str) -> Content:
        """Return the conversion of a model that is not stored, and do not store it either."""
        work = ExportWork(self._call(content, file_type))
        return await self._export_calls.run(work, client, may_refuse=False)

    def _call(self, content: Content, file_type: DerivedForm) -> Any:
        return with_contents(partial(self._executor.convert, file_type=file_type), content)

    # ---- storing -------------------------------------------------------------------------

    def restore(self, uids: Iterable[str]) -> None:
        """Take over the conversions of stored jobs; delete those of other versions."""
        for uid in uids:
            for artifact in self._archive.files(uid):
                if artifact.name.endswith(_SUFFIX):
                    self._known[artifact] = None
                elif "-" in artifact.name:
                    self._archive.discard(artifact)
        self._shrink(self.max_bytes)

    def make_room(self, missing_bytes: int) -> None:
        """Delete conversions of at least that size together, or all of them."""
        self._shrink(self._size - missing_bytes)

    def _store(self, model: Artifact, file_type: DerivedForm, made: bytes) -> Content:
        if self._archive.find(model.uid, model.name) == model and self._has_room(len(made)):
            name = _name(model, file_type)
            self._touch(self._archive.store_file(model.uid, name, made, is_bulk=True))
        return BytesContent(made)

    def _has_room(self, size: int) -> bool:
        """Return whether a conversion fits, beside all jobs too; delete others for it."""
        if size > self.max_bytes:
            return False
        self._shrink(self.max_bytes - size)
        excess = self._archive.size + size - self._max_result_bytes
        if excess > 0:
            self.make_room(excess)
        return self._archive.size + size <= self._max_result_bytes

    def _touch(self, artifact: Artifact) -> None:
        self._known[artifact] = None
        self._known.move_to_end(artifact)

    @property
    def _size(self) -> int:
        for artifact in list(self._known):
            if self._archive.find(artifact.uid, artifact.name) != artifact:
                del self._known[artifact]
        return sum(artifact.size for artifact in self._known)

    def _shrink(self, max_bytes: int) -> None:
        size = self._size
        while self._known and size > max_bytes:
            artifact, _ = self._known.popitem(last=False)
            size -= artifact.size
            self._archive.discard(artifact)


def _name(model: Artifact, file_type: DerivedForm) -> str:
    """Return the name of a stored conversion: letters up to the hyphen, see `FILE_NAME`."""
    if isinstance(file_type, PlacedFile):
        word = f"{file_type.type}_{md5(repr(file_type.placement).encode())}"
    elif isinstance(file_type, PictureForm):
        word = f"{file_type.kind}_{md5(repr(file_type).encode())}"
    else:
        word = file_type
    word = word.translate(_LETTERS)
    return f"{model.name.partition('.')[0]}.{word}{_SUFFIX}"
