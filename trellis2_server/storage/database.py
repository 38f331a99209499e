"""`ResultDatabase`: job records, sizes and checksums of files, and names, in SQLite.

Does not know: the files themselves, the content of records.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import TYPE_CHECKING, Final

from trellis2_server.errors import ConfigError, StoreError
from trellis2_server.storage.store import Artifact, JobName

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping
    from pathlib import Path

#: `PRAGMA user_version` of the database.
SCHEMA_VERSION: Final = 1
#: The columns `says` hold a job's record and a name's payload.
_SCHEMA: Final = """
CREATE TABLE jobs (uid TEXT PRIMARY KEY, says TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE files (
    uid TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    name TEXT NOT NULL,
    size INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    PRIMARY KEY (uid, name)
) WITHOUT ROWID;
CREATE TABLE names (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    uid TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    says TEXT NOT NULL,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE INDEX names_of_a_job ON names (uid);
"""


class ResultDatabase:
    """An SQLite database in a folder for results.

    Methods raise `sqlite3.Error` and `OSError`, unless they document another error.

    Args:
        path: the database file; made by `connect`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None

    # ---- connection ------------------------------------------------------------------

    def connect(self) -> str | None:
        """Connect; replace a damaged database by an empty one.

        Returns:
            If the database was damaged, a sentence about what was set aside.

        Raises:
            ConfigError: a newer version wrote the database.
        """
        try:
            self._connect()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            damage = self._rename_damaged(error)
            self._connect()
            return damage
        return None

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection = self._inode = None

    def check(self) -> sqlite3.Connection:
        """Return the connection, if its file is still the one in the folder.

        SQLite itself would continue to write to a file that was deleted or replaced.

        Raises:
            StoreError: the database is not open, or its file was deleted or replaced.
        """
        if self._connection is None:
            raise StoreError("the folder for results is not open")
        try:
            status = self._path.stat()
        except OSError as error:
            raise StoreError(f"the folder for results is gone: {error_reason(error)}") from error
        if (status.st_dev, status.st_ino) != self._inode:
            raise StoreError("the folder for results was replaced")
        return self._connection

    def _connect(self) -> None:
        self._path.touch(mode=0o600)
        connection = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        self._connection = connection
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(f"malformed: {found}")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise ConfigError(
                f"worker.result_dir: {self._path.parent} was written by a newer version of this "
                "server"
            )
        if version == 0:
            connection.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        status = self._path.stat()
        self._inode = status.st_dev, status.st_ino

    def _rename_damaged(self, error: sqlite3.Error) -> str:
        """Rename a damaged database, for a person to inspect; replaces an earlier one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        broken = self._path.with_name(f"{self._path.name}.broken")
        os.replace(self._path, broken)  # noqa: PTH105
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        return (
            f"the records of earlier results could not be read ({error_reason(error)}); "
            f"they were set aside as {broken.name}"
        )

    # ---- reading ---------------------------------------------------------------------

    def load_records(self) -> dict[str, str]:
        """Load all records, by uid, ordered by uid."""
        return dict(self.check().execute("SELECT uid, says FROM jobs ORDER BY uid"))

    def load_files(self) -> dict[Artifact, bytes]:
        """Load all files with their SHA-256."""
        return {
            Artifact(uid, name, size): digest
            for uid, name, size, digest in self.check().execute(
                "SELECT uid, name, size, sha256 FROM files"
            )
        }

    def load_names(self) -> list[JobName]:
        """Load all names."""
        rows = self.check().execute("SELECT kind, name, uid, says FROM names")
        return [JobName(*row) for row in rows]

    # ---- writing: each call is one transaction ---------------------------------------

    def save(
        self, records: Mapping[str, str], files: Mapping[Artifact, bytes], names: Iterable[JobName]
    ) -> None:
        """Insert or update records, by uid, files with their SHA-256, and names of known jobs.

        Raises:
            StoreError: nothing was saved.
        """
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO jobs VALUES (?, ?) "
                "ON CONFLICT (uid) DO UPDATE SET says = excluded.says",
                records.items(),
            )
            connection.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)",
                [(file.uid, file.name, file.size, digest) for file, digest in files.items()],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO names SELECT ?, ?, ?, ? "
                "WHERE EXISTS (SELECT 1 FROM jobs WHERE uid = ?)",
                [(name.kind, name.name, name.uid, name.payload, name.uid) for name in names],
            )

    def delete_file(self, artifact: Artifact) -> None:
        """Delete the row of a file.

        Raises:
            StoreError: nothing was deleted.
        """
        with self._transaction() as connection:
            connection.execute(
                "DELETE FROM files WHERE uid = ? AND name = ?", (artifact.uid, artifact.name)
            )

    def delete_jobs(self, uids: Iterable[str]) -> None:
        """Delete records with the rows of their files and names.

        Raises:
            StoreError: nothing was deleted.
        """
        with self._transaction() as connection:
            connection.executemany("DELETE FROM jobs WHERE uid = ?", [(uid,) for uid in uids])

    @contextlib.contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        connection = self.check()
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except sqlite3.Error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StoreError(f"a record could not be written: {error_reason(error)}") from error


def error_reason(error: BaseException) -> str:
    """Return an error's message without a path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _is_damage(error: sqlite3.Error) -> bool:
    """Whether the database is damaged, in contrast to a failing disk or folder."""
    # Python 3.11 has `sqlite_errorcode`; 11 is SQLITE_CORRUPT, 26 SQLITE_NOTADB.
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in {11, 26}
    return any(word in str(error) for word in ("malformed", "not a database", "corrupt"))
