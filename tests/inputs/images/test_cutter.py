from __future__ import annotations

import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from tests.support.pictures import ColorSession, encode, no_session, photograph, vase
from trellis2_server.errors import EngineError, InputError, MissingPackageError
from trellis2_server.inputs.background import BackgroundModel
from trellis2_server.inputs.images import Cutter

needs_opencv = pytest.mark.skipif(
    not importlib.util.find_spec("cv2"), reason="OpenCV is not installed"
)


def test_alpha_is_used_regardless_of_request_and_configuration() -> None:
    data = encode(vase())
    keys = {
        Cutter(background=background, model=BackgroundModel(open_session=no_session))
        .cut_out(data, remove_background=r)
        .key
        for background in ("auto", "rembg", "grabcut", "none")
        for r in (True, False)
    }
    assert len(keys) == 1


def test_one_transparent_pixel_makes_a_picture_transparent() -> None:
    image = photograph().convert("RGBA")
    cutter = Cutter(background="none")
    assert cutter.cut_out(encode(image)).background == "none"
    image.putpixel((5, 5), (0, 0, 0, 254))
    assert cutter.cut_out(encode(image)).background == "alpha"


def test_without_removal_the_whole_frame_is_the_object() -> None:
    cutout = Cutter(model=BackgroundModel(open_session=no_session)).cut_out(
        encode(photograph()), remove_background=False
    )
    assert cutout.background == "none"
    assert cutout.warnings == ()
    assert cutout.rgba.shape == (320, 320, 4)
    assert (cutout.rgba[40:280, :, 3] == 255).all()
    assert not cutout.rgba[:40].any()


def test_the_model_is_preferred_and_a_veil_in_its_mask_is_removed() -> None:
    clean = Cutter(model=BackgroundModel(open_session=lambda _: ColorSession())).cut_out(
        encode(photograph())
    )
    veiled = Cutter(model=BackgroundModel(open_session=lambda _: ColorSession(10))).cut_out(
        encode(photograph())
    )
    assert clean.background == "rembg"
    assert clean.warnings == ()
    assert clean.key == veiled.key
    want = Cutter().cut_out(encode(vase(320, 240)))
    assert abs(clean.rgba.shape[0] - want.rgba.shape[0]) <= 4


def test_an_empty_result_of_the_removal_is_an_input_error() -> None:
    data = encode(Image.new("RGB", (100, 100), (128, 128, 128)))
    with pytest.raises(InputError, match="nothing is left after the background was removed"):
        Cutter(model=BackgroundModel(open_session=lambda _: ColorSession())).cut_out(data)


@needs_opencv
def test_without_a_model_grabcut_is_used_with_a_warning() -> None:
    cutout = Cutter(model=BackgroundModel("m", open_session=no_session)).cut_out(
        encode(photograph())
    )
    assert cutout.background == "grabcut"
    assert cutout.warnings == (
        "the background was removed with GrabCut, which is less exact: no m here",
    )


def test_a_missing_model_is_an_error_if_rembg_is_required() -> None:
    with pytest.raises(EngineError, match="no m here"):
        Cutter(background="rembg", model=BackgroundModel("m", open_session=no_session)).cut_out(
            encode(photograph())
        )


def test_a_missing_package_stays_a_missing_package_error() -> None:
    def missing(name: str) -> ColorSession:
        raise MissingPackageError(f"{name} is not installed")

    with pytest.raises(MissingPackageError, match="not installed"):
        Cutter(background="rembg", model=BackgroundModel(open_session=missing)).cut_out(
            encode(photograph())
        )


def test_pictures_are_cut_out_from_several_threads_at_once() -> None:
    cutter = Cutter(model=BackgroundModel(open_session=lambda _: ColorSession()))
    files = [encode(vase(100 + 5 * i, 90)) for i in range(8)]
    files += [encode(photograph(seed=i)) for i in range(4)]
    alone = [cutter.cut_out(data).key for data in files]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda data: cutter.cut_out(data).key, files)) == alone


def test_importing_and_cutting_by_alpha_import_no_heavy_package() -> None:
    code = (
        "import sys, trellis2_server.inputs.images as images\n"
        "images.Cutter().cut_out(sys.stdin.buffer.read())\n"
        "heavy = {'rembg', 'onnxruntime', 'cv2', 'torch', 'numba', 'scipy'} & set(sys.modules)\n"
        "sys.exit(' '.join(heavy) or None)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=encode(vase()),
        capture_output=True,
        check=False,
        cwd=Path(__file__).parents[3],
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
