from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.background_packages import model_home, needs_opencv
from tests.support.pictures import encode, photograph, vase
from trellis2_server.errors import EngineError
from trellis2_server.inputs.background.rembg_session import RembgSession
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


@pytest.mark.costly
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


class Garments:
    """As `rembg`'s session: a mask for each garment, or an error."""

    def __init__(self, *masks: np.ndarray) -> None:
        self.masks = masks

    def predict(self, picture: Image.Image) -> list[Image.Image]:
        if not self.masks:
            raise RuntimeError("no mask")
        assert picture.size == (4, 3)
        return [Image.fromarray(mask) for mask in self.masks]


def test_the_object_is_the_union_of_all_masks() -> None:
    masks = np.random.default_rng(0).integers(0, 256, (3, 3, 4)).astype(np.uint8)
    session = RembgSession("name", Garments(*masks), 7)
    rgb = np.zeros((3, 4, 3), np.uint8)
    np.testing.assert_array_equal(session.mask(rgb, lambda: None), masks.max(axis=0))
    assert session.file_bytes == 7


def test_a_model_that_fails_is_named() -> None:
    with pytest.raises(EngineError, match=r"^the background model name failed \(RuntimeError\)$"):
        RembgSession("name", Garments()).mask(np.zeros((3, 4, 3), np.uint8), lambda: None)
