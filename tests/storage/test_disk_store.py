from __future__ import annotations

import logging
import os
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import pytest

from trellis2_server.errors import ConfigError, StoreError
from trellis2_server.storage.disk_store import DiskStore
from trellis2_server.storage.file_system import FileSystem
from trellis2_server.storage.store import Artifact, JobName

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from trellis2_server.storage.store import StoreContents

UID, OTHER = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
CONTENT = os.urandom(100_000)
SHAPE = Artifact(UID, "shape.glb", len(CONTENT))


@pytest.fixture
def store(tmp_path: Path) -> Generator[DiskStore]:
    store = DiskStore(tmp_path / "results")
    store.open()
    yield store
    store.close()


def fill(store: DiskStore) -> None:
    store.write(SHAPE, CONTENT)
    store.save({UID: "done"}, [JobName("ticket", "t", UID, "textured")])


def again(store: DiskStore) -> StoreContents:
    """Open the store like a process that starts on the same folder."""
    store.close()
    return store.open()


def test_everything_is_available_after_a_restart(store: DiskStore) -> None:
    fill(store)
    store.save({OTHER: "running"}, [])
    store.save({UID: "done again"}, [])
    opened = again(store)
    assert [(job.uid, job.record, list(job.files)) for job in opened.jobs] == [
        (UID, "done again", ["shape.glb"]),
        (OTHER, "running", []),
    ]
    assert list(opened.names) == [JobName("ticket", "t", UID, "textured")]
    assert not opened.warnings
    assert store.open_file(opened.jobs[0].files["shape.glb"]).read() == CONTENT


def test_unlisted_files_are_removed_when_the_folder_is_opened(
    store: DiskStore, tmp_path: Path
) -> None:
    fill(store)
    files = tmp_path / "results" / "files"
    store.write(Artifact(OTHER, "shape.glb", 3), b"abc")  # killed before its record
    (files / f"{UID}-textured.glb~").write_bytes(b"half")
    again(store)
    assert [path.name for path in files.iterdir()] == [f"{UID}-shape.glb"]


def test_a_removed_job_leaves_nothing(store: DiskStore, tmp_path: Path) -> None:
    fill(store)
    store.delete_jobs([UID, OTHER])
    assert not list((tmp_path / "results" / "files").iterdir())
    opened = again(store)
    assert not opened.jobs
    assert not opened.names


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "gone", "folder"])
def test_a_damaged_file_is_never_served(store: DiskStore, tmp_path: Path, damage: str) -> None:
    fill(store)
    path = tmp_path / "results" / "files" / f"{UID}-shape.glb"
    if damage == "flip":
        path.write_bytes(bytes([CONTENT[0] ^ 1]) + CONTENT[1:])
    elif damage == "cut":
        os.truncate(path, 99_999)
    elif damage == "longer":
        path.write_bytes(CONTENT + b"\0")
    else:
        path.unlink()
        if damage == "folder":
            path.mkdir()
    with pytest.raises(StoreError) as caught:
        store.open_file(SHAPE).read()
    assert caught.value.is_lost
    assert str(tmp_path) not in str(caught.value)
    opened = again(store)
    assert bool(opened.jobs[0].files) == (damage == "flip")  # noticed only when read


@pytest.mark.parametrize("name", ["../x", "a/b", "", "shape.glb.exe", "SHAPE", "c:x", "x\0"])
def test_only_valid_names_become_paths(store: DiskStore, name: str) -> None:
    with pytest.raises(ValueError, match="not a file of a job"):
        store.write(Artifact(UID, name, 1), b"x")
    with pytest.raises(ValueError, match="not a file of a job"):
        store.write(Artifact("../" + UID, "shape.glb", 1), b"x")


def test_a_second_process_gets_one_sentence(store: DiskStore, tmp_path: Path) -> None:
    fill(store)
    script = (
        "import sys; from pathlib import Path\n"
        "from trellis2_server.storage.disk_store import DiskStore\n"
        "from trellis2_server.errors import ConfigError\n"
        "try: DiskStore(Path(sys.argv[1])).claim()\n"
        "except ConfigError as error: print(error)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "results")]
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "is in use by another server" in second.stdout
    assert second.stdout.count("\n") == 1
    store.close()
    assert not subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_folder_that_could_not_be_opened_is_not_locked(store: DiskStore, tmp_path: Path) -> None:
    import sqlite3

    fill(store)
    store.close()
    folder = tmp_path / "results"
    database = sqlite3.connect(folder / "results.sqlite")
    database.execute("PRAGMA user_version = 99")
    database.close()
    other = DiskStore(folder)
    for attempt in (store.open, store.reopen):
        with pytest.raises(ConfigError, match="newer version"):
            attempt()
        other.claim()
        other.close()
    for name in ("files", "results.sqlite"):
        path = folder / name
        path.rename(tmp_path / name)
        path.symlink_to(path)  # a file system that fails: too many levels
        with pytest.raises((StoreError, ConfigError)):
            DiskStore(folder).open()
        other.claim()
        other.claim()
        other.close()
        path.unlink()
        (tmp_path / name).rename(path)


def test_a_file_of_a_job_that_is_not_known_is_not_served(store: DiskStore, tmp_path: Path) -> None:
    import sqlite3

    fill(store)
    store.write(Artifact(OTHER, "shape.glb", 3), b"abc")
    store.save({OTHER: "done"}, [JobName("ticket", "o", OTHER)])
    store.close()
    database = sqlite3.connect(tmp_path / "results" / "results.sqlite")
    database.execute("DELETE FROM jobs WHERE uid = ?", (OTHER,))  # leaves its rows
    database.commit()
    database.close()
    opened = store.open()
    assert [job.uid for job in opened.jobs] == [UID]
    assert [name.uid for name in opened.names] == [UID]
    with pytest.raises(StoreError, match="no longer stored"):
        store.open_file(Artifact(OTHER, "shape.glb", 3))


def test_the_folder_of_a_newer_version_is_unchanged(store: DiskStore, tmp_path: Path) -> None:
    import sqlite3

    fill(store)
    store.close()
    database = sqlite3.connect(tmp_path / "results" / "results.sqlite")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(ConfigError, match="newer version"):
        store.open()
    assert (tmp_path / "results" / "files" / f"{UID}-shape.glb").exists()


@pytest.mark.parametrize("has_copy", [True, False], ids=["with a copy", "without"])
@pytest.mark.parametrize("damage", ["other", "empty page", "half"])
def test_a_damaged_database_is_set_aside_and_replaced(
    store: DiskStore, tmp_path: Path, damage: str, *, has_copy: bool
) -> None:
    fill(store)
    store.close()
    path = tmp_path / "results" / "results.sqlite"
    content = path.read_bytes()
    if damage == "other":
        path.write_bytes(b"this is no database, whatever its name says" * 200)
    elif damage == "empty page":
        path.write_bytes(content[:4096] + b"\xaa" * 4096 + content[8192:])
    else:
        path.write_bytes(content[: len(content) // 2])
    if not has_copy:
        path.with_name("results.copy.sqlite").unlink()
    opened = store.open()
    assert "the damaged file is results.sqlite.broken" in opened.warnings[0]
    if has_copy:
        assert [list(job.files) for job in opened.jobs] == [["shape.glb"]]
        assert opened.names
    else:
        assert not opened.jobs
        broken = tmp_path / "results" / "files.broken" / f"{UID}-shape.glb"
        assert broken.read_bytes() == CONTENT
        fill(store)
    assert store.open_file(SHAPE).read() == CONTENT
    assert again(store).jobs


def test_a_database_that_is_damaged_while_in_use_costs_no_file(
    store: DiskStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(store)
    (tmp_path / "results" / "files" / f"{OTHER}-shape.glb").write_bytes(b"unlisted")
    with caplog.at_level(logging.WARNING):
        store.reopen()
        assert not caplog.records
        store.close()
        (tmp_path / "results" / "results.sqlite").write_bytes(b"no database any more" * 1000)
        store.reopen()
    assert "those of this process are written again" in caplog.text
    # What was not listed is of no interest: this process knows its files.
    assert not (tmp_path / "results" / "files.broken").exists()
    assert store.open_file(SHAPE).read() == CONTENT
    store.save({UID: "done"}, [])
    assert list(again(store).jobs[0].files) == ["shape.glb"]
    assert store.open_file(SHAPE).read() == CONTENT


def test_a_folder_that_was_replaced_is_noticed_and_made_again(
    store: DiskStore, tmp_path: Path
) -> None:
    fill(store)
    (tmp_path / "results").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="gone"):
        fill(store)
    with pytest.raises(StoreError):
        store.open_file(SHAPE).read()
    store.reopen()
    fill(store)
    assert again(store).jobs
    assert store.open_file(SHAPE).read() == CONTENT


def test_a_file_in_place_of_the_folder_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "results").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot be used") as caught:
        DiskStore(tmp_path / "results").open()
    assert str(tmp_path) not in str(caught.value)


class FailingFileSystem(FileSystem):
    """Fails in the call of that name, after part of the work."""

    def __init__(self, call: str) -> None:
        self.call = call

    def write(self, path: Path, content: bytes) -> None:
        if self.call == "write":
            path.write_bytes(content[:10])
            raise OSError(28, "No space left on device", str(path))
        super().write(path, content)

    def replace(self, old: Path, new: Path) -> None:
        if self.call == "replace":
            raise OSError(30, "Read-only file system", str(old))
        super().replace(old, new)


@pytest.mark.parametrize("call", ["write", "replace"])
def test_a_failed_write_leaves_no_file(tmp_path: Path, call: str) -> None:
    store = DiskStore(tmp_path, FailingFileSystem(call))
    store.open()
    with pytest.raises(StoreError, match=r"could not be written: (No space|Read-only)") as caught:
        store.write(SHAPE, CONTENT)
    assert str(tmp_path) not in str(caught.value)
    assert not list((tmp_path / "files").iterdir())
    with pytest.raises(StoreError):
        store.open_file(SHAPE).read()
    store.save({UID: "done"}, [])
    assert not again(store).jobs[0].files
    store.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
def test_only_this_user_can_read_the_folder(store: DiskStore, tmp_path: Path) -> None:
    fill(store)
    for path in (tmp_path / "results", *(tmp_path / "results").rglob("*")):
        assert path.stat().st_mode & 0o077 == 0 or path.name == "lock", path


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on a file's size")
def test_a_limit_on_the_size_of_files_is_an_error_and_leaves_no_wrong_file(tmp_path: Path) -> None:
    script = f"""
import resource, sys
from pathlib import Path
from trellis2_server.errors import StoreError
from trellis2_server.storage.disk_store import DiskStore
from trellis2_server.storage.store import Artifact
store = DiskStore(Path(sys.argv[1]))
store.open()
small = Artifact({UID!r}, "small", 10)
store.write(small, b"0123456789")
store.save({{{UID!r}: "one"}}, [])
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
for attempt in (
    lambda: store.write(Artifact({UID!r}, "large", 60_000), bytes(60_000)),
    lambda: store.save({{{UID!r}: "x" * 200_000}}, []),
):
    try:
        attempt()
    except StoreError as error:
        print(error)
assert store.open_file(small).read() == b"0123456789"
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.count("could not be written") == 2, output
    store = DiskStore(tmp_path)
    opened = store.open()
    assert [(job.record, list(job.files)) for job in opened.jobs] == [("one", ["small"])]
    assert len(list((tmp_path / "files").iterdir())) == 1
    store.close()
