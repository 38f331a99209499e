"""`DiskStore`: records and files in a folder.

    results.sqlite   a record for each job, the sizes and SHA-256 of its files, names
    files/           `<uid>-<name>`, written under another name, synced, then renamed
    lock             locked by the process that uses the folder

Records are written after the files that they list, and deleted before them. At any moment, a
file is therefore complete or unlisted; unlisted files are removed when the folder is opened.
A file is served only if it has the size and SHA-256 of its record, which is verified when the file
is opened for the first time, and again whenever it was replaced or written to.

A damaged database is set aside as `results.sqlite.broken`, with its files as `files.broken`,
and replaced by an empty one.

Does not know: HTTP, threads, the content of records.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import sqlite3
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from trellis2_server.errors import ConfigError, StoreError
from trellis2_server.storage.content import OpenFile
from trellis2_server.storage.database import ResultDatabase, error_reason
from trellis2_server.storage.file_system import FileSystem, FolderLock, make_private_folder
from trellis2_server.storage.store import UID, Artifact, JobName, SavedJob, StoreContents

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping
    from pathlib import Path

    from trellis2_server.storage.content import FileIdentity

logger = logging.getLogger(__name__)

#: Versions that know no conversions remove files with a hyphen at their start.
_FILE_NAME: Final = re.compile(r"[a-z_]+(\.[a-z]+|\.[a-z_]+-[a-z0-9_]+)?")


class DiskStore:
    """A `Store` in a folder.

    Args:
        folder: made when the store is opened.
        file_system: calls on the files; None for the real ones.
    """

    is_persistent = True

    def __init__(self, folder: Path, file_system: FileSystem | None = None) -> None:
        self._folder = folder
        self._files_folder = folder / "files"
        self._lock = FolderLock(folder)
        self._database = ResultDatabase(folder / "results.sqlite")
        self._file_system = file_system or FileSystem()
        self._sums: dict[Artifact, bytes] = {}
        self._verified: dict[Artifact, FileIdentity] = {}
        self._open_files: WeakValueDictionary[Artifact, OpenFile] = WeakValueDictionary()

    # ---- opening and closing ---------------------------------------------------------

    def claim(self) -> None:
        """Make the folder and lock it for this process.

        Raises:
            ConfigError: another process uses the folder.
            StoreError: the folder cannot be used at the moment.
        """
        if not self._lock.is_held:
            with self._translated_errors():
                make_private_folder(self._folder)
                self._lock.acquire()

    def open(self) -> StoreContents:
        """Open the folder, remove unlisted files, and return the contents.

        Raises:
            ConfigError: another process uses the folder, or a newer version wrote it.
            StoreError: the folder cannot be used at the moment.
        """
        self.claim()
        warnings: list[str] = []
        with self._translated_errors():
            damage = self._database.connect()
            if damage:
                broken = self._folder / "files.broken"
                shutil.rmtree(broken, ignore_errors=True)
                if self._files_folder.exists():
                    os.replace(self._files_folder, broken)  # noqa: PTH105
                warnings.append(f"{damage}; their files are in {broken.name}")
            make_private_folder(self._files_folder)
            jobs, names = self._load()
            self._remove_unlisted_files()
        return StoreContents(jobs, names, warnings)

    def reopen(self) -> None:
        """Open the folder again after a failure; known files stay known.

        Raises:
            ConfigError: another process uses the folder, or a newer version wrote it.
            StoreError: the folder cannot be used at the moment.
        """
        self.close()
        self.claim()
        with self._translated_errors():
            damage = self._database.connect()
            if damage:
                logger.warning("%s; they are written again", damage)
            make_private_folder(self._files_folder)

    def close(self) -> None:
        """Close the database and unlock the folder."""
        self._database.close()
        self._lock.release()

    @contextlib.contextmanager
    def _translated_errors(self) -> Generator[None]:
        """Raise foreign errors as `StoreError`; close the store on any error."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise StoreError(
                f"the folder for results cannot be used: {error_reason(error)}"
            ) from error
        except ConfigError:
            self.close()
            raise

    def _load(self) -> tuple[list[SavedJob], list[JobName]]:
        """Load jobs and names; leave out files that are missing or have another size."""
        records = self._database.load_records()
        files: dict[str, dict[str, Artifact]] = {uid: {} for uid in records}
        sums: dict[Artifact, bytes] = {}
        for artifact, digest in self._database.load_files().items():
            if artifact.uid not in files or not _is_valid(artifact):
                continue
            with contextlib.suppress(OSError):
                if self._path(artifact).stat().st_size == artifact.size:
                    sums[artifact] = digest
                    files[artifact.uid][artifact.name] = artifact
        names = [name for name in self._database.load_names() if name.uid in records]
        self._sums = sums
        return [SavedJob(uid, record, files[uid]) for uid, record in records.items()], names

    def _remove_unlisted_files(self) -> None:
        listed = {self._path(artifact).name for artifact in self._sums}
        for path in self._files_folder.iterdir():
            if path.name not in listed:
                self._file_system.remove(path)

    # ---- files -----------------------------------------------------------------------

    def _path(self, artifact: Artifact) -> Path:
        """Return the path of a file; made only of names that the server itself chose."""
        if not _is_valid(artifact):
            raise ValueError(f"not a file of a job: {artifact}")
        return self._files_folder / f"{artifact.uid}-{artifact.name}"

    def write(self, artifact: Artifact, content: bytes) -> None:
        """Write a file. It remains after a restart once a record of its job is saved.

        Raises:
            StoreError: the file could not be written, and no part of it is left.
        """
        self._database.check()
        path = self._path(artifact)
        draft = path.with_name(f"{path.name}~")
        try:
            self._file_system.write(draft, content)
            self._file_system.replace(draft, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file_system.remove(draft)
            raise StoreError(f"a result could not be written: {error_reason(error)}") from error
        self._sums[artifact] = hashlib.sha256(content).digest()

    def open_file(self, artifact: Artifact) -> OpenFile:
        """Open a file that is exactly as it was written; the same one while it is open.

        Thread-safe, except that one thread at a time may open the same file.

        Raises:
            StoreError: the file is missing, damaged, or cannot be read.
        """
        digest = self._sums.get(artifact)
        if digest is None:
            raise StoreError(f"{artifact.name} is no longer stored", is_lost=True)
        try:
            file = OpenFile(self._file_system.open(self._path(artifact)), artifact.name)
        except OSError as error:
            raise StoreError(
                f"{artifact.name} cannot be read: {error_reason(error)}",
                is_lost=isinstance(error, FileNotFoundError | NotADirectoryError),
            ) from error
        known = self._open_files.get(artifact)
        if known is not None and known.identity == file.identity:
            return known
        if self._verified.get(artifact) != file.identity:
            if file.size != artifact.size or file.sha256() != digest:
                raise StoreError(f"{artifact.name} was damaged on the disk", is_lost=True)
            self._verified[artifact] = file.identity
        self._open_files[artifact] = file
        return file

    def delete_file(self, artifact: Artifact) -> None:
        """Delete one file.

        Raises:
            StoreError: the record still lists the file.
        """
        self._database.delete_file(artifact)
        self._remove_files([artifact])

    def _remove_files(self, artifacts: Iterable[Artifact]) -> None:
        for artifact in artifacts:
            self._sums.pop(artifact, None)
            self._verified.pop(artifact, None)
            # Files that cannot be removed now are removed at the next start.
            with contextlib.suppress(OSError):
                self._file_system.remove(self._path(artifact))

    # ---- records ---------------------------------------------------------------------

    def save(self, records: Mapping[str, str], names: Iterable[JobName]) -> None:
        """Save records, by uid, with the files written so far, and names.

        Raises:
            StoreError: nothing was saved.
        """
        files = {
            artifact: digest for artifact, digest in self._sums.items() if artifact.uid in records
        }
        self._database.save(records, files, names)

    def delete_jobs(self, uids: Iterable[str]) -> None:
        """Delete jobs, their files and their names.

        Raises:
            StoreError: the records still exist.
        """
        deleted = set(uids)
        self._database.delete_jobs(deleted)
        self._remove_files([artifact for artifact in list(self._sums) if artifact.uid in deleted])


def _is_valid(artifact: Artifact) -> bool:
    return bool(UID.fullmatch(artifact.uid) and _FILE_NAME.fullmatch(artifact.name))
