from __future__ import annotations

import sqlite3
import uuid
from typing import TYPE_CHECKING

import pytest

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
    database.close()
    assert database.connect() == Rows()


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


def test_reasons_have_no_paths() -> None:
    assert error_reason(OSError(28, "No space left", "/secret")) == "No space left"
    assert error_reason(sqlite3.OperationalError("disk I/O error")) == "disk I/O error"
    assert error_reason(ValueError()) == "ValueError"
