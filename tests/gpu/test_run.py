from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.trellis2_engine import HOME, NEEDED, ROOT

if TYPE_CHECKING:
    from pathlib import Path


def test_the_script_for_gpus_runs_on_a_cpu(tmp_path: Path) -> None:
    for package in NEEDED:
        pytest.importorskip(package, reason=f"needs torch and what goes with it: {package}")
    report, document = tmp_path / "report.json", tmp_path / "gpu.md"
    script = ROOT / "tests" / "gpu" / "run.py"
    run = subprocess.run(
        [
            *(sys.executable, script, "--size", "tiny", "--device", "cpu"),
            *("--types", "512", "--steps", "1", "--json", report, "--markdown", document),
        ],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "TRELLIS2_HOME": str(HOME), "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    written = json.loads(report.read_text())
    (row,) = written["types"]
    assert "error" not in row
    assert {"shape structure", "shape decode", "texture texture"} < set(row["stages"])
    assert row["export_model_s"] > 0
    assert max(e for name, e in written["errors"].items() if "float32" in name) < 1e-5
    assert len(set(written["allocated_after_each_job"])) == 1
    text = document.read_text()
    assert text in run.stdout
    assert "| 512 | 512 | 60 |" in text
    assert text.endswith("Nothing failed.\n")
