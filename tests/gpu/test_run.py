from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from bench import record
from tests.support.trellis2_engine import HOME, NEEDED, ROOT

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = ROOT / "tests" / "gpu" / "run.py"
ENVIRONMENT = {**os.environ, "TRELLIS2_HOME": str(HOME), "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def _torch_is_installed() -> None:
    for package in NEEDED:
        pytest.importorskip(package, reason=f"needs torch and what goes with it: {package}")


def command(folder: Path, parts: str) -> list[str]:
    return [
        *(sys.executable, str(SCRIPT), "--size", "tiny", "--device", "cpu", "--parts", parts),
        *("--json", str(folder / "gpu.json"), "--markdown", str(folder / "gpu.md")),
    ]


def tables(part: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in part["rows"]:
        found.setdefault(row["table"].split(",")[0], []).append(row)
    return found


@pytest.mark.costly
def test_the_script_for_gpus_runs_on_a_cpu(tmp_path: Path) -> None:
    run = subprocess.run(
        command(tmp_path, "probe,steps,decode"),
        check=False,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert {name: part["state"] for name, part in written["parts"].items()} == {
        "probe": "done",
        "steps": "done",
        "decode": "done",
    }
    probe = tables(written["parts"]["probe"])
    kernels = {row["what"] for row in probe["attention"]}
    assert kernels > {"default", "flash", "varlen", "this server's choice"}
    errors = [row for row in probe["stand-ins against float64"] if row["what"].endswith("float32")]
    assert errors
    assert max(row["relative_error"] for row in errors) < 1e-5
    (steps,) = (rows for name, rows in tables(written["parts"]["steps"]).items() if "steps" in name)
    for row in steps:
        assert row["evaluations"] == (4 if row["what"] == "shape" else 2)
        assert row["evaluations_in_12_steps"] > 11
    voxels = [row["voxels"] for row in tables(written["parts"]["decode"])["both decoders"]]
    assert voxels == [10 * 256, 40 * 256]
    text = (tmp_path / "gpu.md").read_text()
    assert text in run.stdout
    assert "Nothing failed." in text
    assert written["about"]["torch"] in text
    assert written["about"]["machine"] == record.machine()
    assert {name: written["about"][name] for name in ("commit", "is_dirty")} == record.state_of(
        ROOT
    )


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_stopped_in_the_middle_leaves_what_it_had(
    tmp_path: Path, number: signal.Signals
) -> None:
    with subprocess.Popen(
        command(tmp_path, "probe,decode"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=ENVIRONMENT,
    ) as run:
        assert run.stdout is not None
        line = run.stdout.readline()
        assert json.loads(line)["part"] == "probe"
        run.send_signal(number)
        rest = run.stdout.read()
        status = run.wait()
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert written["parts"]["probe"]["rows"]
    if number == signal.SIGTERM:
        assert status == 1
        assert written["parts"]["probe"]["state"] == "cut off"
        assert written["parts"]["probe"]["why"] == "stopped by SIGTERM"
        assert written["parts"]["decode"]["state"] == "not started"
        assert "- probe: cut off: stopped by SIGTERM" in rest
    else:
        assert written["parts"]["probe"]["state"] == "running"
        assert (tmp_path / "gpu.md").read_text().startswith("# TRELLIS.2 on cpu")


def test_an_unknown_part_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    run = subprocess.run(
        command(tmp_path, "probe,nonsense"), check=False, capture_output=True, text=True
    )
    assert run.returncode == 2
    assert "no part 'nonsense'; there are probe, tests, 512" in run.stderr
