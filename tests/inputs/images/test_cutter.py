from __future__ import annotations

import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.support.pictures import ColorSession, encode, no_session, photograph, vase
from trellis2_server.errors import EngineError, InputError, MissingPackageError
from trellis2_server.inputs.background import BackgroundModel
from trellis2_server.inputs.images import Cutter

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from trellis2_server.request_fields import RemoveBackground

needs_opencv = pytest.mark.skipif(
    not importlib.util.find_spec("cv2"), reason="OpenCV is not installed"
)


def test_a_cut_out_is_used_as_it_is_in_every_configuration_unless_asked_otherwise() -> None:
    data = encode(vase())
    keys = {
        Cutter(background=background, model=BackgroundModel(open_session=no_session))
        .cut_out(data)
        .key
        for background in ("auto", "rembg", "grabcut", "none")
    }
    assert len(keys) == 1


def with_alpha(image: Image.Image, alpha: Image.Image | int) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(alpha)
    return image


def rounded(size: tuple[int, int], radius: int) -> Image.Image:
    alpha = Image.new("L", size, 0)
    ImageDraw.Draw(alpha).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), radius, fill=255)
    return alpha


def nearly_opaque() -> Image.Image:
    image = photograph().convert("RGBA")
    image.putpixel((5, 5), (0, 0, 0, 254))
    return image


def with_a_hole() -> Image.Image:
    alpha = Image.new("L", (320, 240), 255)
    ImageDraw.Draw(alpha).rectangle((250, 20, 290, 60), fill=0)
    return with_alpha(photograph(), alpha)


NO_CUT_OUTS = {
    "one pixel": nearly_opaque,
    "rounded corners": lambda: with_alpha(photograph(), rounded((320, 240), 40)),
    "a hole": with_a_hole,
    "a frame of one opacity": lambda: with_alpha(photograph(), 150),
    "a faint frame": lambda: with_alpha(photograph(), 60),
}


@pytest.mark.parametrize("make", NO_CUT_OUTS.values(), ids=NO_CUT_OUTS.keys())
@pytest.mark.parametrize("remove", [True, "always"])
def test_a_picture_with_some_transparency_is_no_cut_out(
    make: Callable[[], Image.Image],
    remove: RemoveBackground,
) -> None:
    cutter = Cutter(model=BackgroundModel(open_session=lambda _: ColorSession()))
    cutout = cutter.cut_out(encode(make()), remove_background=remove)
    want = Cutter().cut_out(encode(vase(320, 240)))
    assert cutout.background == "rembg"
    assert abs(cutout.rgba.shape[0] - want.rgba.shape[0]) <= 4


def half_transparent() -> Image.Image:
    image = photograph().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 20, 240))
    image.paste((0, 0, 0, 0), (220, 0, 320, 240))
    return image


def on_a_canvas() -> Image.Image:
    canvas = Image.new("RGBA", (500, 400))
    canvas.paste(photograph(), (90, 80))
    return canvas


@pytest.mark.parametrize("make", [half_transparent, on_a_canvas])
def test_a_background_is_removed_beside_transparency_if_that_is_asked_for(
    make: Callable[[], Image.Image],
) -> None:
    cutter = Cutter(model=BackgroundModel(open_session=lambda _: ColorSession()))
    data = encode(make())
    assert cutter.cut_out(data).background == "alpha"
    cutout = cutter.cut_out(data, remove_background="always")
    want = Cutter().cut_out(encode(vase(320, 240)))
    assert cutout.background == "rembg"
    assert abs(cutout.rgba.shape[0] - want.rgba.shape[0]) <= 4


def test_a_cut_out_whose_background_is_removed_stays_what_it_is() -> None:
    data = encode(vase(320, 240))
    cutter = Cutter(model=BackgroundModel(open_session=lambda _: ColorSession()))
    cutout, want = cutter.cut_out(data, remove_background="always"), cutter.cut_out(data)
    assert (cutout.background, want.background) == ("rembg", "alpha")
    assert cutout.rgba.shape == want.rgba.shape
    assert np.abs(cutout.rgb.astype(int) - want.rgb).mean() < 0.5


def test_a_cut_out_in_which_nothing_is_found_is_used_with_a_warning() -> None:
    grey = with_alpha(Image.new("RGB", (200, 160), (90, 90, 90)), vase().getchannel("A"))
    cutter = Cutter(model=BackgroundModel(open_session=lambda _: ColorSession()))
    cutout = cutter.cut_out(encode(grey), remove_background="always")
    assert cutout.background == "alpha"
    assert "transparency was used" in cutout.warnings[0]
    assert cutout.key == cutter.cut_out(encode(grey)).key


@needs_opencv
def test_grabcut_finds_the_object_in_a_picture_on_a_transparent_canvas() -> None:
    cutter = Cutter(background="grabcut")
    cutout = cutter.cut_out(encode(on_a_canvas()), remove_background="always")
    assert abs(cutout.rgba.shape[0] - cutter.cut_out(encode(photograph())).rgba.shape[0]) <= 2


def test_the_whole_frame_keeps_its_transparency_and_its_size() -> None:
    cutter = Cutter(model=BackgroundModel(open_session=no_session))
    cutout = cutter.cut_out(encode(vase(320, 240)), remove_background=False)
    assert cutout.background == "none"
    assert cutout.rgba.shape == (320, 320, 4)
    assert np.array_equal(cutout.rgba[40:280, :, 3], np.asarray(vase(320, 240))[..., 3])


def test_the_whole_frame_of_a_picture_without_a_visible_pixel_is_what_it_hides() -> None:
    data = encode(with_alpha(photograph(), 0))
    cutter = Cutter(model=BackgroundModel(open_session=no_session))
    want = cutter.cut_out(encode(photograph()), remove_background=False)
    assert cutter.cut_out(data, remove_background=False).key == want.key
    with pytest.raises(InputError, match="everything in it is transparent"):
        cutter.cut_out(data)


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


@pytest.mark.parametrize(("level", "is_found"), [(204, False), (205, True)])
def test_what_is_found_in_a_cut_out_has_an_opaque_pixel(level: int, *, is_found: bool) -> None:
    def faint(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        found = np.full(rgb.shape[:2], 204, np.uint8)
        found[len(found) // 2, 20:] = level
        return found

    cutter = Cutter(background="upstream", remover=faint)
    cutout = cutter.cut_out(encode(vase()), remove_background="always")
    warning = "image: no background was found to remove; the picture's transparency was used"
    assert cutout.background == ("upstream" if is_found else "alpha")
    assert (warning in cutout.warnings) != is_found
