from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.background_packages import model_home, needs_opencv
from tests.support.pictures import encode, photograph
from trellis2_server.inputs.images import Cutter


def run(code: str, home: Path) -> list[str]:
    """Run code in a process that gets a photograph; return the words that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=encode(photograph()),
        stdout=subprocess.PIPE,
        check=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"U2NET_HOME": str(home), "MODEL_CHECKSUM_DISABLED": "1"},
        timeout=300,
    )
    return done.stdout.decode().split()


def run_server_cutter(background: str, home: Path) -> list[str]:
    """Cut out a picture as a server does; return how, and the heavy packages it imported."""
    code = (
        "import sys\n"
        "from trellis2_server import pipeline\n"
        "from trellis2_server.engines.preview import PreviewEngine\n"
        "from trellis2_server.settings import Settings\n"
        f"settings = Settings(model={{'background': {background!r}, 'offline': True}})\n"
        "decoders = pipeline.make_decoders(settings)\n"
        "cutter = pipeline.make_cutter(PreviewEngine(), settings, decoders)\n"
        "cutout = cutter.cut_out(sys.stdin.buffer.read())\n"
        "cutter.close(); decoders.close()\n"
        "heavy = {'rembg', 'onnxruntime', 'cv2', 'pooch', 'scipy', 'requests'}\n"
        "print(cutout.background, cutout.key, *heavy & set(sys.modules))\n"
    )
    return run(code, home)


@pytest.mark.costly
def test_a_cutout_with_rembg_imports_no_model_into_the_server_and_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = model_home()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    in_process = (
        "import sys\n"
        "from trellis2_server.inputs.images import Cutter\n"
        "print(Cutter(background='rembg').cut_out(sys.stdin.buffer.read()).key)\n"
    )
    assert run_server_cutter("rembg", home) == ["rembg", *run(in_process, home)]


@pytest.mark.costly
@needs_opencv
def test_a_cutout_with_grabcut_imports_no_opencv_into_the_server_and_is_the_same(
    tmp_path: Path,
) -> None:
    want = Cutter(background="grabcut").cut_out(encode(photograph()))
    assert run_server_cutter("grabcut", tmp_path) == ["grabcut", want.key]


@pytest.mark.costly
@needs_opencv
def test_without_the_model_the_server_uses_grabcut(tmp_path: Path) -> None:
    want = Cutter(background="grabcut").cut_out(encode(photograph()))
    assert run_server_cutter("auto", tmp_path) == ["grabcut", want.key]
