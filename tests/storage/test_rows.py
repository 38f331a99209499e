"""Rows of a database: each that cannot be read costs only itself."""

from __future__ import annotations

import sqlite3
import tempfile
import uuid
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from trellis2_server.errors import ConfigError
from trellis2_server.storage.rows import (
    SCHEMA_VERSION,
    Rows,
    check_version,
    is_damage,
    read_copy,
    read_rows,
)
from trellis2_server.storage.store import Artifact, JobName

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

A, B, C = (str(uuid.UUID(int=number)) for number in (1, 2, 3))


@pytest.fixture
def connection() -> Generator[sqlite3.Connection]:
    """A database without keys or types: tables may hold anything, as after damage."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(
            "CREATE TABLE jobs (uid, says); CREATE TABLE files (uid, name, size, sha256);"
            "CREATE TABLE names (kind, name, uid, says);"
        )
        yield connection


def insert(connection: sqlite3.Connection, table: str, *rows: tuple[Any, ...]) -> None:
    for row in rows:
        marks = ", ".join("?" * len(row))
        connection.execute(f"INSERT INTO {table} VALUES ({marks})", row)  # noqa: S608 - a test


def test_rows_are_read_in_order(connection: sqlite3.Connection) -> None:
    insert(connection, "jobs", (B, "two"), (A, "one"))
    insert(connection, "files", (B, "shape.glb", 0, b"x"), (A, "shape.glb", 7, b"y"))
    insert(connection, "names", ("key", "k", A, "says"), ("alias", "k", B, ""))
    assert read_rows(connection) == Rows(
        {A: "one", B: "two"},
        {Artifact(A, "shape.glb", 7): b"y", Artifact(B, "shape.glb", 0): b"x"},
        [JobName("alias", "k", B), JobName("key", "k", A, "says")],
    )
    assert list(read_rows(connection).records) == [A, B]
    # Others who use the connection get text.
    assert connection.execute("SELECT says FROM jobs ORDER BY uid").fetchall() == [
        ("one",), ("two",),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("jobs", ("no uid", "x")),
        ("jobs", (7, "x")),
        ("jobs", (C, None)),
        ("jobs", (C, 7)),
        ("jobs", (C, b"\xff")),
        ("jobs", (C + "0", "x")),
        ("files", (C, "shape.glb", "7", b"x")),
        ("files", (C, "shape.glb", 7.5, b"x")),
        ("files", (C, "shape.glb", -1, b"x")),
        ("files", (C, "shape.glb", None, b"x")),
        ("files", (C, "shape.glb", 7, 7)),
        ("files", (C, "shape.glb", 7, None)),
        ("files", (C, "../shape.glb", 7, b"x")),
        ("files", ("no uid", "shape.glb", 7, b"x")),
        ("files", ("no uid", "../shape.glb", 7, b"x")),
        ("files", (C, b"\xff", 7, b"x")),
        ("names", ("key", "k", "no uid", "")),
        ("names", ("key", "k", C, None)),
        ("names", ("key", 7, C, "")),
        ("names", (b"\xff", "k", C, "")),
    ],
    ids=range(20),
)
def test_a_row_that_is_wrong_costs_only_itself_and_is_told(
    connection: sqlite3.Connection, table: str, row: tuple[Any, ...]
) -> None:
    insert(connection, "jobs", (A, "one"))
    insert(connection, "files", (A, "shape.glb", 7, b"y"))
    insert(connection, "names", ("key", "a", A, ""))
    whole = read_rows(connection)
    assert whole.damage is None
    insert(connection, table, row)
    rows = read_rows(connection)
    assert rows.damage == f"malformed: a row of {table}"
    rows.damage = None
    assert rows == whole


@pytest.mark.parametrize("table", ["jobs", "files", "names"])
def test_two_rows_with_one_key_are_damage(connection: sqlite3.Connection, table: str) -> None:
    row = {
        "jobs": (A, "x"), "files": (A, "shape.glb", 7, b"x"), "names": ("key", "k", A, ""),
    }[table]  # fmt: skip
    insert(connection, table, row, row)
    rows = read_rows(connection)
    assert rows.damage == f"malformed: the order of {table}"
    assert len(rows.records) + len(rows.files) + len(rows.names) == 1


# ---- what is damage ----------------------------------------------------------------------

#: PERM, BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL, NOLFS, AUTH.
OF_THE_DISK = (3, 5, 6, 7, 8, 9, 10, 13, 14, 15, 22, 23)


@pytest.mark.parametrize("code", range(1, 29))
def test_a_code_of_sqlite_tells_damage_from_a_failing_disk(code: int) -> None:
    error = sqlite3.OperationalError("whatever: readonly, malformed")
    for extended in (code, code | 3 << 8, code | 255 << 8):
        error.sqlite_errorcode = extended  # type: ignore[misc]
        assert is_damage(error) is (code not in OF_THE_DISK)


@pytest.mark.parametrize(
    ("words", "expected"),
    [("disk I/O error", False), ("database or disk is full", False),
     ("unable to open database file", False), ("attempt to write a readonly database", False),
     ("database table is locked", False), ("out of memory", False), ("access denied", False),
     ("interrupted", False), ("locking protocol", False),
     ("database disk image is malformed", True), ("file is not a database", True)],
)  # fmt: skip
def test_without_a_code_the_words_tell(words: str, *, expected: bool) -> None:
    assert is_damage(sqlite3.DatabaseError(words)) is expected


# ---- versions ----------------------------------------------------------------------------


def test_a_database_of_this_version_is_read_and_a_newer_one_is_not(
    connection: sqlite3.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "results.sqlite"
    assert SCHEMA_VERSION == 1  # what earlier servers have written
    connection.execute("PRAGMA user_version = 1")
    assert check_version(connection, path) == 1
    connection.execute("PRAGMA user_version = 2")
    with pytest.raises(ConfigError, match="was written by a newer version") as caught:
        check_version(connection, path)
    assert str(tmp_path) in str(caught.value)
    connection.execute("PRAGMA user_version = 0")
    with pytest.raises(sqlite3.DatabaseError, match="malformed: no version"):
        check_version(connection, path)
    with closing(sqlite3.connect(":memory:")) as empty:
        assert check_version(empty, path) == 0


# ---- copies ------------------------------------------------------------------------------


def make(path: Path, version: int = 1) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as made:
        made.executescript(
            "CREATE TABLE jobs (uid, says); CREATE TABLE files (uid, name, size, sha256);"
            f"CREATE TABLE names (kind, name, uid, says); PRAGMA user_version = {version};"
        )
        insert(made, "jobs", (A, "one"))


def test_a_copy_is_read_with_its_log_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, temporary = tmp_path / "results.sqlite", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(temporary))
    make(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        insert(other, "jobs", (B, "in the log"))
        before = {each.name: each.read_bytes() for each in tmp_path.glob("results*")}
        assert read_copy(path) == Rows({A: "one", B: "in the log"})
        assert {each.name: each.read_bytes() for each in tmp_path.glob("results*")} == before
    assert not list(temporary.iterdir())


def test_a_copy_is_made_where_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.sqlite"
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nowhere"):  # the first reason counts
        read_copy(path)
    make(path)
    assert read_copy(path) == Rows({A: "one"})
    make(tmp_path / "newer", version=2)
    with pytest.raises(ConfigError, match="newer version"):
        read_copy(tmp_path / "newer")


def test_a_database_without_tables_or_version_is_empty_or_damaged(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert read_copy(tmp_path / "empty") == Rows()
    (tmp_path / "other").write_bytes(b"this is no database " * 500)
    damaged = read_copy(tmp_path / "other")
    assert damaged.damage is not None
    damaged.damage = None
    assert damaged == Rows()
    make(tmp_path / "unversioned", version=0)
    assert read_copy(tmp_path / "unversioned") == Rows({A: "one"})
