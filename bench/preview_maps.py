"""Depth, normals and colours of a model's sides, on the pixels of a picture.

Does not know: engines, how the picture was made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from trellis2_server.drawing import draw_model, load_glb
from trellis2_server.drawing.interpolation import interpolate
from trellis2_server.drawing.model import make_pyramid
from trellis2_server.drawing.rasterizer import rasterize

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

#: Edge of the views of which the contrast is compared.
_VIEW_PX: Final = 512
#: What is farther from the outline than this share of the farthest place is the middle.
_MIDDLE: Final = 0.4


@dataclass(frozen=True)
class FrontMaps:
    """The front of a model on the pixels of a picture, [S, S], rows downward.

    Attributes:
        covered: where the model is.
        depth: toward the viewer, in pixels; 0 outside.
        normals: unit normals in glTF's frame, [S, S, 3].
        depth_per_width: extent along the line of sight over that from left to right.
    """

    covered: Array
    depth: Array
    normals: Array
    depth_per_width: float


def front_maps(glb: bytes, mask: Array) -> FrontMaps:
    """Return the maps of a model whose box from the front is laid over that of a mask.

    The boxes have the same centre and the same longer side.

    Args:
        glb: the model.
        mask: where the object is in the picture, bool [S, S].
    """
    model = load_glb(glb)
    n = len(mask)
    rows, columns = np.nonzero(mask)
    left, right, top, bottom = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    used = model.positions[np.unique(model.faces)]
    low, high = used.min(0).astype(np.float64), used.max(0).astype(np.float64)
    scale = max(right - left, bottom - top) / float((high - low)[:2].max())
    points = model.positions.astype(np.float64)
    points -= (low + high) / 2
    points *= (scale, -scale, scale)
    points += ((left + right) / 2, (top + bottom) / 2, 0)
    owner, depth = rasterize(points, model.faces, n, cull=True)
    sample = np.flatnonzero(owner >= 0)
    _, normal = interpolate(model, make_pyramid(model.texture), points, owner, sample)
    normals = np.zeros((n * n, 3))
    normals[sample] = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    size = high - low
    return FrontMaps(
        (owner >= 0).reshape(n, n),
        np.where(owner >= 0, depth, 0).reshape(n, n),
        normals.reshape(n, n, 3),
        float(size[2] / size[0]),
    )


def spearman(first: Array, second: Array) -> float:
    """Return the rank correlation of two lists of values; 0 if one of them is constant."""
    ranks = [_ranks(values) for values in (first, second)]
    deviations = [rank - rank.mean() for rank in ranks]
    scale = float(np.sqrt(np.prod([(each**2).sum() for each in deviations])))
    return float((deviations[0] * deviations[1]).sum() / scale) if scale else 0.0


def _ranks(values: Array) -> Array:
    """Return the rank of each value; equal values share the mean of their ranks."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def angles(first: Array, second: Array) -> Array:
    """Return the angles between unit vectors [..., 3], degrees."""
    return np.degrees(np.arccos(np.clip((first * second).sum(-1), -1, 1)))


def back_contrast(glb: bytes, size_px: int = _VIEW_PX) -> float:
    """Return the contrast of the back's middle over that of the front's.

    The contrast is the standard deviation of the lightness (L* of CIELAB). Unlit views.

    Args:
        glb: the model.
        size_px: edge of the views, pixels.
    """
    model = replace(load_glb(glb), alpha_mode="OPAQUE")
    spreads: list[float] = []
    for view in ("front", "back"):
        shown = draw_model(model, size_px=size_px, view=view, shading="unlit")
        inside = np.pad(shown[..., 3] == 255, 1).astype(np.uint8)
        away = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
        middle = away > _MIDDLE * away.max()
        rgb = shown[..., :3].astype(np.float32) / np.float32(255)
        lightness = cv2.cvtColor(rgb, cv2.COLOR_RGB2Lab)[..., 0]
        spreads.append(float(lightness[middle].std()))
    return spreads[1] / max(spreads[0], 1e-9)
