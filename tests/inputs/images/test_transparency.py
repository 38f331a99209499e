from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.support.pictures import encode, vase
from trellis2_server.inputs.images import Cutter
from trellis2_server.inputs.images.transparency import (
    PARTLY_TRANSLUCENT,
    SHADOW,
    TRANSLUCENT,
    find_box,
    flatten,
    is_cut_out,
    stretch_alpha,
)


def canvas(*shapes: tuple[tuple[int, int, int, int], tuple[int, int, int, int]]) -> Image.Image:
    """Rectangles of a colour on a transparent canvas of 200 x 300 pixels."""
    image = Image.new("RGBA", (200, 300))
    for box, color in shapes:
        ImageDraw.Draw(image).rectangle(box, fill=color)
    return image


GLASS, LABEL = (120, 200, 170, 110), (240, 235, 220, 255)


def test_the_translucent_parts_of_an_object_are_framed_with_a_warning() -> None:
    bottle = canvas(((50, 20, 149, 279), GLASS), ((60, 140, 139, 199), LABEL))
    cutout = Cutter().cut_out(encode(bottle))
    assert cutout.rgba.shape == (260, 260, 4)
    assert cutout.warnings == (PARTLY_TRANSLUCENT,)
    assert (cutout.rgba[100, 100] == (240, 235, 220, 255)).sum() < 4
    assert tuple(cutout.rgba[5, 130]) == GLASS


@pytest.mark.parametrize("top", [204, 128, 40])
def test_a_faint_object_becomes_opaque_with_a_warning(top: int) -> None:
    image = vase()
    faint = image.copy()
    faint.putalpha(image.getchannel("A").point([round(each * top / 255) for each in range(256)]))
    cutout, want = Cutter().cut_out(encode(faint)), Cutter().cut_out(encode(image))
    assert cutout.warnings == (TRANSLUCENT,)
    assert cutout.rgba.shape == want.rgba.shape
    assert np.abs(cutout.rgba[..., 3].astype(int) - want.rgba[..., 3]).max() <= 4


def test_a_faint_object_with_an_opaque_speck_becomes_opaque() -> None:
    image = canvas(((50, 20, 149, 279), GLASS), ((60, 140, 62, 142), LABEL))
    cutout = Cutter().cut_out(encode(image))
    assert cutout.warnings == (TRANSLUCENT,)
    assert cutout.rgba.shape == (260, 260, 4)


@pytest.mark.parametrize("alpha", [205, 230, 255])
def test_what_trellis_takes_for_opaque_is_not_changed(alpha: int) -> None:
    assert stretch_alpha(np.full((9, 9), alpha, np.uint8)) is None
    assert stretch_alpha(np.zeros((9, 9), np.uint8)) is None


OBJECT = ((50, 50, 149, 149), LABEL)
UNFRAMED = {
    "a speck": (canvas(OBJECT, ((10, 280, 12, 282), GLASS)), None),
    "a soft edge": (canvas(((48, 48, 151, 151), GLASS), OBJECT), None),
    "a veil": (canvas(((0, 0, 199, 299), (250, 250, 250, 30)), OBJECT), None),
    "a shadow": (canvas(((30, 150, 180, 180), (0, 0, 0, 90)), OBJECT), SHADOW),
}


@pytest.mark.parametrize(("image", "warning"), UNFRAMED.values(), ids=UNFRAMED.keys())
def test_what_is_beside_the_object_is_not_framed(image: Image.Image, warning: str | None) -> None:
    assert find_box(np.array(image)) == ((50, 50, 150, 150), warning)


def test_transparency_is_a_background_by_its_share_of_the_border() -> None:
    alpha = np.full((100, 100), 255, np.uint8)
    assert not is_cut_out(alpha)
    alpha[:, :4] = 0
    assert not is_cut_out(alpha)
    alpha[:, :6] = 0
    assert is_cut_out(alpha)


def test_a_frame_around_a_large_hole_is_a_cut_out() -> None:
    alpha = np.full((100, 100), 255, np.uint8)
    alpha[20:80, 20:80] = 0
    assert not is_cut_out(alpha)
    alpha[10:90, 10:90] = 0
    assert is_cut_out(alpha)


@pytest.mark.parametrize(("color", "ground"), [(230, 0), (20, 255)])
def test_a_cut_out_is_flattened_on_a_colour_far_from_its_own(color: int, ground: int) -> None:
    rgba = np.zeros((20, 20, 4), np.uint8)
    rgba[5:15, 5:15] = (color, color, color, 255)
    rgb = flatten(rgba)
    assert (rgb[0] == ground).all()
    assert (rgb[5:15, 5:15] == color).all()


def test_a_hole_in_a_picture_is_filled_with_the_colour_of_its_border() -> None:
    rgba = np.full((20, 20, 4), (90, 120, 150, 255), np.uint8)
    rgba[5:15, 5:15] = 0
    assert (flatten(rgba) == (90, 120, 150)).all()
