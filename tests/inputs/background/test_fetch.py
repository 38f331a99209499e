from __future__ import annotations

import hashlib
import os
import stat
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.background_packages import MODEL, needs_pooch, stand_in_packages
from trellis2_server.errors import EngineError
from trellis2_server.inputs.background import fetch
from trellis2_server.inputs.background.model_files import ModelFile

if TYPE_CHECKING:
    from pathlib import Path

#: MD5 of b"new".
NEW = "md5:22af645d1859cb5ca6da0c484f1f37ea"


@pytest.mark.parametrize("existing", [None, b"old", b"new"])
def test_a_download_takes_the_place_of_what_is_not_the_same(
    existing: bytes | None, tmp_path: Path
) -> None:
    file = ModelFile(tmp_path / "a.onnx", None, NEW)
    if existing is not None:
        file.path.write_bytes(existing)
    part = tmp_path / ".a.onnx.x.part"
    part.write_bytes(b"new")
    part.chmod(0o600)
    fetch._move(part, file, NEW)
    assert file.path.read_bytes() == b"new"
    damaged = tmp_path / "a.onnx.damaged"
    assert damaged.exists() == (existing == b"old")
    assert part.exists() == (existing == b"new")  # removed by the caller
    if os.name == "posix" and existing != b"new":
        assert stat.S_IMODE(file.path.stat().st_mode) == 0o644


def test_only_old_leftovers_are_removed(tmp_path: Path) -> None:
    for name, age_s in ((".a.onnx.1.part", 7190.0), (".a.onnx.2.part", 7300.0), ("a.onnx", 1e6)):
        (tmp_path / name).touch()
        at = time.time() - age_s
        os.utime(tmp_path / name, (at, at))
    fetch._remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".a.onnx.1.part", "a.onnx"}


@needs_pooch
def test_a_download_notes_how_far_it_is_and_leaves_nothing_that_is_not_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[tuple[int, int | None]] = []
    monkeypatch.setattr(fetch, "_CHUNK", 1000)
    with stand_in_packages(tmp_path, monkeypatch) as origin:
        url = f"http://127.0.0.1:{origin.port}/a.onnx"
        file = ModelFile(
            tmp_path / "new" / "a.onnx",
            url,
            f"md5:{hashlib.md5(MODEL, usedforsecurity=False).hexdigest()}",
        )

        def download() -> None:
            notes.clear()
            fetch.download(file, "a", lambda _, done, total: notes.append((done, total)))

        origin.cut_at = 2500
        with pytest.raises(EngineError, match=r"could not be downloaded \(cut short\)$"):
            download()
        assert notes[0] == (0, len(MODEL))
        assert not list(file.path.parent.iterdir())
        origin.cut_at = None
        download()
    steps = [*range(0, len(MODEL), 1000), len(MODEL)]
    assert [done for done, _ in notes] == steps
    assert {total for _, total in notes} == {len(MODEL)}
    assert file.path.read_bytes() == MODEL
    assert [path.name for path in file.path.parent.iterdir()] == ["a.onnx"]
