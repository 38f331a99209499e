"""Writing files atomically."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from trellis2_server.client.cli.atomic_write import write_atomically

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "new" / "model.glb"
    write_atomically(file, b"first")
    write_atomically(file, b"second")
    assert file.read_bytes() == b"second"
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_atomically(tmp_path / "folder", b"third")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "model.glb", "new"]
    if os.name == "posix":
        (tmp_path / "other").touch()
        assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(
            (tmp_path / "other").stat().st_mode
        )
