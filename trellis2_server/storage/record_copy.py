"""`RecordCopy`: a second database with the same rows, for those that damage makes unreadable.

It is made anew whenever the first one is opened, and follows its transactions: deletions before,
everything else after them. So it has no job that was deleted, and lacks at most the last
transaction. It is never synced: a power failure may damage it, but not the first one as well. If it
cannot be written, it is deleted.

Does not know: the tables.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from typing import TYPE_CHECKING

from trellis2_server.storage.rows import Rows, read_copy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

logger = logging.getLogger(__name__)


class RecordCopy:
    """A copy of a database, in another file of its folder.

    Args:
        path: the copy's file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def make(self, original: sqlite3.Connection) -> None:
        """Copy the database; errors are logged."""
        self.close()

        def copy(connection: sqlite3.Connection) -> None:
            connection.execute("PRAGMA synchronous = OFF")
            original.backup(connection)
            connection.execute("PRAGMA foreign_keys = ON")

        try:
            self._remove()
            self._path.touch(mode=0o600)
            self._connection = sqlite3.connect(
                self._path, check_same_thread=False, isolation_level=None
            )
        except (OSError, sqlite3.Error) as error:
            logger.warning("There is no copy of the records: %s", type(error).__name__)
            return
        self._do(copy)

    def change(self, change: Callable[[sqlite3.Connection], object]) -> None:
        """Make a change as one transaction; errors are logged, and the copy is given up."""

        def transaction(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN")
            change(connection)
            connection.execute("COMMIT")

        self._do(transaction)

    def _do(self, call: Callable[[sqlite3.Connection], None]) -> None:
        if self._connection is None:
            return
        try:
            call(self._connection)
        except sqlite3.Error as error:
            logger.warning("There is no copy of the records: %s", error)
            self.close()
            with contextlib.suppress(OSError):
                self._remove()

    def close(self) -> None:
        """Close the copy, which stays."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm", "-journal"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def complete(self, rows: Rows) -> None:
        """Add the rows that only the copy has, as far as they can be read."""
        try:
            copied = read_copy(self._path)
        except (OSError, sqlite3.Error):
            return
        rows.records = dict(sorted((copied.records | rows.records).items()))
        known = {(file.uid, file.name) for file in rows.files}
        rows.files |= {
            file: digest
            for file, digest in copied.files.items()
            if (file.uid, file.name) not in known
        }
        names = {(name.kind, name.name): name for name in (*copied.names, *rows.names)}
        rows.names = list(names.values())
