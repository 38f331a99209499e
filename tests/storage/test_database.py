from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from trellis2_server.errors import StoreError
from trellis2_server.storage.database import ResultDatabase, error_reason
from trellis2_server.storage.store import Artifact, JobName

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

SHAPE = Artifact("a", "shape.glb", 7)


@pytest.fixture
def database(tmp_path: Path) -> Generator[ResultDatabase]:
    database = ResultDatabase(tmp_path / "results.sqlite")
    assert database.connect() is None
    yield database
    database.close()


def test_saved_rows_are_loaded_again(database: ResultDatabase) -> None:
    database.save({"b": "1", "a": "2"}, {SHAPE: b"sum"}, [JobName("key", "k", "a", "x")])
    database.save({"b": "3"}, {}, [JobName("key", "other", "unknown job")])
    database.close()
    assert database.connect() is None
    assert list(database.load_records().items()) == [("a", "2"), ("b", "3")]
    assert database.load_files() == {SHAPE: b"sum"}
    assert database.load_names() == [JobName("key", "k", "a", "x")]


def test_a_deleted_job_takes_its_files_and_names_along(database: ResultDatabase) -> None:
    database.save({"a": ""}, {SHAPE: b"sum"}, [JobName("key", "k", "a")])
    database.delete_file(Artifact("a", "textured.glb", 1))
    assert database.load_files()
    database.delete_jobs({"a"})
    assert not database.load_records()
    assert not database.load_files()
    assert not database.load_names()


def test_a_failed_transaction_saves_nothing(database: ResultDatabase) -> None:
    with pytest.raises(StoreError, match="a record could not be written: FOREIGN KEY"):
        database.save({"b": ""}, {SHAPE: b"sum"}, [])
    assert not database.load_records()


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
    assert "set aside as results.sqlite.broken" in (database.connect() or "")
    assert not database.load_records()
    database.close()


def test_reasons_have_no_paths() -> None:
    assert error_reason(OSError(28, "No space left", "/secret")) == "No space left"
    assert error_reason(sqlite3.OperationalError("disk I/O error")) == "disk I/O error"
    assert error_reason(ValueError()) == "ValueError"
