"""Estimate the object's own colour where the picture shows a mix with the background."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]


def estimate_foreground(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Estimate the object's colour at its soft edge.

    Blur-fusion in two passes: M. Forte, "Approximate Fast Foreground Colour Estimation",
    ICIP 2021.

    Args:
        rgb: uint8 [H, W, 3], the picture.
        alpha: uint8 [H, W].

    Returns:
        uint8 [H, W, 3]; pixels with alpha 0 or 255 are unchanged.
    """
    soft = (alpha > 0) & (alpha < 255)  # noqa: PLR2004 - opaque
    if not soft.any():
        return rgb
    ndimage = importlib.import_module("scipy.ndimage")

    def blurred(values: Floats, radius: int) -> Floats:
        for axis in (0, 1):
            values = ndimage.uniform_filter1d(values, 2 * radius + 1, axis=axis, mode="nearest")
        return values

    image = rgb.astype(np.float32)
    weight = (alpha.astype(np.float32) / 255)[..., None]
    front: Floats = image
    back: Floats = image
    # Squared, unlike in the paper: pixels that are mostly object say more about its colour.
    is_front, is_back = weight**2, (1 - weight) ** 2
    for radius in (45, 4):
        front = blurred(front * is_front, radius) / (blurred(is_front, radius) + 1e-6)
        back = blurred(back * is_back, radius) / (blurred(is_back, radius) + 1e-6)
        front = front + weight * (image - weight * front - (1 - weight) * back)
        front = np.clip(front, 0, 255)
    # Where the object dominates the mix, subtracting the background gives the exact colour.
    exact = np.clip((image - (1 - weight) * back) / np.maximum(weight, 0.3), 0, 255)
    front += np.clip((weight - 0.3) / 0.7, 0, 1) * (exact - front)
    result = rgb.copy()
    result[soft] = (front[soft] + 0.5).astype(np.uint8)
    return result
