"""`Rows`: what the tables of a result database hold, read row by row.

A row that cannot be read costs only itself: text that is no UTF-8, a value of another type, a page
that is damaged. `read_copy` reads a copy of the database elsewhere, for a disk that is read-only or
full, where SQLite cannot open it, and for a damaged one, which thereby stays as it was found.

Does not know: who writes the database, which files exist.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.errors import ConfigError
from trellis2_server.storage.store import FILE_NAME, UID, Artifact, JobName

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

logger = logging.getLogger(__name__)

#: `PRAGMA user_version` of the database.
SCHEMA_VERSION: Final = 1
#: Where a damaged table is read from, in parts: uids and digests begin with one of these.
_PREFIXES: Final = [f"{prefix:02x}" for prefix in range(256)]
#: Results of SQLite that tell of the disk or of other processes, not of the database's content:
#: PERM, BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL, NOLFS, AUTH.
_NO_DAMAGE: Final = frozenset({3, 5, 6, 7, 8, 9, 10, 13, 14, 15, 22, 23})
#: The same in words, for Python 3.10, which has no result codes.
_NO_DAMAGE_WORDS: Final = (
    "i/o error", "is full", "unable to open", "readonly", "locked", "out of memory", "denied",
    "interrupted", "locking protocol",
)  # fmt: skip


@dataclass(slots=True)
class Rows:
    """The rows that could be read.

    Attributes:
        records: record of each job, by uid.
        files: SHA-256 of each file.
        names: further names of jobs.
        damage: what could not be read; None: everything could.
    """

    records: dict[str, str] = field(default_factory=dict[str, str])
    files: dict[Artifact, bytes] = field(default_factory=dict[Artifact, bytes])
    names: list[JobName] = field(default_factory=list[JobName])
    damage: str | None = None


def check_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of a database's tables; 0: it has none.

    Raises:
        ConfigError: a newer version of the server wrote the database.
        sqlite3.DatabaseError: it is damaged, or cannot be read.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise ConfigError(
            f"worker.result_dir: {path.parent} was written by a newer version of this server"
        )
    if version == 0 and connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        raise sqlite3.DatabaseError("malformed: no version")
    return version


def is_damage(error: Exception) -> bool:
    """Whether an error tells of damaged content, in contrast to a failing disk or folder.

    `UnicodeDecodeError` is what Python makes of SQLite's message about a damaged name.
    """
    # Python 3.11 has `sqlite_errorcode`; errors that this package raises itself have none.
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF not in _NO_DAMAGE
    return not any(words in str(error).lower() for words in _NO_DAMAGE_WORDS)


def read_rows(connection: sqlite3.Connection) -> Rows:
    """Read all rows that can be read.

    Raises:
        sqlite3.Error: the disk fails.
    """
    rows = Rows()
    text_factory, connection.text_factory = connection.text_factory, bytes
    try:
        for table in _TABLES:
            last: Any = ()
            for row in _scan(connection, rows, table):
                try:
                    table.add(rows, row)
                    # SQLite would not find a row that is not where its key belongs.
                    if rows.damage is None and row[: len(table.key)] <= last:
                        rows.damage = f"malformed: the order of {table.name}"
                    last = row[: len(table.key)]
                except (ValueError, TypeError, AttributeError):  # noqa: PERF203 - a row's
                    rows.damage = f"malformed: a row of {table.name}"
    finally:
        connection.text_factory = text_factory
    rows.records = dict(sorted(rows.records.items()))
    rows.names = list({(name.kind, name.name): name for name in rows.names}.values())
    return rows


def _scan(connection: sqlite3.Connection, rows: Rows, table: _Table) -> Generator[Any]:
    """Yield the rows of a table; around damaged pages, in parts and from both of their ends."""
    query = f"SELECT {table.columns} FROM {table.name}"  # noqa: S608 - constants
    try:
        yield from connection.execute(f"{query} ORDER BY {', '.join(table.key)}")
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if not is_damage(error):
            raise
        rows.damage = str(error)
    else:
        return
    for kind in table.kinds or ("",):
        where = "kind = ? AND " if table.kinds else ""
        for prefix in _PREFIXES:
            given = (*((kind,) if kind else ()), prefix, prefix + "g")
            for end in ("", " DESC"):
                part = f"{query} WHERE {where}{table.text} >= ? AND {table.text} < ?"
                order = ", ".join(column + end for column in table.key)
                with contextlib.suppress(sqlite3.DatabaseError, UnicodeDecodeError):
                    yield from connection.execute(f"{part} ORDER BY {order}", given)


def _add_record(rows: Rows, row: Any) -> None:
    uid, record = (value.decode() for value in row)
    if not UID.fullmatch(uid):
        raise ValueError("no uid")
    rows.records[uid] = record


def _add_file(rows: Rows, row: Any) -> None:
    uid, name, size, digest = row
    artifact = Artifact(uid.decode(), name.decode(), size)
    is_valid = UID.fullmatch(artifact.uid) and FILE_NAME.fullmatch(artifact.name)
    if not (is_valid and isinstance(size, int) and isinstance(digest, bytes) and size >= 0):
        raise ValueError("no file")
    rows.files[artifact] = digest


def _add_name(rows: Rows, row: Any) -> None:
    name = JobName(*(value.decode() for value in row))
    if not UID.fullmatch(name.uid):
        raise ValueError("no uid")
    rows.names.append(name)


@dataclass(frozen=True, slots=True)
class _Table:
    """A table and how it is read.

    Attributes:
        name: of the table.
        columns: what is read; the key first.
        key: columns of the primary key.
        text: a column of the key that holds uids or digests.
        add: adds a row; raises ValueError, TypeError or AttributeError if it is invalid.
        kinds: what `kind` may be, if there is such a column.
    """

    name: str
    columns: str
    key: tuple[str, ...]
    text: str
    add: Callable[[Rows, Any], None]
    kinds: tuple[str, ...] = ()


_TABLES: Final = (
    _Table("jobs", "uid, says", ("uid",), "uid", _add_record),
    _Table("files", "uid, name, size, sha256", ("uid", "name"), "uid", _add_file),
    _Table(
        "names", "kind, name, uid, says", ("kind", "name"), "name", _add_name,
        ("alias", "asked", "key", "ticket", "used"),
    ),
)  # fmt: skip


# ---- a copy --------------------------------------------------------------------------------


def read_copy(path: Path) -> Rows:
    """Read a database, with its write-ahead log, from a copy in a temporary folder.

    Raises:
        ConfigError: a newer version of the server wrote it.
        OSError: it cannot be read, or there is no room for a copy.
        sqlite3.Error: the same.
    """
    failure: OSError | sqlite3.Error | None = None
    for place in (tempfile.gettempdir(), "/dev/shm", str(path.parent)):  # noqa: S108
        try:
            with tempfile.TemporaryDirectory(prefix="trellis2-", dir=place) as folder:
                return _read_copied(path, Path(folder))
        except OSError as error:  # noqa: PERF203 - the next place may have room
            failure = failure or error
        except sqlite3.Error as error:
            failure = error
    raise failure or OSError("no temporary folder")


def _read_copied(path: Path, folder: Path) -> Rows:
    copied = folder / path.name
    shutil.copyfile(path, copied)
    log = path.with_name(f"{path.name}-wal")
    if log.exists():
        shutil.copyfile(log, copied.with_name(log.name))
    connection = sqlite3.connect(copied, isolation_level=None)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # needs no shared memory
        # The order of the calls matters: the first one that reads finds what is no database.
        (mode,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        try:
            is_empty = check_version(connection, path) == 0
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            is_empty = False
        rows = Rows() if is_empty else read_rows(connection)
        if mode != "ok":
            rows.damage = rows.damage or f"malformed: {mode}"
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if not is_damage(error):
            raise
        return Rows(damage=str(error))
    finally:
        connection.close()
    return rows
