"""Files that a transport reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trellis2_server.client import UsageError
from trellis2_server.client.transport import read_file

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_is_given_by_its_content_or_path(tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(b"picture")
    assert read_file(file) == read_file(str(file)) == read_file(b"picture") == b"picture"


def test_an_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    with pytest.raises(UsageError, match=r"empty\.png: the file is empty"):
        read_file(empty)
    with pytest.raises(UsageError, match=r"^the file is empty"):
        read_file(b"")
    with pytest.raises(UsageError, match=r"none\.png: No such file"):
        read_file(tmp_path / "none.png")
