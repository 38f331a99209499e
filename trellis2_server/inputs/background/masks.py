"""Clean up object masks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def mask_to_alpha(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn a model's mask into alpha: soft at the edge, solid inside, empty outside.

    Models leave specks in the background and grain where they are unsure of the object. Holes
    stay where the model is sure of them.

    Args:
        mask: uint8 [H, W].

    Returns:
        uint8 [H, W].
    """
    ndimage = importlib.import_module("scipy.ndimage")
    share = mask.astype(np.float32) / 255
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
