"""Several pictures of one object: squares of one size, at a common scale."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.pictures import bounding_box, encode, png_that_declares, vase
from tests.support.server import picture
from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.images import Cutout, Cutter, PictureSet
from trellis2_server.inputs.images.cutter import PIXELS_TOGETHER
from trellis2_server.inputs.images.views import MAX_EDGE_PX, sheet, square_alike
from trellis2_server.request_fields import SIDES

Picture = NDArray[np.uint8]


def block(height: int, width: int) -> Picture:
    """A square that a block touches."""
    edge = max(height, width)
    rgba = np.zeros((edge, edge, 4), np.uint8)
    top, left = (edge - height) // 2, (edge - width) // 2
    rgba[top : top + height, left : left + width] = (200, 90, 30, 255)
    return rgba


def extents(squares: list[Picture]) -> list[tuple[int, int]]:
    """Height and width of the object in each."""
    boxes = [bounding_box(square[..., 3]) for square in squares]
    return [(bottom - top, right - left) for top, left, bottom, right in boxes]


def test_level_views_show_the_object_at_one_height_in_squares_of_one_size() -> None:
    squares = square_alike([block(100, 60), block(300, 720), block(50, 20)], is_level=True)
    assert {square.shape for square in squares} == {(240, 240, 4)}
    assert extents(squares) == [(100, 60), (100, 240), (100, 40)]
    for square in squares:
        top, left, bottom, right = bounding_box(square[..., 3])
        assert abs(left - (240 - right)) <= 1
        assert abs(top - (240 - bottom)) <= 1
        assert not square[square[..., 3] == 0].any()


def test_other_views_fill_their_squares() -> None:
    squares = square_alike([block(100, 60), block(40, 200)], is_level=False)
    assert extents(squares) == [(100, 60), (20, 100)]


@pytest.mark.parametrize(("width", "edge", "height"), [(1024, 1024, 100), (1025, 1024, 100)])
def test_squares_stay_within_what_a_single_picture_may_have(
    width: int, edge: int, height: int
) -> None:
    squares = square_alike([block(100, 60), block(100, width)], is_level=True)
    assert {square.shape for square in squares} == {(edge, edge, 4)}
    assert extents(squares)[0][0] == height
    squares = square_alike([block(1000, 60), block(100, 400)], is_level=True)
    assert {square.shape for square in squares} == {(MAX_EDGE_PX, MAX_EDGE_PX, 4)}
    assert extents(squares) == [(256, 15), (256, 1024)]


def test_a_line_does_not_vanish() -> None:
    squares = square_alike([block(16, 1000), block(1000, 1)], is_level=True)
    assert all(height >= 1 and width >= 1 for height, width in extents(squares))


def test_a_sheet_shows_all_pictures_in_order() -> None:
    colours = [(at * 25, 0, 0, 255) for at in range(1, 9)]
    squares = [np.full((40, 40, 4), colour, np.uint8) for colour in colours]
    shown = sheet(squares)
    assert shown.shape == (80, 160, 4)
    assert [tuple(shown[20 + 40 * (at // 4), 20 + 40 * (at % 4)]) for at in range(8)] == colours
    assert sheet(squares[:3]).shape == (40, 120, 4)
    assert not sheet(squares[:5])[40:, 40:].any()
    large = [np.full((600, 600, 4), 255, np.uint8)] * 2
    assert sheet(large).shape == (512, 1024, 4)


# ---- from files --------------------------------------------------------------------------


def views_of(*sizes: int, sides: bool = True) -> PictureSet:
    contents = tuple(picture(at, size) for at, size in enumerate(sizes))
    return PictureSet(contents, SIDES[: len(sizes)] if sides else (None,) * len(sizes))


def test_the_first_picture_of_alike_ones_is_its_own_cut_out() -> None:
    single = Cutter().cut_out(picture(0, 64))
    cutout = Cutter().cut_out(views_of(64, 64))
    assert np.array_equal(cutout.rgba, single.rgba)
    assert single.views == ()
    assert [view.side for view in cutout.views] == ["front", "left"]
    assert cutout.image_hash != single.image_hash
    assert cutout.key != single.key


def test_the_hash_is_of_all_pictures_their_sides_and_their_order() -> None:
    first, second = picture(1), picture(2)
    cutouts: list[Cutout] = [
        Cutter().cut_out(PictureSet(contents, sides))
        for contents, sides in (
            ((first, second), (None, None)),
            ((second, first), (None, None)),
            ((first, first), (None, None)),
            ((first, second), ("front", "left")),
            ((first, second), ("front", "back")),
        )
    ]
    assert len({cutout.image_hash for cutout in cutouts}) == len(cutouts)
    assert len({cutout.key for cutout in cutouts}) == len(cutouts)
    again = Cutter().cut_out(PictureSet((picture(1, file_format="WEBP"), second), (None, None)))
    assert again.image_hash == cutouts[0].image_hash


def test_an_error_or_a_warning_names_its_picture() -> None:
    good, bad = encode(vase()), b"no picture"
    with pytest.raises(InputError, match=r"^image_back: not a PNG"):
        Cutter().cut_out(PictureSet((good, bad), ("front", "back")))
    with pytest.raises(InputError, match=r"^images, picture 2: not a PNG"):
        Cutter().cut_out(PictureSet((good, bad), (None, None)))
    faint = vase().convert("RGBA")
    faint.putalpha(faint.getchannel("A").point([at // 4 for at in range(256)]))
    cutout = Cutter().cut_out(PictureSet((good, encode(faint)), (None, None)))
    assert [text.partition(":")[0] for text in cutout.warnings] == ["images, picture 2"]


def test_pixels_are_limited_for_each_picture_and_for_all() -> None:
    cutter = Cutter(max_image_pixels=100 * 100)
    assert len(cutter.cut_out(views_of(*[100] * PIXELS_TOGETHER, sides=False)).views) == 4
    with pytest.raises(TooLargeError, match=r"^image_left: 101 x 101 pixels, .* 10000 pixels$"):
        cutter.cut_out(views_of(100, 101))
    with pytest.raises(TooLargeError, match=r"^images, picture 5: .* \(all together: 40000 pixels"):
        cutter.cut_out(views_of(*[100] * PIXELS_TOGETHER, 20, sides=False))
    with pytest.raises(TooLargeError, match=r"^image_left: 1000 x 1000 pixels"):
        cutter.cut_out(PictureSet((picture(), png_that_declares(1000, 1000)), ("front", "left")))
