from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from trellis2_server.errors import ConfigError
from trellis2_server.storage.content import OpenFile
from trellis2_server.storage.file_system import FileSystem, FolderLock, make_private_folder

if TYPE_CHECKING:
    from pathlib import Path


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
