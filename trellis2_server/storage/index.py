"""`ArchiveIndex`: the files, records and names of an archive, in memory.

Does not know: the contents of files, whether something is written.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trellis2_server.storage.store import Artifact, JobName, StoreContents


class ArchiveIndex:
    """Files, records and names by job.

    Attributes:
        size: total of all files, in bytes.
        records: record of each job, by uid.
        names: names, by kind and name.
    """

    def __init__(self) -> None:
        self.size = 0
        self.records: dict[str, str] = {}
        self.names: dict[tuple[str, str], JobName] = {}
        self._files: dict[str, dict[str, Artifact]] = {}
        self._names_of: dict[str, set[tuple[str, str]]] = {}

    def add(self, contents: StoreContents) -> StoreContents:
        """Add the contents of a store; return them without names that are known already."""
        for job in contents.jobs:
            self.records[job.uid] = job.record
            for artifact in job.files.values():
                self.add_file(artifact)
        names = [name for name in contents.names if (name.kind, name.name) not in self.names]
        for name in names:
            self.add_name(name)
        return replace(contents, names=names)

    def find(self, uid: str, name: str) -> Artifact | None:
        """Find a file of a job."""
        return self._files.get(uid, {}).get(name)

    def has(self, artifact: Artifact) -> bool:
        """Whether exactly this file is listed."""
        return self.find(artifact.uid, artifact.name) == artifact

    def files(self, uid: str) -> list[Artifact]:
        """List the files of a job."""
        return list(self._files.get(uid, {}).values())

    def add_file(self, artifact: Artifact) -> None:
        """Add a file; the job must not have one of that name."""
        self._files.setdefault(artifact.uid, {})[artifact.name] = artifact
        self.size += artifact.size

    def remove_file(self, artifact: Artifact) -> bool:
        """Remove a file; return whether it was listed."""
        if not self.has(artifact):
            return False
        files = self._files[artifact.uid]
        del files[artifact.name]
        if not files:
            del self._files[artifact.uid]
        self.size -= artifact.size
        return True

    def add_name(self, name: JobName) -> None:
        """Add a name; it may move from another job."""
        key = name.kind, name.name
        known = self.names.get(key)
        if known is not None:
            self._names_of[known.uid].discard(key)
        self.names[key] = name
        self._names_of.setdefault(name.uid, set()).add(key)

    def remove_names(self, uid: str) -> set[tuple[str, str]]:
        """Remove the names of a job; return their kinds and names."""
        keys = self._names_of.pop(uid, set[tuple[str, str]]())
        for key in keys:
            del self.names[key]
        return keys
