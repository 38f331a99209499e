"""Every call below the store fails once, or from then on: what was saved stays, and is served."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import uuid
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support.faulty_disk import KINDS, LIBRARY, Disk, FaultyFileSystem, faulty_sqlite
from trellis2_server.errors import ConfigError, StoreError
from trellis2_server.storage.disk_store import DiskStore
from trellis2_server.storage.store import Artifact, JobName

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from trellis2_server.storage.store import StoreContents

UIDS = [str(uuid.UUID(int=number)) for number in range(8)]
needs_sqlite = pytest.mark.skipif(
    LIBRARY is None, reason="ctypes does not reach the SQLite library of Python"
)


def content(uid: str) -> bytes:
    return random.Random(uid).randbytes(50_000)  # noqa: S311 - no secret


def shape(uid: str) -> Artifact:
    return Artifact(uid, "shape.glb", len(content(uid)))


def save(store: DiskStore, *uids: str, record: str = "done") -> None:
    for uid in uids:
        store.write(shape(uid), content(uid))
    store.save(
        {uid: f"{record} {uid}" for uid in uids}, [JobName("ticket", u, u, "x") for u in uids]
    )


def served(store: DiskStore, contents: StoreContents) -> dict[str, str]:
    """Records of the jobs whose file is served; whatever is served is right."""
    found: dict[str, str] = {}
    for job in contents.jobs:
        for artifact in job.files.values():
            assert store.open_file(artifact).read() == content(job.uid)
            found[job.uid] = job.record
    return found


def expected(*uids: str) -> dict[str, str]:
    return {uid: f"done {uid}" for uid in uids}


@pytest.fixture
def disk(tmp_path: Path) -> Generator[Disk]:
    disk = Disk(folder=tmp_path)
    with ExitStack() as stack:
        if LIBRARY is not None:
            stack.enter_context(faulty_sqlite(disk))
        yield disk
        disk.set(None)


def killed(store: DiskStore, disk: Disk) -> None:
    """End the store as a kill does: nothing more is written."""
    disk.set(0, count=None)
    store.close()
    disk.set(None)


# ---- writing -------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[DiskStore], None]] = {
    "save": lambda store: save(store, UIDS[2]),
    "save again": lambda store: save(store, UIDS[0]),
    "delete": lambda store: store.delete_jobs([UIDS[1]]),
    "delete a file": lambda store: store.delete_file(shape(UIDS[1])),
}
AFTER = {
    "save": expected(*UIDS[:3]),
    "save again": expected(*UIDS[:2]),
    "delete": expected(UIDS[0]),
    "delete a file": expected(UIDS[0]),
}


@needs_sqlite
@pytest.mark.parametrize("count", [1, None], ids=["once", "for good"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_saved_or_refused_whichever_call_fails(
    tmp_path: Path, disk: Disk, change: str, kind: str, count: int | None
) -> None:
    before, after = expected(*UIDS[:2]), AFTER[change]
    for call in range(100):
        folder = tmp_path / str(call)
        store = DiskStore(folder, FaultyFileSystem(disk))
        store.open()
        save(store, *UIDS[:2])
        disk.set(call, count=count, kind=kind)
        try:
            CHANGES[change](store)
        except StoreError:
            is_saved = False
        else:
            is_saved = True
        is_done = len(disk.calls) <= call
        killed(store, disk)
        again = DiskStore(folder)
        found = served(again, again.open())
        if is_saved:
            assert found == after
        else:  # neither was promised; the other jobs stay in any case
            assert before.items() & after.items() <= found.items() <= before.items() | after.items()
        names = {path.name for path in (folder / "files").iterdir()}
        assert names == {f"{uid}-shape.glb" for uid in found}
        again.close()
        shutil.rmtree(folder)
        if is_done:
            break
    else:
        pytest.fail("there is always another call")
    assert call >= 4


@needs_sqlite
@pytest.mark.parametrize("kind", KINDS)
def test_after_a_failure_that_passes_the_store_is_opened_again_and_saves_all(
    tmp_path: Path, disk: Disk, kind: str
) -> None:
    for call in range(30):
        folder = tmp_path / str(call)
        store = DiskStore(folder, FaultyFileSystem(disk))
        store.open()
        save(store, UIDS[0])
        disk.set(call, kind=kind)
        try:
            save(store, UIDS[1])
        except StoreError:
            store.reopen()
            save(store, *UIDS[:2])
        killed(store, disk)
        again = DiskStore(folder)
        assert served(again, again.open()) == expected(*UIDS[:2])
        again.close()


# ---- starting ------------------------------------------------------------------------------


@needs_sqlite
@pytest.mark.parametrize("count", [1, None], ids=["once", "for good"])
@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "closed"])
def test_a_start_serves_what_is_there_whichever_write_fails(
    tmp_path: Path, disk: Disk, *, count: int | None, is_killed: bool
) -> None:
    folder = tmp_path / "results"
    is_read_only: set[bool] = set()
    store = DiskStore(folder, FaultyFileSystem(disk))
    store.open()
    save(store, *UIDS[:2])
    if is_killed:
        killed(store, disk)
    else:
        store.close()
    shutil.copytree(folder, tmp_path / "original")
    for call in range(100):
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "original", folder)
        disk.set(call, count=count, kind="ENOSPC")
        store = DiskStore(folder, FaultyFileSystem(disk))
        contents = store.open()
        is_done = len(disk.calls) <= call
        disk.set(None)
        assert served(store, contents) == expected(*UIDS[:2])
        assert len(contents.names) == 2
        is_read_only.add(contents.failure is not None)
        if contents.failure is not None:
            with pytest.raises(ConfigError, match="in use by another server"):
                DiskStore(folder).claim()
            with pytest.raises(StoreError, match="not open"):
                save(store, UIDS[2])
            assert not store.reopen().jobs
        save(store, UIDS[2])
        store.close()
        if is_done:
            break
    else:
        pytest.fail("there is always another call")
    assert is_read_only == {True, False}


def test_a_folder_that_cannot_be_read_at_the_start_is_read_when_it_is_opened_again(
    tmp_path: Path,
) -> None:
    store = DiskStore(tmp_path / "results")
    store.open()
    save(store, UIDS[0])
    store.close()
    (tmp_path / "results").rename(tmp_path / "away")
    (tmp_path / "results").write_bytes(b"in the way")
    store = DiskStore(tmp_path / "results")
    with pytest.raises(StoreError):
        store.open()
    (tmp_path / "results").unlink()
    (tmp_path / "away").rename(tmp_path / "results")
    assert served(store, store.reopen()) == expected(UIDS[0])
    assert not store.reopen().jobs
    store.close()


#: Runs in a mount namespace of its own, where it mounts a small file system and fills it.
ON_A_SMALL_DISK = """
import os, subprocess, sys
from pathlib import Path
from tests.storage.test_disk_faults import UIDS, expected, save, served
from trellis2_server.errors import StoreError
from trellis2_server.storage.disk_store import DiskStore

mode, folder = sys.argv[1], Path(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
store = DiskStore(folder / "results")
store.open()
save(store, *UIDS[:6])
# Leaves a write-ahead log, as a kill does.
for name in ("results.sqlite", "results.sqlite-wal"):
    (folder / f"{name}.copy").write_bytes((folder / "results" / name).read_bytes())
store.close()
for name in ("results.sqlite", "results.sqlite-wal"):
    os.replace(folder / f"{name}.copy", folder / "results" / name)

def fill():
    with (folder / "filler").open("ab", buffering=0) as filler:
        try:
            while True:
                filler.write(b"x" * 4096)
        except OSError:
            pass

def remount(how):
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)

if mode == "full":
    fill()
else:
    remount("ro")
store = DiskStore(folder / "results")
contents = store.open()
assert contents.failure is not None
print(contents.failure)
assert served(store, contents) == expected(*UIDS[:6])
try:
    store.reopen()
    raise SystemExit("it was opened")
except StoreError:
    pass
if mode == "full":
    # Only the files of the job make room.
    store.delete_files_of([UIDS[0]])
    store.reopen()
    store.delete_jobs([UIDS[0]])
    fill()
    try:
        save(store, UIDS[6])
        raise SystemExit("it was saved")
    except StoreError:
        pass
    store.delete_jobs([UIDS[1], *UIDS[4:]])
    save(store, UIDS[2])
else:
    remount("rw")
    store.reopen()
    store.delete_jobs([*UIDS[:2], *UIDS[4:]])
store.close()
store = DiskStore(folder / "results")
contents = store.open()
assert served(store, contents) == expected(*UIDS[2:4])
store.close()
"""


def can_mount(folder: Path) -> bool:
    try:
        command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.parametrize("mode", ["full", "read-only"])
def test_a_real_disk_that_is_full_or_read_only_at_the_start(tmp_path: Path, mode: str) -> None:
    if not can_mount(tmp_path):
        pytest.skip("this user may not mount a file system")
    command = ["unshare", "-rm", sys.executable, "-c", ON_A_SMALL_DISK, mode, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cannot be used" in done.stdout
