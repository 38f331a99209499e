"""A second database, for the rows that damage makes unreadable."""

from __future__ import annotations

import logging
import sqlite3
import stat
import sys
import uuid
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.storage.test_file_system import no_umask
from trellis2_server.storage.database import ResultDatabase
from trellis2_server.storage.record_copy import RecordCopy
from trellis2_server.storage.rows import Rows, read_copy
from trellis2_server.storage.store import Artifact, JobName

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

A, B = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
SHAPE, OTHER = Artifact(A, "shape.glb", 7), Artifact(B, "shape.glb", 8)


@pytest.fixture
def original(tmp_path: Path) -> Generator[sqlite3.Connection]:
    """A database with a job that has a file and a name."""
    database = ResultDatabase(tmp_path / "original.sqlite")
    database.connect()
    database.save({A: "one"}, {SHAPE: b"sum"}, [JobName("key", "a", A)])
    database.close()
    with closing(sqlite3.connect(tmp_path / "original.sqlite", isolation_level=None)) as connection:
        yield connection


@pytest.fixture
def copy(tmp_path: Path) -> Generator[RecordCopy]:
    copy = RecordCopy(tmp_path / "copy.sqlite")
    yield copy
    copy.close()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("copy.sqlite*")}


def test_a_copy_has_what_the_original_has_and_follows_its_changes(
    tmp_path: Path, original: sqlite3.Connection, copy: RecordCopy
) -> None:
    path = tmp_path / "copy.sqlite"
    for suffix in ("", "-wal", "-shm", "-journal"):  # of an earlier one, that was damaged
        path.with_name(path.name + suffix).write_bytes(b"damaged " * 1000)
    copy.make(original)
    assert read_copy(path) == read_copy(tmp_path / "original.sqlite")
    copy.change(lambda found: found.execute("INSERT INTO jobs VALUES (?, ?)", (B, "two")))
    assert read_copy(path).records == {A: "one", B: "two"}
    copy.change(lambda found: found.execute("DELETE FROM jobs WHERE uid = ?", (A,)))
    assert read_copy(path) == Rows({B: "two"})  # its files and names are gone as well
    copy.make(original)
    assert read_copy(path).records == {A: "one"}


def test_a_change_is_whole_or_the_copy_is_given_up(
    tmp_path: Path, original: sqlite3.Connection, copy: RecordCopy,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    copy.make(original)

    def fail(found: sqlite3.Connection) -> None:
        found.execute("INSERT INTO jobs VALUES (?, ?)", (B, "two"))
        found.execute("INSERT INTO no_table VALUES (1)")

    with caplog.at_level(logging.WARNING):
        copy.change(fail)
    assert "There is no copy of the records: no such table" in caplog.text
    assert names(tmp_path) == set()
    copy.change(lambda _: pytest.fail("there is no copy"))
    copy.make(original)
    assert read_copy(tmp_path / "copy.sqlite").records == {A: "one"}


def test_a_copy_that_cannot_be_made_is_no_error(
    tmp_path: Path, original: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    copy = RecordCopy(tmp_path / "nowhere" / "copy.sqlite")
    with caplog.at_level(logging.WARNING):
        copy.make(original)
    assert "There is no copy of the records: FileNotFoundError" in caplog.text
    copy.change(lambda _: pytest.fail("there is no copy"))
    rows = Rows({A: "one"})
    copy.complete(rows)
    assert rows == Rows({A: "one"})


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
def test_only_this_user_can_read_a_copy(
    tmp_path: Path, original: sqlite3.Connection, copy: RecordCopy
) -> None:
    with no_umask():
        copy.make(original)
    assert stat.S_IMODE((tmp_path / "copy.sqlite").stat().st_mode) == 0o600


def test_a_closed_copy_stays_as_it_is(
    tmp_path: Path, original: sqlite3.Connection, copy: RecordCopy
) -> None:
    copy.make(original)
    connection = copy._connection
    assert connection is not None
    copy.close()
    copy.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
    copy.change(lambda _: pytest.fail("it is closed"))
    assert read_copy(tmp_path / "copy.sqlite").records == {A: "one"}


def test_rows_are_completed_by_those_that_only_the_copy_has(
    original: sqlite3.Connection, copy: RecordCopy
) -> None:
    copy.make(original)
    rows = Rows({B: "two"}, {OTHER: b"x"}, [JobName("key", "b", B)])
    copy.complete(rows)
    assert list(rows.records.items()) == [(A, "one"), (B, "two")]
    assert rows.files == {OTHER: b"x", SHAPE: b"sum"}
    assert sorted(name.name for name in rows.names) == ["a", "b"]
    newer = Artifact(A, "shape.glb", 9)
    rows = Rows({A: "newer"}, {newer: b"y"}, [JobName("key", "a", A, "newer")])
    copy.complete(rows)
    assert rows == Rows({A: "newer"}, {newer: b"y"}, [JobName("key", "a", A, "newer")])
