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
    search_box,
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


def object_with(share_of_faint: float, *, color: int = 200, side: int = 100) -> Image.Image:
    """An opaque square, and faint pixels apart from it: a share of the square's, in rows."""
    rgba = np.zeros((400, 500, 4), np.uint8)
    rgba[100 : 100 + side, 100 : 100 + side] = 255
    count = round(share_of_faint * side * side)
    for row in range(-(-count // 50)):
        rgba[300 + row, 400 : 400 + min(50, count - 50 * row)] = (color, 0, 0, 26)
    return Image.fromarray(rgba)


@pytest.mark.parametrize(
    ("share", "color", "warning"),
    [
        (0.0199, 200, None),
        (0.02, 200, PARTLY_TRANSLUCENT),
        (0.05, 200, PARTLY_TRANSLUCENT),
        (0.05, 48, PARTLY_TRANSLUCENT),
        (0.05, 47, SHADOW),
    ],
)
def test_faint_pixels_count_from_a_share_of_the_opaque_ones(
    share: float, color: int, warning: str | None
) -> None:
    box, found = find_box(np.array(object_with(share, color=color)))
    assert found == warning
    rows = round(share * 10_000) // 50
    wide = (100, 100, 300 + rows, 450)
    assert box == (wide if warning == PARTLY_TRANSLUCENT else (100, 100, 200, 200))


@pytest.mark.parametrize("side", [80, 100, 300])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_soft_edge_is_two_pixels_or_two_percent_of_the_side(side: int, axis: int) -> None:
    reach = max(2, round(0.02 * side))
    for faint, is_framed in ((reach, False), (reach + 8, True)):
        rgba = np.zeros((400, 420, 4), np.uint8)
        rgba[40 - faint : 40, 40 : 40 + side] = (99, 99, 99, 60)
        rgba[40 + side : 40 + side + faint, 40 : 40 + side] = (99, 99, 99, 60)
        rgba[40 : 40 + side, 40 : 40 + side] = 255
        top, bottom = (40 - faint, 40 + side + faint) if is_framed else (40, 40 + side)
        box, _ = find_box(rgba if axis == 0 else rgba.swapaxes(0, 1))
        wanted = (top, 40, bottom, 40 + side)
        assert box == (wanted if axis == 0 else (40, top, 40 + side, bottom))


@pytest.mark.parametrize(("share", "is_framed"), [(0.94, True), (0.96, False)])
def test_a_shadow_may_have_a_few_brighter_pixels(share: float, *, is_framed: bool) -> None:
    image = np.array(object_with(0.05, color=10))
    faint = np.argwhere(image[..., 3] == 26)
    for row, column in faint[: round((1 - share) * len(faint))]:
        image[row, column, 1] = 200
    _, warning = find_box(image)
    assert warning == (PARTLY_TRANSLUCENT if is_framed else SHADOW)


@pytest.mark.parametrize(("share", "is_veil"), [(0.895, False), (0.9, True)])
def test_a_veil_covers_most_of_the_border(share: float, *, is_veil: bool) -> None:
    rgba = np.full((100, 100, 4), (250, 250, 250, 30), np.uint8)
    clear = round((1 - share) * 400)  # of the border, in which corners count twice
    rgba[1 : 1 + clear // 2, [0, -1]] = 0
    rgba[40:60, 40:60] = 255
    box, warning = find_box(rgba)
    assert warning == (None if is_veil else PARTLY_TRANSLUCENT)
    assert box == ((40, 40, 60, 60) if is_veil else (0, 0, 100, 100))


@pytest.mark.parametrize(("filled", "is_rectangle"), [(0.89, False), (0.91, True)])
def test_a_rectangle_with_rounded_corners_is_searched_alone(
    filled: float, *, is_rectangle: bool
) -> None:
    alpha = np.zeros((60, 90), np.uint8)
    alpha[10:50, 20:80] = 26
    count = round((1 - filled) * 40 * 60 / 4)
    for rows, columns in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        corner = alpha[10:50, 20:80][::rows, ::columns]
        for at in range(count):
            corner[at // 20, at % 20] = 25
    assert search_box(alpha) == ((10, 20, 50, 80) if is_rectangle else (0, 0, 60, 90))
    assert search_box(np.zeros((60, 90), np.uint8)) == (0, 0, 60, 90)


@pytest.mark.parametrize(
    ("border", "inside", "is_background"),
    [
        (0.19, 0.3, False),
        (0.21, 0.3, True),
        (0.9, 0.045, False),
        (0.9, 0.055, True),
        (0, 0.51, True),
    ],
)
def test_a_background_has_a_share_of_the_border_and_of_the_frame(
    border: float, inside: float, *, is_background: bool
) -> None:
    alpha = np.full((100, 100), 128, np.uint8)
    ring = [(row, 0) for row in range(1, 99)] + [(row, 99) for row in range(1, 99)]
    ring += [(0, column) for column in range(1, 99)] + [(99, column) for column in range(1, 99)]
    rows, columns = np.array(ring[: round(border * 400)], int).reshape(-1, 2).T
    alpha[rows, columns] = 127
    count = round(inside * 10_000) - len(rows)
    flat = alpha[1:99, 1:99].copy().reshape(-1)
    flat[:count] = 127
    alpha[1:99, 1:99] = flat.reshape(98, 98)
    assert is_cut_out(alpha) == is_background


@pytest.mark.parametrize("top", [26, 100, 204])
def test_a_faint_picture_is_stretched_to_its_most_opaque_percent(top: int) -> None:
    alpha = np.full((100, 100), 26, np.uint8)
    alpha[:10, :10] = top
    alpha[50:, :] = 25  # invisible
    alpha[0, 0] = 255 if top < 204 else top
    found = stretch_alpha(alpha)
    assert found is not None
    assert found[5, 5] == 255
    assert found[20, 20] == int(26 * 255 / top + 0.5)
    assert found[70, 70] == int(25 * 255 / top + 0.5)
    assert found[0, 0] == 255
    alpha[alpha == 26] = 0
    alpha[:5, :10] = 205  # now half of what is visible
    assert stretch_alpha(alpha) is None
