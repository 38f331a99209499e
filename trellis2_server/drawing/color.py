"""Conversion between sRGB and linear light (IEC 61966-2-1); values from 0 to 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def encode_srgb(linear: NDArray[Any]) -> NDArray[Any]:
    """Convert linear light to sRGB."""
    low = linear * 12.92
    high = 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, low, high)  # noqa: PLR2004


def decode_srgb(encoded: NDArray[Any]) -> NDArray[Any]:
    """Convert sRGB to linear light."""
    high = ((encoded + 0.055) / 1.055) ** 2.4
    return np.where(encoded <= 0.04045, encoded / 12.92, high)  # noqa: PLR2004
