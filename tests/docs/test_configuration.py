"""The configuration that the documentation shows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.support.documents import block
from trellis2_server.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path


def test_the_example_of_a_configuration_can_be_loaded(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(block("config"))
    assert load_settings(file).server.host == (json.loads(block("config"))["server"]["host"],)
