"""Colour of a surface under three lights that are fixed to the camera."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trellis2_server.client.drawing.color import decode_srgb, encode_srgb

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: `unlit`: the base colour; `lit`: under lights; `clay`: grey under lights.
Shading = Literal["unlit", "lit", "clay"]


def shade(
    color: NDArray[Any], normal: NDArray[Any], axes: NDArray[Any], shading: Shading
) -> NDArray[Any]:
    """Return the colours under a key light, a fill light and a sky light.

    Args:
        color: base colours, sRGB, 0 to 255, [N, 3].
        normal: normals in glTF's frame, [N, 3].
        axes: the camera's axes, see `axes_of`.
        shading: how to shade.
    """
    if shading == "unlit":
        return color
    base = np.full_like(color, 0.62) if shading == "clay" else decode_srgb(color / 255)
    unit = normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
    local = unit @ axes.T
    key = np.clip(local @ np.array([-0.45, 0.65, 0.61]), 0, None)
    fill = np.clip(local @ np.array([0.80, 0.10, 0.59]), 0, None)
    light = 0.22 + 0.16 * (local[..., 1] * 0.5 + 0.5) + 0.80 * key + 0.18 * fill
    return 255 * np.clip(encode_srgb(base * light[..., None]), 0, 1)
