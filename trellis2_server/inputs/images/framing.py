"""Crop a picture to a square around its object, as TRELLIS.2 does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.errors import InputError
from trellis2_server.inputs.images.transparency import OPAQUE_ALPHA, Box, box_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.inputs.images.cutout import Background

#: Minimum of the longer side of the object's box, in pixels.
MIN_OBJECT_PX: Final = 16
#: Below this there is a warning: engines enlarge the object to 512 pixels or more.
FEW_PX: Final = 48


def crop_to_object(
    rgba: NDArray[np.uint8], background: Background, box: Box | None = None
) -> NDArray[np.uint8]:
    """Crop to the square around the object's box; empty where it exceeds the picture.

    Args:
        rgba: uint8 [H, W, 4], straight alpha.
        background: how the object was found; for the error message.
        box: the object's box; None: that of the pixels with alpha over 204.

    Returns:
        uint8 [S, S, 4]; colour under alpha 0 is 0.

    Raises:
        InputError: the picture has no object, or one smaller than 16 pixels.
    """
    box = box or box_of(rgba[..., 3] > OPAQUE_ALPHA)
    if box is None:
        reason = {
            "alpha": "everything in it is transparent",
            "none": "it is empty",
        }.get(background, "nothing is left after the background was removed")
        raise InputError(f"image: no object was found, {reason}")
    top, left, bottom, right = box
    height, width = bottom - top, right - left
    side = max(height, width)
    if side < MIN_OBJECT_PX:
        raise InputError(
            f"image: no object was found, only {width} x {height} pixels are left; "
            f"at least {MIN_OBJECT_PX} are needed"
        )
    top -= (side - height) // 2
    left -= (side - width) // 2
    square = np.zeros((side, side, 4), np.uint8)
    y0, x0 = max(top, 0), max(left, 0)
    part = rgba[y0 : top + side, x0 : left + side]
    square[y0 - top :, x0 - left :][: part.shape[0], : part.shape[1]] = part
    # Hidden colour differs between file formats. (Multiplying is ten times faster than a mask.)
    square.view(np.uint32)[..., 0] *= square[..., 3] > 0
    return square


def warn_of_few_pixels(square: NDArray[np.uint8]) -> list[str]:
    """Return a sentence for the client if a square has fewer than `FEW_PX` pixels along an edge."""
    if len(square) >= FEW_PX:
        return []
    told = f"the object is only {len(square)} pixels large in the picture, so the model has little "
    return [told + "detail; a larger picture shows more"]
