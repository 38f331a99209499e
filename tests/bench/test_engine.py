from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.trellis2_engine import HOME, NEEDED, ROOT, STANDIN

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.costly
def test_the_benchmark_of_the_engine_runs(tmp_path: Path) -> None:
    for package in NEEDED:
        pytest.importorskip(package, reason=f"needs torch and what goes with it: {package}")
    run = subprocess.run(
        [
            *(sys.executable, ROOT / "bench" / "engine.py", "--types", "512"),
            *("--json", tmp_path / "engine.json"),
            *("--steps", "1", "--rounds", "1", "--jobs", "2"),
            *("--trace", tmp_path / "trace.json"),
        ],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "TRELLIS2_HOME": "" if HOME == STANDIN else str(HOME)},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    rows = json.loads((tmp_path / "engine.json").read_text())["rows"]
    written = {row["table"]: row for row in rows}
    assert written["types"]["type"] == "512"
    assert written["types"]["outside_percent"] < 50
    assert written["small"]["small_s"] > 0
    assert written["memory"]["jobs"] == 2
    assert 0 <= written["queue"]["device_idle_percent"] < 50
    assert written["queue"]["gap_ms"] > 0
    assert written["queue"]["glb_bytes"] > 1000
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    threads = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    spans = [(e["name"], threads[e["tid"]].partition("_")[0]) for e in events if e["ph"] == "X"]
    for name, row in (("make_shape", "device"), ("make_texture", "device"), ("bake", "cpu")):
        assert spans.count((name, row)) == 9, spans  # one job, and eight
