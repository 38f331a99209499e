"""Clean up object masks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final, cast

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


#: Values of a mask: sure of the object, and not sure of the background.
_SURE, _DOUBTFUL = 204, 64
#: Least share of sure pixels among the doubtful ones. Objects have over half, walls and skies a
#: tenth: models stretch their masks to full range, whatever they see.
_SURE_SHARE: Final = 0.2

#: Share of the mask under which a pixel is surely background.
_OUTSIDE_SHARE: Final = 0.05
#: Share of the mask over which a pixel, and on average a hole, is surely the object's.
_INSIDE_SHARE, _HOLE_SHARE = 0.92, 0.85
#: Greatest median distance of a plain background's colours from a smooth surface.
_PLAIN_DEVIATION: Final = 6.0
#: Least area of a hole, and of the background that it is compared with, as a share of the frame.
_HOLE_AREA, _OUTSIDE_AREA = 1 / 2000, 1 / 20
_FIT_PIXELS: Final = 20_000


def mask_to_alpha(
    mask: NDArray[np.uint8], rgb: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Turn a model's mask into alpha: soft at the edge, solid inside, empty outside.

    Models leave specks in the background and grain where they are unsure of the object. Holes
    stay where the model is sure of them, and where a plain background is seen through them. A mask
    that is sure of next to nothing is empty.

    Args:
        mask: uint8 [H, W].
        rgb: the picture, uint8 [H, W, 3].

    Returns:
        uint8 [H, W].
    """
    ndimage = importlib.import_module("scipy.ndimage")
    if np.count_nonzero(mask > _SURE) < _SURE_SHARE * np.count_nonzero(mask > _DOUBTFUL):
        return np.zeros_like(mask)
    share = mask.astype(np.float32) / 255
    if rgb is not None:
        share[_find_holes(share, rgb)] = 0
    square = np.ones((3, 3), bool)
    level = ndimage.gaussian_filter(share, 1.0)
    sure = remove_small_parts(level > 0.75, least=1 / 300)  # noqa: PLR2004
    # Uncertain pixels count only next to certain ones.
    solid = (level > 0.45) & ndimage.binary_dilation(sure, square, iterations=4)  # noqa: PLR2004
    holes, count = ndimage.label(~solid)
    if count:
        doubt = np.bincount(holes.ravel(), share.ravel()) / np.maximum(
            np.bincount(holes.ravel()), 1
        )
        doubtful = doubt > 0.15  # noqa: PLR2004
        doubtful[0] = False
        doubtful[holes[[0, -1], :]] = False  # regions that touch the frame are not holes
        doubtful[holes[:, [0, -1]]] = False
        solid |= doubtful[holes]
    inside = ndimage.binary_erosion(solid, square, iterations=7, border_value=1)
    around = ndimage.binary_dilation(solid, square, iterations=3)
    # Stretch "nearly empty … nearly full" to 0 … 1: no veil, no see-through rim.
    alpha = np.clip((share - 0.05) / 0.9, 0, 1) * around
    alpha[inside] = 1
    return (alpha * 255 + 0.5).astype(np.uint8)


def _find_holes(share: NDArray[np.float64], rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Find holes in an object through which a plain background is seen.

    Its colour outside of the object is fitted with a quadratic surface in each channel.

    Args:
        share: the mask, float64 [H, W], 0 … 1.
        rgb: uint8 [H, W, 3].

    Returns:
        bool [H, W]; nothing without a plain background.
    """
    ndimage = importlib.import_module("scipy.ndimage")
    none = np.zeros(share.shape, bool)
    is_outside = share < _OUTSIDE_SHARE
    is_doubtful = ~is_outside & (share < _INSIDE_SHARE)
    if is_outside.mean() < _OUTSIDE_AREA or is_doubtful.mean() < _HOLE_AREA:
        return none
    height, width = share.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    colors = rgb.astype(np.float32)
    step = max(np.count_nonzero(is_outside) // _FIT_PIXELS, 1)
    basis, known = terms[is_outside][::step], colors[is_outside][::step]
    surface = np.linalg.lstsq(basis, known, rcond=None)[0]
    deviation = float(np.median(np.linalg.norm(known - basis @ surface, axis=1)))
    if deviation > _PLAIN_DEVIATION:
        return none
    distance = np.linalg.norm(colors - terms @ surface, axis=2)
    is_seen = ndimage.binary_opening(distance <= 3 * deviation + 3, np.ones((3, 3), bool))
    labels, count = ndimage.label(is_seen & is_doubtful)
    if not count:
        return none
    areas = np.bincount(labels.ravel())
    means = np.bincount(labels.ravel(), share.ravel()) / np.maximum(areas, 1)
    is_hole = (areas >= _HOLE_AREA * share.size) & (means < _HOLE_SHARE)
    is_hole[0] = False
    return is_hole[labels]


def remove_small_parts(mask: NDArray[np.bool_], least: float = 1 / 50) -> NDArray[np.bool_]:
    """Remove parts smaller than `least` times the largest part.

    Args:
        mask: bool [H, W]; diagonal neighbours are connected.
        least: share of the largest part's area.
    """
    ndimage = importlib.import_module("scipy.ndimage")
    labels, count = ndimage.label(mask, np.ones((3, 3), bool))
    if not count:
        return mask
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    return cast("NDArray[np.bool_]", (areas >= areas.max() * least)[labels])
