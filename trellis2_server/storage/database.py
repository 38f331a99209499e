"""`ResultDatabase`: job records, sizes and checksums of files, and names, in SQLite.

A transaction that has ended survives a killed process, and a power failure where the disk keeps
what was synced (`synchronous = FULL`).

Does not know: the files themselves, the content of records.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Final

from trellis2_server.errors import StoreError
from trellis2_server.storage.file_system import error_reason
from trellis2_server.storage.record_copy import RecordCopy
from trellis2_server.storage.rows import (
    SCHEMA_VERSION,
    Rows,
    check_version,
    is_damage,
    read_copy,
    read_rows,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping
    from pathlib import Path

    from trellis2_server.storage.store import Artifact, JobName

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
        self._broken = path.with_name(f"{path.name}.broken")
        self._replacement = path.with_name(f"{path.name}.new")
        self._copy = RecordCopy(path.with_name(f"{path.stem}.copy{path.suffix}"))
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None

    # ---- connection ------------------------------------------------------------------

    def connect(self) -> Rows:
        """Connect and load all rows; a damaged database is replaced by what its copy completes.

        Returns:
            The rows. Their `damage` is a sentence about what was lost and set aside.

        Raises:
            ConfigError: a newer version wrote the database.
        """
        self._finish_replacement()
        try:
            rows = self._connect()
            if rows.damage is None:
                self._copy.make(self.check())
                return rows
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if not is_damage(error):
                raise
            rows = Rows(damage=error_reason(error))
        self.close()
        damage, rows = rows.damage, read_copy(self._path)
        self._copy.complete(rows)
        self._replace(rows)
        self._connect()
        self._copy.make(self.check())
        rows.damage = (
            f"the records of earlier results were damaged ({rows.damage or damage}); "
            f"{len(rows.records)} jobs could be read; the damaged file is {self._broken.name}"
        )
        return rows

    def read_only(self) -> Rows:
        """Load all rows that can be read, without connecting or writing to the folder.

        Raises:
            ConfigError: a newer version wrote the database.
        """
        if not self._path.exists() and self._replacement.exists():
            return read_copy(self._replacement)
        rows = read_copy(self._path)
        if rows.damage is not None:
            self._copy.complete(rows)
        return rows

    def close(self) -> None:
        """Close the connection."""
        self._copy.close()
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

    def _connect(self) -> Rows:
        self._path.touch(mode=0o600)
        connection = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        self._connection = connection
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(f"malformed: {found}")
        if check_version(connection, self._path) == 0:
            connection.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        status = self._path.stat()
        self._inode = status.st_dev, status.st_ino
        return read_rows(connection)

    # ---- replacing a damaged database ------------------------------------------------

    def _replace(self, rows: Rows) -> None:
        """Rename a damaged database, for a person to inspect, and make one with the rows.

        A process that is killed in between leaves either the damaged database or the new one.
        """
        self._replacement.unlink(missing_ok=True)
        self._replacement.touch(mode=0o600)
        connection = sqlite3.connect(self._replacement, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
            connection.execute("BEGIN")
            files = {file: sha for file, sha in rows.files.items() if file.uid in rows.records}
            _save(connection, rows.records, files, rows.names)
            connection.execute("COMMIT")
        finally:
            connection.close()
        os.utime(self._path)  # when it was found
        os.replace(self._path, self._broken)  # noqa: PTH105
        self._finish_replacement()

    def _finish_replacement(self) -> None:
        """Put the new database in place of a damaged one that was renamed."""
        if self._path.exists():
            self._replacement.unlink(missing_ok=True)
        elif self._replacement.exists():
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            os.replace(self._replacement, self._path)  # noqa: PTH105

    def broken_age_s(self) -> float | None:
        """Return how long ago a damaged database was renamed, seconds; None: there is none."""
        try:
            return time.time() - self._broken.stat().st_mtime
        except OSError:
            return None

    def remove_broken(self) -> None:
        """Remove a damaged database that was renamed."""
        self._broken.unlink(missing_ok=True)

    # ---- writing: each call is one transaction ---------------------------------------

    def save(
        self, records: Mapping[str, str], files: Mapping[Artifact, bytes], names: Iterable[JobName]
    ) -> None:
        """Insert or update records, by uid, files with their SHA-256, and names of known jobs.

        Raises:
            StoreError: nothing was saved.
        """
        names = list(names)
        with self._transaction() as connection:
            _save(connection, records, files, names)
        self._copy.change(lambda copy: _save(copy, records, files, names))

    def delete_file(self, artifact: Artifact) -> None:
        """Delete the row of a file.

        Raises:
            StoreError: nothing was deleted.
        """

        def delete(connection: sqlite3.Connection) -> None:
            connection.execute(
                "DELETE FROM files WHERE uid = ? AND name = ?", (artifact.uid, artifact.name)
            )

        self._delete(delete)

    def delete_jobs(self, uids: Iterable[str]) -> None:
        """Delete records with the rows of their files and names.

        Raises:
            StoreError: nothing was deleted.
        """
        rows = [(uid,) for uid in uids]
        self._delete(lambda found: found.executemany("DELETE FROM jobs WHERE uid = ?", rows))

    def _delete(self, delete: Callable[[sqlite3.Connection], object]) -> None:
        self.check()
        self._copy.change(delete)
        with self._transaction() as connection:
            delete(connection)

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


def _save(
    connection: sqlite3.Connection,
    records: Mapping[str, str],
    files: Mapping[Artifact, bytes],
    names: Iterable[JobName],
) -> None:
    connection.executemany(
        "INSERT INTO jobs VALUES (?, ?) ON CONFLICT (uid) DO UPDATE SET says = excluded.says",
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
