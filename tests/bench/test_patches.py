from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.trellis2_engine import HOME, ROOT, needs_checkout

if TYPE_CHECKING:
    from pathlib import Path

SIZE = {"tokens": 50, "features": 9, "channels": 48, "blocks": 1, "heads": 2}


@needs_checkout
def test_the_benchmark_of_the_patches_runs(tmp_path: Path) -> None:
    file = tmp_path / "patches.json"
    size = [part for name, value in SIZE.items() for part in (f"--{name}", str(value))]
    run = subprocess.run(
        [
            *(sys.executable, ROOT / "bench" / "patches.py", "--json", file),
            *(*size, "--steps", "1", "--rounds", "1"),
        ],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "TRELLIS2_HOME": str(HOME)},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    variants = {row["variant"]: row for row in json.loads(file.read_text())["rows"]}
    assert variants["none"]["waits"] > variants["exact"]["waits"] == 0
    assert variants["exact"]["difference"] == 0
    assert 0 < variants["true"]["difference"] < 1e-4


def test_it_says_what_it_needs() -> None:
    run = subprocess.run(
        [sys.executable, ROOT / "bench" / "patches.py"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "TRELLIS2_HOME": ""},
    )
    assert run.returncode == 2
    assert "TRELLIS2_HOME" in run.stderr
