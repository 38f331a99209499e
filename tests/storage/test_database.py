from __future__ import annotations

import os
import sqlite3
import stat
import sys
import uuid
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.storage.test_file_system import no_umask
from trellis2_server.errors import StoreError
from trellis2_server.storage.database import ResultDatabase
from trellis2_server.storage.file_system import error_reason
from trellis2_server.storage.rows import Rows
from trellis2_server.storage.store import Artifact, JobName

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

A, B = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
SHAPE = Artifact(A, "shape.glb", 7)


@pytest.fixture
def database(tmp_path: Path) -> Generator[ResultDatabase]:
    database = ResultDatabase(tmp_path / "results.sqlite")
    assert database.connect() == Rows()
    yield database
    database.close()


def test_saved_rows_are_loaded_again(database: ResultDatabase) -> None:
    database.save({B: "1", A: "2"}, {SHAPE: b"sum"}, [JobName("key", "k", A, "x")])
    database.save({B: "3"}, {}, [JobName("key", "other", "unknown job")])
    database.close()
    rows = database.connect()
    assert list(rows.records.items()) == [(A, "2"), (B, "3")]
    assert rows.files == {SHAPE: b"sum"}
    assert rows.names == [JobName("key", "k", A, "x")]
    assert rows.damage is None


def test_a_deleted_job_takes_its_files_and_names_along(database: ResultDatabase) -> None:
    database.save({A: ""}, {SHAPE: b"sum"}, [JobName("key", "k", A)])
    database.delete_file(Artifact(A, "textured.glb", 1))
    database.close()
    assert database.connect().files
    database.delete_jobs({A})
    database.close()
    assert database.connect() == Rows()


def test_a_failed_transaction_saves_nothing(database: ResultDatabase) -> None:
    with pytest.raises(StoreError, match="a record could not be written: FOREIGN KEY"):
        database.save({B: ""}, {SHAPE: b"sum"}, [])
    database.save({A: "later"}, {}, [])
    database.close()
    assert database.connect() == Rows({A: "later"})


def test_a_closed_or_replaced_database_is_an_error(
    database: ResultDatabase, tmp_path: Path
) -> None:
    path = tmp_path / "results.sqlite"
    path.rename(tmp_path / "moved")
    with pytest.raises(StoreError, match="gone: No such file"):
        database.check()
    path.touch()
    with pytest.raises(StoreError, match="replaced"):
        database.check()
    database.close()
    with pytest.raises(StoreError, match="not open"):
        database.check()


def test_a_damaged_database_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    path.write_bytes(b"not a database at all" * 1000)
    database = ResultDatabase(path)
    rows = database.connect()
    assert "0 jobs could be read; the damaged file is results.sqlite.broken" in (rows.damage or "")
    assert not rows.records
    assert path.with_name("results.sqlite.broken").read_bytes() == b"not a database at all" * 1000
    database.close()


def test_a_database_is_written_ahead_and_has_the_version_that_earlier_servers_read(
    database: ResultDatabase, tmp_path: Path
) -> None:
    database.save({A: ""}, {}, [])
    with closing(sqlite3.connect(tmp_path / "results.sqlite")) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert other.execute("PRAGMA user_version").fetchone() == (1,)


def test_a_name_moves_and_a_file_of_another_size_replaces_the_first(
    database: ResultDatabase,
) -> None:
    database.save({A: "", B: ""}, {SHAPE: b"sum"}, [JobName("key", "k", A, "x")])
    larger = Artifact(A, "shape.glb", 8)
    database.save({}, {larger: b"other"}, [JobName("key", "k", B, "y")])
    database.close()
    rows = database.connect()
    assert rows.files == {larger: b"other"}
    assert rows.names == [JobName("key", "k", B, "y")]
    assert rows.records == {A: "", B: ""}
    database.delete_file(larger)
    database.close()
    assert database.connect() == Rows({A: "", B: ""}, {}, [JobName("key", "k", B, "y")])


def test_a_deletion_that_is_refused_leaves_the_copy_as_it_was(
    database: ResultDatabase, tmp_path: Path
) -> None:
    database.save({A: ""}, {SHAPE: b"sum"}, [])
    database.close()  # empties the log
    database.connect()
    path = tmp_path / "results.sqlite"
    path.rename(tmp_path / "moved")
    path.write_bytes(b"no database " * 1000)
    for delete in (lambda: database.delete_jobs([A]), lambda: database.delete_file(SHAPE)):
        with pytest.raises(StoreError, match="replaced"):
            delete()
    with pytest.raises(StoreError, match="replaced"):
        database.save({B: ""}, {}, [])
    database.close()
    rows = database.connect()
    assert (rows.records, rows.files) == ({A: ""}, {SHAPE: b"sum"})
    assert "1 jobs could be read" in (rows.damage or "")


def test_what_is_set_aside_has_the_age_of_its_discovery(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    path.write_bytes(b"no database " * 1000)
    os.utime(path, (1e9, 1e9))
    database = ResultDatabase(path)
    assert database.broken_age_s() is None
    assert database.connect().damage is not None
    age_s = database.broken_age_s()
    assert age_s is not None
    assert -1 < age_s < 100
    for _ in range(2):
        database.remove_broken()
    assert database.broken_age_s() is None
    database.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
def test_only_this_user_can_read_what_replaces_a_damaged_database(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    for is_damaged in (False, True):
        if is_damaged:
            path.write_bytes(b"no database " * 1000)
        database = ResultDatabase(path)
        with no_umask():
            assert (database.connect().damage is not None) == is_damaged
            database.save({A: ""}, {}, [])
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
        assert set(modes.values()) == {0o600}, modes
        database.close()


def test_a_database_that_is_only_read_stays_as_it_is(
    database: ResultDatabase, tmp_path: Path
) -> None:
    database.save({A: "1"}, {SHAPE: b"sum"}, [])
    database.close()
    path, copy = tmp_path / "results.sqlite", tmp_path / "results.copy.sqlite"
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    assert database.read_only() == Rows({A: "1"}, {SHAPE: b"sum"})
    with pytest.raises(StoreError, match="not open"):
        database.check()
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before
    path.rename(tmp_path / "results.sqlite.new")  # killed while it was replaced
    assert database.read_only().records == {A: "1"}
    (tmp_path / "results.sqlite.new").rename(path)
    path.write_bytes(b"no database " * 1000)
    rows = database.read_only()
    assert (rows.records, rows.files) == ({A: "1"}, {SHAPE: b"sum"})
    copy.unlink()
    rows = database.read_only()
    assert rows.damage is not None
    assert rows.records == {}


def test_reasons_have_no_paths() -> None:
    assert error_reason(OSError(28, "No space left", "/secret")) == "No space left"
    assert error_reason(sqlite3.OperationalError("disk I/O error")) == "disk I/O error"
    assert error_reason(ValueError()) == "ValueError"
