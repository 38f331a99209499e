from __future__ import annotations

import os
import stat
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest

from tests.support.descriptors import open_files
from trellis2_server.errors import ConfigError
from trellis2_server.storage.content import OpenFile
from trellis2_server.storage.file_system import FileSystem, FolderLock, make_private_folder

if TYPE_CHECKING:
    from collections.abc import Generator


def test_a_written_file_can_be_renamed_read_and_removed(tmp_path: Path) -> None:
    system = FileSystem()
    system.write(tmp_path / "draft", b"longer content")
    system.write(tmp_path / "draft", b"content")
    system.replace(tmp_path / "draft", tmp_path / "file")
    assert OpenFile(system.open(tmp_path / "file"), "file").read() == b"content"
    for _ in range(2):
        system.remove(tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_locked_once_until_it_is_released(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()
    assert first.is_held
    with pytest.raises(ConfigError, match="in use by another server"):
        second.acquire()
    second.release()
    assert not second.is_held
    first.release()
    second.acquire()
    second.release()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
def test_a_new_folder_is_private_and_an_existing_one_is_unchanged(tmp_path: Path) -> None:
    make_private_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    (tmp_path / "c").mkdir()
    (tmp_path / "c").chmod(0o755)
    make_private_folder(tmp_path / "c")
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o755


@contextmanager
def no_umask() -> Generator[None]:
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
def test_files_and_folders_are_private_whatever_the_umask_is(tmp_path: Path) -> None:
    with no_umask():
        FileSystem().write(tmp_path / "file", b"x")
        make_private_folder(tmp_path / "folder")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700


@pytest.mark.skipif(sys.platform == "win32", reason="Windows syncs no folders")
def test_all_of_a_file_is_synced_before_it_is_closed_and_so_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[bool, int]] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        status = os.fstat(descriptor)
        synced.append((stat.S_ISDIR(status.st_mode), status.st_size))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    system = FileSystem()
    system.write(tmp_path / "file", b"x" * 300_000)
    system.write(tmp_path / "small", b"x")
    assert synced == [(False, 300_000), (False, 1)]
    system.sync_folder(tmp_path)
    assert [is_folder for is_folder, _ in synced] == [False, False, True]


def test_the_size_is_that_of_a_file_only(tmp_path: Path) -> None:
    system = FileSystem()
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "empty").touch()
    sizes = [system.size(tmp_path / name) for name in ("file", "empty", "none", "file/below", ".")]
    assert sizes == [3, 0, None, None, None]
    assert sorted(path.name for path in system.entries(tmp_path)) == ["empty", "file"]
    with pytest.raises(IsADirectoryError):
        system.open(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_no_call_leaves_a_descriptor_open(tmp_path: Path) -> None:
    system, lock = FileSystem(), FolderLock(tmp_path)
    kept: list[Any] = []
    before = open_files()
    system.write(tmp_path / "file", b"x")
    system.sync_folder(tmp_path)
    with pytest.raises(IsADirectoryError):
        system.open(tmp_path)
    lock.acquire()
    kept.append(lock._file)  # so that nothing but `release` closes it
    assert open_files() == before + 1
    other = FolderLock(tmp_path)
    with pytest.raises(ConfigError):
        other.acquire()
    kept.append(other._file)
    other.release()
    lock.release()
    assert open_files() == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows needs to write the lock file")
def test_a_lock_file_that_cannot_be_written_to_can_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def open_read_only(path: Path, mode: str = "r", *arguments: Any) -> IO[Any]:
        if "r" not in mode:
            raise OSError(30, "Read-only file system")
        return real(path, mode, *arguments)

    monkeypatch.setattr(Path, "open", open_read_only)
    lock = FolderLock(tmp_path)
    with pytest.raises(OSError, match="Read-only file system"):
        lock.acquire()
    assert not lock.is_held
    (tmp_path / "lock").touch()
    lock.acquire()
    assert lock.is_held
    other = FolderLock(tmp_path)
    with pytest.raises(ConfigError, match="in use by another server"):
        other.acquire()
    other.release()
    lock.release()
