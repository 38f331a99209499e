from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.support.pictures import bounding_box, encode, vase
from trellis2_server.errors import InputError
from trellis2_server.inputs.images import Cutter
from trellis2_server.inputs.images.framing import crop_to_object


def test_the_cut_out_is_square_and_its_object_touches_the_frame_in_the_middle() -> None:
    cutout = Cutter().cut_out(encode(vase()))
    assert cutout.background == "alpha"
    assert cutout.warnings == ()
    side = cutout.rgba.shape[0]
    assert cutout.rgba.shape == (side, side, 4)
    top, left, bottom, right = bounding_box(cutout.rgba[..., 3])
    assert (top, bottom) == (0, side)
    assert abs(left - (side - right)) <= 1


def test_a_picture_within_the_limit_is_cropped_and_not_resampled() -> None:
    image = vase()
    top, left, bottom, right = bounding_box(np.asarray(image)[..., 3])
    cutout = Cutter().cut_out(encode(image))
    part = np.asarray(image)[top:bottom, left:right].copy()
    part[part[..., 3] == 0] = 0
    start = (cutout.rgba.shape[1] - (right - left)) // 2
    assert np.array_equal(cutout.rgba[:, start : start + right - left], part)


def test_transparent_and_tiny_objects_are_refused() -> None:
    empty = Image.new("RGBA", (100, 100), (9, 9, 9, 0))
    invisible = Image.new("RGBA", (100, 100), (9, 9, 9, 25))
    for image in (empty, invisible):
        with pytest.raises(InputError, match="no object was found, everything in it is trans"):
            Cutter().cut_out(encode(image))
    tiny = empty.copy()
    tiny.paste((9, 9, 9, 255), (20, 20, 35, 30))
    with pytest.raises(InputError, match="only 15 x 10 pixels are left"):
        Cutter().cut_out(encode(tiny))
    tiny.paste((9, 9, 9, 255), (20, 20, 36, 30))
    assert Cutter().cut_out(encode(tiny)).rgba.shape == (16, 16, 4)


def test_the_square_is_empty_outside_the_picture_and_hides_no_colour() -> None:
    rgba = np.full((20, 40, 4), 255, np.uint8)
    rgba[:, 30:, 3] = 0
    square = crop_to_object(rgba, "alpha")
    assert square.shape == (30, 30, 4)
    assert (square[5:25] == 255).all()
    assert not square[:5].any()
    assert not square[25:].any()


@pytest.mark.parametrize(("size", "is_said"), [(47, True), (48, False)])
def test_an_object_of_few_pixels_has_a_warning(size: int, *, is_said: bool) -> None:
    image = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
    image.paste((200, 30, 30, 255), (10, 10, 10 + size // 2, 10 + size))
    warnings = Cutter().cut_out(encode(image)).warnings
    told = (
        f"the object is only {size} pixels large in the picture, so the model has little detail; a "
        "larger picture shows more"
    )
    assert warnings == ((told,) if is_said else ())
