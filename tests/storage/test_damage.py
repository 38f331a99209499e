"""Damage in a folder for results costs what it hit; what nothing names any more is removed."""

from __future__ import annotations

import os
import time
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.storage.test_disk_faults import UIDS, content, expected, save, served, shape
from tests.support.faulty_disk import Disk, FaultyFileSystem
from trellis2_server.storage.disk_store import DiskStore

if TYPE_CHECKING:
    from pathlib import Path

# ---- what else lies in the folder -----------------------------------------------------------


def test_folders_among_the_files_cost_nothing_but_their_own_file(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    store.open()
    save(store, *UIDS[:3])
    store.close()
    files = tmp_path / "files"
    for name in (f"{UIDS[0]}-shape.glb", f"{UIDS[3]}-shape.glb", f"{UIDS[4]}-shape.glb~"):
        (files / name).unlink(missing_ok=True)
        (files / name / "deeper").mkdir(parents=True)
    (files / "lost+found").mkdir()
    assert served(store, store.open()) == expected(*UIDS[1:3])
    assert sorted(path.name for path in files.iterdir()) == [
        *(f"{uid}-shape.glb" for uid in UIDS[1:3]), "lost+found",
    ]  # fmt: skip
    (files / f"{UIDS[5]}-shape.glb").mkdir()
    (files / f"{UIDS[5]}-shape.glb~").mkdir()
    save(store, UIDS[5])
    store.close()
    assert served(store, store.open()) == expected(*UIDS[1:3], UIDS[5])
    store.close()


def test_a_file_that_cannot_be_looked_at_now_is_not_removed(tmp_path: Path) -> None:
    disk = Disk()
    store = DiskStore(tmp_path, FaultyFileSystem(disk))
    store.open()
    save(store, UIDS[0])
    store.close()
    for call in range(2):
        disk.set(call, kind="EIO")
        assert served(store, store.open()) == expected(UIDS[0])
        store.close()


def test_what_was_set_aside_is_removed_after_a_week(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    store.open()
    save(store, UIDS[0])
    store.close()
    database = tmp_path / "results.sqlite"
    database.write_bytes(b"no database" * 1000)
    (tmp_path / "results.copy.sqlite").unlink()
    assert store.open().warnings
    store.close()
    broken = [tmp_path / "results.sqlite.broken", tmp_path / "files.broken"]
    assert not store.open().warnings
    store.close()
    assert all(path.exists() for path in broken)
    now, week_s = time.time(), 7 * 24 * 3600
    os.utime(broken[0], (now, now - week_s + 60))
    store.open()
    assert all(path.exists() for path in broken)
    os.utime(broken[0], (now, now - week_s - 1))
    store.reopen()
    assert not any(path.exists() for path in broken)
    store.close()


def test_what_was_set_aside_long_ago_makes_place_for_what_is_set_aside_now(
    tmp_path: Path,
) -> None:
    store = DiskStore(tmp_path)
    for text in (b"first", b"second"):
        database = tmp_path / "results.sqlite"
        database.write_bytes(text * 1000)
        (tmp_path / "results.copy.sqlite").unlink(missing_ok=True)
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / f"{UIDS[0]}-{text.decode()}.glb").write_bytes(text)
        assert len(store.open().warnings) == 1
        store.close()
        broken = tmp_path / "results.sqlite.broken"
        assert broken.read_bytes() == text * 1000
        assert [path.read_bytes() for path in (tmp_path / "files.broken").iterdir()] == [text]
        os.utime(broken, (0, 0))


@pytest.mark.parametrize("step", ["new only", "both", "with a log"])
def test_a_kill_while_a_damaged_database_is_replaced_loses_nothing(
    tmp_path: Path, step: str
) -> None:
    store = DiskStore(tmp_path)
    store.open()
    save(store, UIDS[0])
    store.close()
    database, new = tmp_path / "results.sqlite", tmp_path / "results.sqlite.new"
    if step == "both":  # the new one is not complete
        new.write_bytes(database.read_bytes()[:5000])
    else:
        database.rename(new)
    if step == "with a log":
        (tmp_path / "results.sqlite-wal").write_bytes(b"the log of the damaged one")
    assert served(store, store.open()) == expected(UIDS[0])
    assert not new.exists()
    store.close()


# ---- damaged databases ----------------------------------------------------------------------


@pytest.mark.costly
@pytest.mark.parametrize("has_copy", [True, False], ids=["with a copy", "without"])
def test_a_page_that_is_damaged_costs_only_the_jobs_on_it(
    tmp_path: Path, *, has_copy: bool
) -> None:
    uids = [str(uuid.UUID(int=number << 120)) for number in range(56, 256)]
    store = DiskStore(tmp_path)
    store.open()
    save(store, *uids, record="x" * 500)
    store.close()
    database, copy = tmp_path / "results.sqlite", tmp_path / "results.copy.sqlite"
    original = database.read_bytes()
    pages = [
        at for at in range(4096, len(original), 4096) if b"x" * 100 in original[at : at + 4096]
    ]
    assert len(pages) > 20
    for at in pages[1 :: len(pages) // 4]:  # the first one is the root
        for uid in uids:
            (tmp_path / "files" / f"{uid}-shape.glb").write_bytes(content(uid))
        database.write_bytes(original[:at] + b"\xaa" * 4096 + original[at + 4096 :])
        if not has_copy:
            copy.unlink()
        contents = store.open()
        assert len(contents.warnings) == 1
        assert len(served(store, contents)) >= (200 if has_copy else 190)
        store.close()
        assert len(store.open().jobs) == len(contents.jobs)
        store.close()


def test_a_deleted_job_does_not_come_back_with_the_copy(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    store.open()
    save(store, *UIDS[:3])
    store.delete_jobs([UIDS[1]])
    store.delete_file(shape(UIDS[2]))
    store.close()
    (tmp_path / "results.sqlite").write_bytes(b"no database" * 1000)
    contents = store.open()
    assert [job.uid for job in contents.jobs] == [UIDS[0], UIDS[2]]
    assert served(store, contents) == expected(UIDS[0])
    store.close()
