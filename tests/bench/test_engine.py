from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.trellis2_engine import HOME, NEEDED, ROOT, STANDIN


def test_the_benchmark_of_the_engine_runs() -> None:
    for package in NEEDED:
        pytest.importorskip(package, reason=f"needs torch and what goes with it: {package}")
    run = subprocess.run(
        [
            *(sys.executable, ROOT / "bench" / "engine.py", "--json", "--types", "512"),
            *("--steps", "1", "--rounds", "1", "--jobs", "2"),
        ],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "TRELLIS2_HOME": "" if HOME == STANDIN else str(HOME)},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    written = json.loads(run.stdout)
    assert written["types"]["512"]["outside_percent"] < 50
    assert written["small_s"] > 0
    assert written["memory"]["jobs"] == 2
    assert written["queue"]["device_busy_percent"] > 50
    assert written["queue"]["glb_bytes"] > 1000
