"""`DiskStore`: records and files in a folder.

    results.sqlite        a record for each job, the sizes and SHA-256 of its files, names
    results.copy.sqlite   the same, for rows that damage makes unreadable
    files/                `<uid>-<name>`, written under another name, synced, then renamed
    lock                  locked by the process that uses the folder

Records are written after the files that they list, and deleted before them; only where the disk
has no room for that, after them. At any moment, a file is therefore complete, unlisted, or one of
a job that is being deleted; unlisted files are removed when the folder is opened.
A file is served only if it has the size and SHA-256 of its record, which is verified when the file
is opened for the first time, and again whenever it was replaced or written to.

A damaged database is replaced by one with all rows that can be read in it or in its copy. It is
set aside as `results.sqlite.broken`, unlisted files as `files.broken`, for a week.

If the folder cannot be written to, what is in it is served all the same; see `StoreContents`.

Does not know: HTTP, threads, the content of records.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from typing import TYPE_CHECKING, Final

from trellis2_server.errors import ConfigError, StoreError
from trellis2_server.storage.database import ResultDatabase
from trellis2_server.storage.file_system import (
    FileSystem,
    FolderLock,
    error_reason,
    make_private_folder,
)
from trellis2_server.storage.job_files import JobFiles
from trellis2_server.storage.store import Artifact, JobName, SavedJob, StoreContents

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping
    from pathlib import Path

    from trellis2_server.storage.content import OpenFile
    from trellis2_server.storage.rows import Rows

logger = logging.getLogger(__name__)

#: How long what was set aside is kept, seconds.
BROKEN_KEPT_S: Final = 7 * 24 * 3600.0


class DiskStore:
    """A `Store` in a folder.

    Args:
        folder: made when the store is opened.
        file_system: calls on the files; None for the real ones.
    """

    is_persistent = True

    def __init__(self, folder: Path, file_system: FileSystem | None = None) -> None:
        self._folder = folder
        self._lock = FolderLock(folder)
        self._database = ResultDatabase(folder / "results.sqlite")
        self._files = JobFiles(folder / "files", file_system or FileSystem())
        self._is_loaded = False

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
            StoreError: the folder cannot be used at the moment, not even for reading.
        """
        try:
            return self._open()
        except StoreError as error:
            with contextlib.suppress(StoreError):
                self.claim()  # so that no other process changes what is read
            try:
                rows = self._database.read_only()
            except (OSError, sqlite3.Error):
                self.close()
                raise error from None
            except ConfigError:
                self.close()
                raise
            return self._load(rows, error)

    def _open(self) -> StoreContents:
        self.claim()
        with self._translated_errors():
            self._files.prepare()
            rows = self._database.connect()
            contents = self._load(rows)
            self._sweep(set_aside=rows.damage is not None)
        return contents

    def reopen(self) -> StoreContents:
        """Open the folder again after a failure; known files stay known.

        Returns:
            The contents, if the folder could not be read before; otherwise nothing.

        Raises:
            ConfigError: another process uses the folder, or a newer version wrote it.
            StoreError: the folder cannot be used at the moment.
        """
        self.close()
        if not self._is_loaded:
            return self._open()
        self.claim()
        with self._translated_errors():
            self._files.prepare()
            damage = self._database.connect().damage
            if damage:
                logger.warning("%s; those of this process are written again", damage)
            self._sweep(set_aside=False)
        return StoreContents()

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

    # ---- contents --------------------------------------------------------------------

    def _load(self, rows: Rows, failure: StoreError | None = None) -> StoreContents:
        """Take over the rows; leave out files that are missing or have another size."""
        known = rows.records
        self._files.load({file: sha for file, sha in rows.files.items() if file.uid in known})
        self._is_loaded = True
        return StoreContents(
            [
                SavedJob(uid, record, {file.name: file for file in self._files.of(uid)})
                for uid, record in known.items()
            ],
            [name for name in rows.names if name.uid in known],
            [rows.damage] if rows.damage else [],
            failure,
        )

    def _sweep(self, *, set_aside: bool) -> None:
        """Remove files that no record lists, and what was set aside long ago."""
        age_s = self._database.broken_age_s()
        if not set_aside and age_s is not None and age_s > BROKEN_KEPT_S:
            self._files.remove_broken()
            self._database.remove_broken()
        self._files.sweep(set_aside=set_aside)

    # ---- files -----------------------------------------------------------------------

    def write(self, artifact: Artifact, content: bytes) -> None:
        """Write a file. It remains after a restart once a record of its job is saved.

        Raises:
            StoreError: the file could not be written; what is left of it is never served.
        """
        self._database.check()
        self._files.write(artifact, content)

    def open_file(self, artifact: Artifact) -> OpenFile:
        """Open a file that is exactly as it was written; see `JobFiles.open_file`.

        Raises:
            StoreError: the file is missing, damaged, or cannot be read.
        """
        return self._files.open_file(artifact)

    def delete_file(self, artifact: Artifact) -> None:
        """Delete one file.

        Raises:
            StoreError: the record still lists the file, which may be deleted.
        """
        try:
            self._database.delete_file(artifact)
        except StoreError:  # a full disk: the file makes room
            self._files.remove(artifact)
            self._database.delete_file(artifact)
        self._files.remove(artifact)

    # ---- records ---------------------------------------------------------------------

    def save(self, records: Mapping[str, str], names: Iterable[JobName]) -> None:
        """Save records, by uid, with the files written so far, and names.

        Raises:
            StoreError: nothing was saved.
        """
        self._files.sync()
        files = {
            artifact: digest for uid in records for artifact, digest in self._files.of(uid).items()
        }
        self._database.save(records, files, names)

    def delete_jobs(self, uids: Iterable[str]) -> None:
        """Delete jobs, their files and their names.

        Raises:
            StoreError: the records still exist, though the files may be deleted.
        """
        deleted = list(uids)
        try:
            self._database.delete_jobs(deleted)
        except StoreError:
            self.delete_files_of(deleted)
            self._database.delete_jobs(deleted)
        self.delete_files_of(deleted)

    def delete_files_of(self, uids: Iterable[str]) -> None:
        """Delete the files of jobs that are to be deleted, whether the folder is open or not."""
        self._files.remove_of(uids)
