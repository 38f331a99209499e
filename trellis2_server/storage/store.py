"""`Store`: what finished jobs leave, found again by their uids: in memory, or in a folder.

    results.sqlite   a record for each job, the sizes and SHA-256 of its files, other names
    files/           `<uid>-<name>`, written under another name, synced, then renamed
    lock             held by the process that uses the folder

A record is written after the files that it names, and deleted before them. So whenever the
process ends, a file is whole or is named by nothing, and what nothing names is swept when
the folder is opened. A file is served only if it has the size and SHA-256 of its record.

A database that cannot be read is set aside as `results.sqlite.broken`, with its files as
`files.broken`, and a new one is begun.

What this module does not know: HTTP, threads (one at a time writes, any may `read`), what a
record says.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import sqlite3
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Protocol

from trellis2_server.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

logger = logging.getLogger(__name__)

#: `PRAGMA user_version` of the database.
SCHEMA_VERSION: Final = 1
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
_UID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FILE_NAME: Final = re.compile(r"[a-z_]+(\.[a-z]+)?")
_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that a job made; it never changes.

    Attributes:
        uid: of the job.
        name: of the file: letters, one dot at most.
        size: bytes.
    """

    uid: str
    name: str
    size: int

    @property
    def etag(self) -> str:
        """A strong entity tag, quotes included: no other bytes ever have this name."""
        return f'"{self.uid}-{self.name}"'


@dataclass(frozen=True, slots=True)
class Name:
    """Another name of a job.

    Attributes:
        kind: what names it: names of one kind differ.
        name: the name.
        uid: the job's.
        says: what the name stands for, in its owner's own words.
    """

    kind: str
    name: str
    uid: str
    says: str = ""


@dataclass(frozen=True, slots=True)
class Saved:
    """What a store holds of a job.

    Attributes:
        uid: of the job.
        says: the record, in its owner's own words.
        files: those that are there, by name.
    """

    uid: str
    says: str
    files: Mapping[str, Artifact] = field(default_factory=dict[str, Artifact])


@dataclass(frozen=True, slots=True)
class Opened:
    """What a store held when it was opened.

    Attributes:
        jobs: in the order of their uids.
        names: of these jobs.
        warnings: sentences for the operator.
    """

    jobs: Sequence[Saved] = ()
    names: Sequence[Name] = ()
    warnings: Sequence[str] = ()


class Store(Protocol):
    """Where results are kept. Every method but `read` is called by one thread at a time."""

    #: Whether what is written is still there after a restart.
    is_lasting: bool

    def claim(self) -> None:
        """Let no other process use it; `open` does so too.

        Raises:
            ConfigError: another process uses it.
            StoreError: it cannot be used now.
        """
        ...

    def open(self) -> Opened:
        """Make ready; what is held.

        Raises:
            ConfigError: another process uses it, or a newer version wrote it.
            StoreError: it cannot be used now.
        """
        ...

    def reopen(self) -> None:
        """Make ready once more, after a failure; files that are known stay known.

        Whoever calls it saves all records again: where the old ones cannot be read, there
        are none.

        Raises:
            ConfigError: as `open`.
            StoreError: it cannot be used now.
        """
        ...

    def close(self) -> None:
        """Let it go."""
        ...

    def write(self, artifact: Artifact, content: bytes) -> None:
        """Hold a file; it lasts once a record of its job is saved.

        Raises:
            StoreError: it could not be written, and nothing of it is left.
        """
        ...

    def read(self, artifact: Artifact) -> bytes:
        """The file, exactly as it was written. From any thread.

        Raises:
            StoreError: it is gone, or not what it was.
        """
        ...

    def save(self, jobs: Mapping[str, str], names: Iterable[Name]) -> None:
        """Hold these records (uid → what it says), with the files written so far, and names.

        Raises:
            StoreError: nothing of it was saved.
        """
        ...

    def forget(self, artifact: Artifact) -> None:
        """Drop one file.

        Raises:
            StoreError: the record still has it.
        """
        ...

    def remove(self, uids: Iterable[str]) -> None:
        """Drop these jobs, their files and their names.

        Raises:
            StoreError: the records are still there.
        """
        ...


class MemoryStore:
    """Holds files until the process ends, and no records."""

    is_lasting = False

    def __init__(self) -> None:
        self._files: dict[Artifact, bytes] = {}

    def claim(self) -> None:
        """Nothing: memory is this process' own."""

    def open(self) -> Opened:
        """Nothing was held."""
        return Opened()

    def reopen(self) -> None:
        """Nothing: memory does not fail."""

    def close(self) -> None:
        """Drop everything."""
        self._files.clear()

    def write(self, artifact: Artifact, content: bytes) -> None:
        """Hold a file."""
        self._files[artifact] = content

    def read(self, artifact: Artifact) -> bytes:
        """The file."""
        try:
            return self._files[artifact]
        except KeyError:
            raise StoreError(f"{artifact.name} is no longer kept", is_lost=True) from None

    def save(self, jobs: Mapping[str, str], names: Iterable[Name]) -> None:
        """Nothing: who asks has the jobs."""

    def forget(self, artifact: Artifact) -> None:
        """Drop one file."""
        self._files.pop(artifact, None)

    def remove(self, uids: Iterable[str]) -> None:
        """Drop these jobs' files."""
        gone = set(uids)
        for artifact in [a for a in self._files if a.uid in gone]:
            del self._files[artifact]


class Files:
    """The calls to the file system that can fail; made to be replaced in tests."""

    def write(self, path: Path, content: bytes) -> None:
        """Write and sync a new file that only this user may read."""
        descriptor = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600
        )
        with open(descriptor, "wb", buffering=0) as file:  # noqa: PTH123 - a descriptor
            view = memoryview(content)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())

    def replace(self, old: Path, new: Path) -> None:
        """Give a file its name, for good."""
        os.replace(old, new)  # noqa: PTH105 - as its siblings here
        if sys.platform != "win32":
            folder = os.open(new.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def read(self, path: Path) -> bytes:
        """The whole file."""
        return path.read_bytes()

    def remove(self, path: Path) -> None:
        """Remove a file that may be gone already."""
        path.unlink(missing_ok=True)


class DiskStore:
    """Holds everything in a folder.

    Args:
        folder: made when the store is opened.
        files: what touches the files.
    """

    is_lasting = True

    def __init__(self, folder: Path, files: Files | None = None) -> None:
        self._folder = folder
        self._files_folder = folder / "files"
        self._database = folder / "results.sqlite"
        self._calls = files or Files()
        self._sums: dict[Artifact, bytes] = {}
        self._connection: sqlite3.Connection | None = None
        self._lock: IO[bytes] | None = None
        self._inode: tuple[int, int] | None = None

    # ---- life ------------------------------------------------------------------------

    def claim(self) -> None:
        """Make the folder, and let no other process use it.

        Raises:
            ConfigError: another process uses it.
            StoreError: it cannot be used now.
        """
        if self._lock is None:
            with self._translated():
                _make_folder(self._folder)
                self._take_lock()

    def open(self) -> Opened:
        """What the folder holds, after everything that no record names was swept.

        Raises:
            ConfigError: another process uses it, or a newer version wrote it.
            StoreError: it cannot be used now.
        """
        self.claim()
        warnings: list[str] = []
        with self._translated():
            damage = self._connect_anyhow()
            if damage:
                broken = self._folder / "files.broken"
                shutil.rmtree(broken, ignore_errors=True)
                if self._files_folder.exists():
                    os.replace(self._files_folder, broken)  # noqa: PTH105
                warnings.append(f"{damage}; their files are in {broken.name}")
            _make_folder(self._files_folder)
            jobs, names = self._load()
            self._sweep()
        return Opened(jobs, names, warnings)

    def reopen(self) -> None:
        """Make ready once more, after a failure; files that are known stay known.

        Raises:
            ConfigError: another process uses it, or a newer version wrote it.
            StoreError: it cannot be used now.
        """
        self.close()
        self.claim()
        with self._translated():
            damage = self._connect_anyhow()
            if damage:
                logger.warning("%s; they are written anew", damage)
            _make_folder(self._files_folder)

    @contextlib.contextmanager
    def _translated(self) -> Generator[None]:
        """Foreign errors as ours; the folder is let go then."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise StoreError(f"the folder for results cannot be used: {_reason(error)}") from error
        except ConfigError:
            self.close()
            raise

    def _connect_anyhow(self) -> str | None:
        """Connect; where the database is damaged, to a new one: says so."""
        try:
            self._connect()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            damage = self._set_aside(error)
            self._connect()
            return damage
        return None

    def close(self) -> None:
        """Let the folder go, for another process or another `open`."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        if self._lock is not None:
            self._lock.close()
        self._connection = self._lock = self._inode = None

    def _take_lock(self) -> None:
        path = self._folder / "lock"
        self._lock = path.open("ab")
        try:
            if sys.platform == "win32":
                import msvcrt

                self._lock.seek(0)
                msvcrt.locking(self._lock.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise ConfigError(
                f"worker.result_dir: {self._folder} is in use by another server; "
                "give each a folder of its own"
            ) from error

    def _connect(self) -> None:
        self._database.touch(mode=0o600)
        connection = sqlite3.connect(self._database, check_same_thread=False, isolation_level=None)
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
                f"worker.result_dir: {self._folder} was written by a newer version of this server"
            )
        if version == 0:
            connection.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        status = self._database.stat()
        self._inode = status.st_dev, status.st_ino

    def _set_aside(self, error: sqlite3.Error) -> str:
        """Keep what cannot be read for whoever wants to look at it; the next such replaces it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        broken = self._database.with_name(f"{self._database.name}.broken")
        os.replace(self._database, broken)  # noqa: PTH105
        for tail in ("-wal", "-shm"):
            self._database.with_name(self._database.name + tail).unlink(missing_ok=True)
        return (
            f"the records of earlier results could not be read ({_reason(error)}); "
            f"they were set aside as {broken.name}"
        )

    def _load(self) -> tuple[list[Saved], list[Name]]:
        database = self._open_database()
        sums: dict[Artifact, bytes] = {}
        jobs = {
            uid: Saved(uid, says)
            for uid, says in database.execute("SELECT uid, says FROM jobs ORDER BY uid")
        }
        for uid, name, size, digest in database.execute(
            "SELECT uid, name, size, sha256 FROM files"
        ):
            artifact = Artifact(uid, name, size)
            job = jobs.get(uid)
            if job is None or not (_UID.fullmatch(uid) and _FILE_NAME.fullmatch(name)):
                continue
            with contextlib.suppress(OSError):
                if self._path(artifact).stat().st_size == size:
                    sums[artifact] = digest
                    jobs[uid] = Saved(uid, job.says, {**job.files, name: artifact})
        names = [Name(*row) for row in database.execute("SELECT kind, name, uid, says FROM names")]
        self._sums = sums
        return list(jobs.values()), [name for name in names if name.uid in jobs]

    def _sweep(self) -> None:
        known = {self._path(artifact).name for artifact in self._sums}
        for path in self._files_folder.iterdir():
            if path.name not in known:
                self._calls.remove(path)

    # ---- files -----------------------------------------------------------------------

    def _path(self, artifact: Artifact) -> Path:
        """Made of our own words only: nothing that a client sent gets here."""
        if not (_UID.fullmatch(artifact.uid) and _FILE_NAME.fullmatch(artifact.name)):
            raise ValueError(f"not a file of a job: {artifact}")
        return self._files_folder / f"{artifact.uid}-{artifact.name}"

    def write(self, artifact: Artifact, content: bytes) -> None:
        """Hold a file; it lasts once a record of its job is saved.

        Raises:
            StoreError: it could not be written, and nothing of it is left.
        """
        self._open_database()
        path = self._path(artifact)
        draft = path.with_name(f"{path.name}~")
        try:
            self._calls.write(draft, content)
            self._calls.replace(draft, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._calls.remove(draft)
            raise StoreError(f"a result could not be written: {_reason(error)}") from error
        self._sums[artifact] = hashlib.sha256(content).digest()

    def read(self, artifact: Artifact) -> bytes:
        """The file, exactly as it was written. From any thread.

        Raises:
            StoreError: it is gone, or not what it was.
        """
        digest = self._sums.get(artifact)
        if digest is None:
            raise StoreError(f"{artifact.name} is no longer kept", is_lost=True)
        try:
            content = self._calls.read(self._path(artifact))
        except OSError as error:
            raise StoreError(
                f"{artifact.name} cannot be read: {_reason(error)}",
                is_lost=isinstance(error, FileNotFoundError | NotADirectoryError),
            ) from error
        if len(content) != artifact.size or hashlib.sha256(content).digest() != digest:
            raise StoreError(f"{artifact.name} was damaged on the disk", is_lost=True)
        return content

    def forget(self, artifact: Artifact) -> None:
        """Drop one file.

        Raises:
            StoreError: the record still has it.
        """
        with self._transaction() as database:
            database.execute(
                "DELETE FROM files WHERE uid = ? AND name = ?", (artifact.uid, artifact.name)
            )
        self._drop([artifact])

    def _drop(self, artifacts: Iterable[Artifact]) -> None:
        for artifact in artifacts:
            self._sums.pop(artifact, None)
            # What cannot be removed now is swept at the next start.
            with contextlib.suppress(OSError):
                self._calls.remove(self._path(artifact))

    # ---- records ---------------------------------------------------------------------

    def save(self, jobs: Mapping[str, str], names: Iterable[Name]) -> None:
        """Hold these records (uid → what it says), with the files written so far, and names.

        Raises:
            StoreError: nothing of it was saved.
        """
        sums = [
            (artifact.uid, artifact.name, artifact.size, digest)
            for artifact, digest in self._sums.items()
            if artifact.uid in jobs
        ]
        with self._transaction() as database:
            database.executemany(
                "INSERT INTO jobs VALUES (?, ?) "
                "ON CONFLICT (uid) DO UPDATE SET says = excluded.says",
                jobs.items(),
            )
            database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", sums)
            database.executemany(
                "INSERT OR REPLACE INTO names SELECT ?, ?, ?, ? "
                "WHERE EXISTS (SELECT 1 FROM jobs WHERE uid = ?)",
                [(name.kind, name.name, name.uid, name.says, name.uid) for name in names],
            )

    def remove(self, uids: Iterable[str]) -> None:
        """Drop these jobs, their files and their names.

        Raises:
            StoreError: the records are still there.
        """
        gone = set(uids)
        with self._transaction() as database:
            database.executemany("DELETE FROM jobs WHERE uid = ?", [(uid,) for uid in gone])
        self._drop([artifact for artifact in list(self._sums) if artifact.uid in gone])

    @contextlib.contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        database = self._open_database()
        try:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except sqlite3.Error:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StoreError(f"a record could not be written: {_reason(error)}") from error

    def _open_database(self) -> sqlite3.Connection:
        """The connection, if its file is still the one in the folder.

        SQLite would go on writing to a file that was deleted or replaced under it.
        """
        if self._connection is None:
            raise StoreError("the folder for results is not open")
        try:
            status = self._database.stat()
        except OSError as error:
            raise StoreError(f"the folder for results is gone: {_reason(error)}") from error
        if (status.st_dev, status.st_ino) != self._inode:
            raise StoreError("the folder for results was replaced")
        return self._connection


def make_store(folder: str | None) -> Store:
    """A store in that folder; None: in memory."""
    return MemoryStore() if folder is None else DiskStore(Path(folder))


def _make_folder(path: Path) -> None:
    """Make it for this user alone, or leave it as it is."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def _is_damage(error: sqlite3.Error) -> bool:
    """Whether the database itself is bad, as against a disk or a folder that is."""
    # 3.11 has `sqlite_errorcode`; 11 is SQLITE_CORRUPT, 26 SQLITE_NOTADB.
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in {11, 26}
    return any(word in str(error) for word in ("malformed", "not a database", "corrupt"))


def _reason(error: BaseException) -> str:
    """The error without a path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
