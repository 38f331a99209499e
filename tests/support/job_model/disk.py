"""A store in memory that outlives its manager, as a disk does; it fails, hangs and is cut off.

As in `DiskStore`, a file remains when a record of its job is saved after it.

Does not know: jobs, the content of records.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trellis2_server.errors import StoreError
from trellis2_server.storage.store import Artifact, JobName, SavedJob, StoreContents

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.support.job_model.gates import Gates


@dataclass(eq=False)
class Disk:
    """What remains.

    Attributes:
        is_full: whether nothing can be written.
        lost: files that cannot be read any more.
    """

    records: dict[str, str] = field(default_factory=dict[str, str])
    names: dict[tuple[str, str], JobName] = field(default_factory=dict[tuple[str, str], JobName])
    files: dict[Artifact, bytes] = field(default_factory=dict[Artifact, bytes])
    is_full: bool = False
    lost: set[Artifact] = field(default_factory=set[Artifact])


class Kept:
    """A `Store` on a disk.

    Args:
        disk: the disk.
        gates: where the step "save" stands.

    Attributes:
        is_cut_off: whether the process was killed: nothing reaches the disk any more.
    """

    is_persistent = True

    def __init__(self, disk: Disk, gates: Gates) -> None:
        self._disk, self._gates = disk, gates
        self._unlisted: dict[Artifact, bytes] = {}
        self.is_cut_off = self.is_open = False

    def claim(self) -> None: ...

    def open(self) -> StoreContents:
        self.is_open = True
        disk = self._disk
        jobs = [
            SavedJob(uid, text, {file.name: file for file in disk.files if file.uid == uid})
            for uid, text in sorted(disk.records.items())
        ]
        return StoreContents(jobs, list(disk.names.values()))

    def reopen(self) -> StoreContents:
        self._check()
        self.is_open = True
        return StoreContents()

    def close(self) -> None:
        self.is_open = False

    def _check(self) -> None:
        self._gates.stand("save", -1, lambda *_: None)
        if self.is_cut_off or self._disk.is_full:
            raise StoreError("no space left on device")

    def write(self, artifact: Artifact, content: bytes) -> None:
        if self.is_cut_off or self._disk.is_full:
            raise StoreError("no space left on device")
        self._unlisted[artifact] = content

    def open_file(self, artifact: Artifact) -> bytes:
        content = self._unlisted.get(artifact, self._disk.files.get(artifact))
        if content is None or artifact in self._disk.lost:
            raise StoreError(f"{artifact.name} is damaged", is_lost=True)
        return content

    def save(self, records: Mapping[str, str], names: Iterable[JobName]) -> None:
        self._check()
        self._disk.records.update(records)
        for artifact in [file for file in self._unlisted if file.uid in records]:
            self._disk.files[artifact] = self._unlisted.pop(artifact)
        self._disk.names.update({(name.kind, name.name): name for name in names})

    def delete_file(self, artifact: Artifact) -> None:
        if self.is_cut_off:
            raise StoreError("cut off")
        self._unlisted.pop(artifact, None)
        self._disk.files.pop(artifact, None)

    def delete_jobs(self, uids: Iterable[str]) -> None:
        self._gates.stand("save", -1, lambda *_: None)
        if self.is_cut_off:
            raise StoreError("cut off")
        deleted = set(uids)
        for uid in deleted:
            self._disk.records.pop(uid, None)
        for key in [key for key, name in self._disk.names.items() if name.uid in deleted]:
            del self._disk.names[key]
        self.delete_files_of(deleted)

    def delete_files_of(self, uids: Iterable[str]) -> None:
        deleted = set(uids)
        for files in (self._unlisted, self._disk.files):
            for artifact in [file for file in files if file.uid in deleted]:
                del files[artifact]
