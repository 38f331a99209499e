"""`Store`: the protocol of places for results, and the values it exchanges.

Does not know: how a store works, the content of records.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trellis2_server.errors import StoreError
    from trellis2_server.storage.content import OpenFile

#: A uid of a job, in lower case.
UID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: A name of a stored file. Versions that know no conversions remove files with a hyphen.
FILE_NAME: Final = re.compile(r"[a-z_]+(\.[a-z]+|\.[a-z_]+-[a-z0-9_]+)?")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A stored file of a job; it never changes.

    Attributes:
        uid: the job's.
        name: file name: letters, at most one dot; conversions end with a hyphen and a version.
        size: bytes.
    """

    uid: str
    name: str
    size: int

    @property
    def etag(self) -> str:
        """A strong entity tag, quotes included: unique to these bytes."""
        return f'"{self.uid}-{self.name}"'


@dataclass(frozen=True, slots=True)
class JobName:
    """A further name of a job, such as an alias.

    Attributes:
        kind: namespace; names of one kind are unique.
        name: the name.
        uid: the job's.
        payload: text that goes with the name; only its owner understands it.
    """

    kind: str
    name: str
    uid: str
    payload: str = ""


@dataclass(frozen=True, slots=True)
class SavedJob:
    """A job in a store.

    Attributes:
        uid: the job's.
        record: text of the record; only its owner understands it.
        files: stored files, by name.
    """

    uid: str
    record: str
    files: Mapping[str, Artifact] = field(default_factory=dict[str, Artifact])


@dataclass(frozen=True, slots=True)
class StoreContents:
    """Contents of a store when it is opened.

    Attributes:
        jobs: ordered by uid.
        names: names of these jobs.
        warnings: sentences for the operator.
        failure: why nothing can be written at the moment; None: it can.
    """

    jobs: Sequence[SavedJob] = ()
    names: Sequence[JobName] = ()
    warnings: Sequence[str] = ()
    failure: StoreError | None = None


class Store(Protocol):
    """A place for results.

    One thread at a time calls the methods; only `open_file` may be called from any thread.
    """

    #: Whether results remain after a restart.
    is_persistent: bool

    def claim(self) -> None:
        """Lock the store for this process. `open` does this too.

        Raises:
            ConfigError: another process uses the store.
            StoreError: the store cannot be used at the moment.
        """
        ...

    def open(self) -> StoreContents:
        """Open the store and return its contents; those that can be read, if it is read-only.

        Raises:
            ConfigError: another process uses the store, or a newer version wrote it.
            StoreError: the store cannot be used at the moment, not even for reading.
        """
        ...

    def reopen(self) -> StoreContents:
        """Open the store again after a failure; known files stay known.

        The caller must save all records again, because damaged ones are discarded.

        Returns:
            The contents, if `open` could not read them; otherwise nothing.

        Raises:
            ConfigError: as in `open`.
            StoreError: the store cannot be used at the moment.
        """
        ...

    def close(self) -> None:
        """Close and unlock the store."""
        ...

    def write(self, artifact: Artifact, content: bytes) -> None:
        """Write a file. It remains after a restart once a record of its job is saved.

        Raises:
            StoreError: the file could not be written; what is left of it is never served.
        """
        ...

    def open_file(self, artifact: Artifact) -> bytes | OpenFile:
        """Return the bytes of a file that is in memory, or a file that is as it was written.

        Raises:
            StoreError: the file is missing, damaged, or cannot be read.
        """
        ...

    def save(self, records: Mapping[str, str], names: Iterable[JobName]) -> None:
        """Save records, by uid, with the files written so far, and names.

        What was saved survives that the process is killed from then on.

        Raises:
            StoreError: nothing was saved.
        """
        ...

    def delete_file(self, artifact: Artifact) -> None:
        """Delete one file.

        Raises:
            StoreError: the record still lists the file, which may be deleted.
        """
        ...

    def delete_jobs(self, uids: Iterable[str]) -> None:
        """Delete jobs, their files and their names.

        Raises:
            StoreError: the records still exist, though the files may be deleted.
        """
        ...

    def delete_files_of(self, uids: Iterable[str]) -> None:
        """Delete the files of jobs that are to be deleted, whether the store is open or not.

        This makes room on a full disk, which has none for the deletion of the records.
        """
        ...
