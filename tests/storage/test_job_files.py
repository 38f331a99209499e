"""Files of a folder: which are known, which names become paths, what is synced and left over."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

import pytest

from trellis2_server.errors import StoreError
from trellis2_server.storage.file_system import FileSystem
from trellis2_server.storage.job_files import JobFiles
from trellis2_server.storage.store import Artifact

if TYPE_CHECKING:
    from pathlib import Path

UID, OTHER = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
SHAPE = Artifact(UID, "shape.glb", 3)


class CountingFileSystem(FileSystem):
    """Counts how often a folder is synced, and may fail to."""

    def __init__(self) -> None:
        self.syncs = 0
        self.failure: OSError | None = None

    def sync_folder(self, path: Path) -> None:
        self.syncs += 1
        if self.failure is not None:
            raise self.failure
        super().sync_folder(path)


@pytest.fixture
def system() -> CountingFileSystem:
    return CountingFileSystem()


@pytest.fixture
def files(tmp_path: Path, system: CountingFileSystem) -> JobFiles:
    files = JobFiles(tmp_path / "files", system)
    files.prepare()
    files.write(SHAPE, b"abc")
    return files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("uid", "name"),
    [(UID, "../x"), (UID, "a/b"), (UID, ""), (UID, "a.b.c"), ("..", "shape.glb"),
     ("../" + UID, "a"), (UID.upper().replace("1", "A"), "shape.glb"), ("", "shape.glb")],
)  # fmt: skip
def test_a_path_is_made_only_of_a_uid_and_a_file_name(
    files: JobFiles, tmp_path: Path, uid: str, name: str
) -> None:
    with pytest.raises(ValueError, match="not a file of a job"):
        files.write(Artifact(uid, name, 1), b"x")
    assert names(tmp_path) == ["files"]
    assert names(tmp_path / "files") == [f"{UID}-shape.glb"]


def test_new_names_are_synced_once_and_again_after_a_failure(
    files: JobFiles, system: CountingFileSystem
) -> None:
    system.failure = OSError(5, "Input/output error")
    for _ in range(2):
        with pytest.raises(StoreError, match="could not be written: Input/output error"):
            files.sync()
    system.failure = None
    for _ in range(2):
        files.sync()
    assert system.syncs == 3
    files.write(SHAPE, b"abd")
    files.sync()
    assert system.syncs == 4


def test_only_files_with_their_size_are_taken_over_and_no_earlier_ones(
    files: JobFiles, tmp_path: Path
) -> None:
    textured, empty = Artifact(UID, "textured.glb", 4), Artifact(OTHER, "shape.glb", 0)
    files.write(textured, b"abcd")
    files.write(empty, b"")
    digests = files.of(UID) | files.of(OTHER)
    assert list(digests) == [SHAPE, textured, empty]
    (tmp_path / "files" / f"{UID}-textured.glb").write_bytes(b"abc")
    files.load(digests)
    assert (list(files.of(UID)), list(files.of(OTHER))) == ([SHAPE], [empty])
    files.load({})
    assert files.of(UID) == files.of(OTHER) == {}
    with pytest.raises(StoreError, match=r"^shape\.glb is no longer stored$") as caught:
        files.open_file(SHAPE)
    assert caught.value.is_lost


def test_a_file_of_another_size_is_another_file(files: JobFiles) -> None:
    with pytest.raises(StoreError, match="is no longer stored"):
        files.open_file(Artifact(UID, "shape.glb", 4))
    assert files.open_file(SHAPE).read() == b"abc"


def test_an_open_file_is_shared_until_it_is_written_again(files: JobFiles) -> None:
    first = files.open_file(SHAPE)
    assert files.open_file(SHAPE) is first
    files.write(SHAPE, b"abd")
    second = files.open_file(SHAPE)
    assert second is not first
    assert (first.read(), second.read()) == (b"abc", b"abd")


def test_a_file_is_verified_once_and_again_when_it_was_touched(
    files: JobFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trellis2_server.storage.content import OpenFile

    verified: list[int] = []
    sha256 = OpenFile.sha256
    monkeypatch.setattr(
        OpenFile, "sha256", lambda file: (verified.append(file.size), sha256(file))[1]
    )
    path = tmp_path / "files" / f"{UID}-shape.glb"
    for _ in range(2):
        files.open_file(SHAPE)
    assert verified == [3]
    path.write_bytes(b"abd")
    os.utime(path, ns=(0, 0))
    with pytest.raises(StoreError, match=r"^shape\.glb was damaged on the disk$") as caught:
        files.open_file(SHAPE)
    assert caught.value.is_lost
    path.write_bytes(b"abc")
    os.utime(path, ns=(0, 1))
    assert files.open_file(SHAPE).read() == b"abc"
    assert verified == [3, 3, 3]


def test_an_error_that_may_pass_does_not_lose_the_file(files: JobFiles, tmp_path: Path) -> None:
    class Failing(FileSystem):
        def open(self, path: Path) -> int:
            del path
            raise OSError(24, "Too many open files")

    files._file_system = Failing()
    with pytest.raises(StoreError, match=r"^shape\.glb cannot be read: Too many") as caught:
        files.open_file(SHAPE)
    assert not caught.value.is_lost
    files._file_system = FileSystem()
    (tmp_path / "files").rename(tmp_path / "away")
    for is_folder in (False, True):  # no folder, then a file in its place
        if is_folder:
            (tmp_path / "files").write_bytes(b"")
        with pytest.raises(StoreError, match=r"^shape\.glb cannot be read: No") as caught:
            files.open_file(SHAPE)
        assert caught.value.is_lost


def test_removing_a_file_leaves_the_others_of_its_job(files: JobFiles, tmp_path: Path) -> None:
    textured = Artifact(UID, "textured.glb", 1)
    files.write(textured, b"x")
    files.write(Artifact(OTHER, "shape.glb", 1), b"x")
    files.remove(SHAPE)
    files.remove(SHAPE)
    assert list(files.of(UID)) == [textured]
    files.remove_of([UID, "unknown"])
    assert files.of(UID) == {}
    assert names(tmp_path / "files") == [f"{OTHER}-shape.glb"]


@pytest.mark.parametrize("set_aside", [False, True])
def test_a_sweep_takes_what_is_not_listed_and_no_folder_of_others(
    files: JobFiles, tmp_path: Path, *, set_aside: bool
) -> None:
    folder = tmp_path / "files"
    (folder / f"{OTHER}-shape.glb").write_bytes(b"unlisted")
    (folder / f"{OTHER}-shape.glb~").write_bytes(b"half")
    (folder / "notes").write_bytes(b"of somebody")
    (folder / "lost+found").mkdir()
    (folder / f"{OTHER}-folder").mkdir()
    (tmp_path / "files.broken").mkdir()
    (tmp_path / "files.broken" / "earlier").write_bytes(b"")
    files.sweep(set_aside=set_aside)
    if set_aside:
        assert names(folder) == sorted([f"{UID}-shape.glb", "lost+found"])
        assert names(tmp_path / "files.broken") == sorted(
            [f"{OTHER}-folder", f"{OTHER}-shape.glb", "notes"]
        )
        assert (tmp_path / "files.broken" / f"{OTHER}-shape.glb").read_bytes() == b"unlisted"
        files.sweep(set_aside=True)  # nothing more is unlisted: what was set aside stays
        assert len(names(tmp_path / "files.broken")) == 3
    else:
        assert names(folder) == sorted([f"{UID}-shape.glb", "lost+found"])
        assert names(tmp_path / "files.broken") == ["earlier"]
    files.remove_broken()
    files.remove_broken()
    assert names(tmp_path) == ["files"]
    assert files.open_file(SHAPE).read() == b"abc"
