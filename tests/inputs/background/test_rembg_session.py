from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.background_packages import model_home, needs_opencv
from tests.support.pictures import encode, photograph, vase
from trellis2_server.inputs.images import Cutter

OFFLINE = "BackgroundModel(open_session=partial(open_here, offline=True))"


def run_cutter(arguments: str, home: Path) -> subprocess.CompletedProcess[bytes]:
    """Cut out a picture in another process, because `rembg` warns and prints."""
    code = (
        "import sys\n"
        "from functools import partial\n"
        "from trellis2_server.inputs.background.model import BackgroundModel, open_here\n"
        "from trellis2_server.inputs.images import Cutter\n"
        f"cutout = Cutter({arguments}).cut_out(sys.stdin.buffer.read())\n"
        "print(cutout.background, cutout.rgba.shape[0], *cutout.warnings)\n"
        "assert 'pymatting' not in sys.modules, 'it compiles for most of a minute'\n"
    )
    environment = os.environ | {"U2NET_HOME": str(home), "MODEL_CHECKSUM_DISABLED": "1"}
    return subprocess.run(
        [sys.executable, "-c", code],
        input=encode(photograph()),
        capture_output=True,
        check=False,
        cwd=Path(__file__).parents[3],
        env=environment,
        timeout=300,
    )


def test_rembg_finds_the_object_in_a_photograph() -> None:
    done = run_cutter(f"background='rembg', model={OFFLINE}", model_home())
    assert done.returncode == 0, done.stderr.decode()
    background, side = done.stdout.decode().split()
    assert background == "rembg"
    want = Cutter().cut_out(encode(vase(320, 240))).rgba.shape[0]
    assert abs(int(side) - want) <= 12


@needs_opencv
def test_offline_without_the_model_grabcut_is_used(tmp_path: Path) -> None:
    done = run_cutter(f"model={OFFLINE}", tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.startswith(b"grabcut ")
    assert b"GrabCut, which is less exact: " in done.stdout
    assert not list(tmp_path.rglob("*.onnx"))
