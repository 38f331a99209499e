"""Rasterise atlases in tests, independently of the exporter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from trellis2_server.export.atlas import Atlas


def texels(atlas: Atlas) -> np.ndarray:
    """Number of faces that cover the centre of each texel, without those on an edge."""
    count = np.zeros((atlas.size_px, atlas.size_px), int)
    for corner in atlas.uv[atlas.faces].astype(np.float64):
        low = np.floor(corner.min(0)).astype(int)
        high = np.ceil(corner.max(0)).astype(int)
        x, y = np.meshgrid(np.arange(low[0], high[0]) + 0.5, np.arange(low[1], high[1]) + 0.5)
        sides = []
        for k in range(3):
            (ax, ay), (bx, by) = corner[k], corner[(k + 1) % 3]
            sides.append((bx - ax) * (y - ay) - (by - ay) * (x - ax))
        side = np.stack(sides)
        inside = (side > 1e-7).all(0) | (side < -1e-7).all(0)
        count[low[1] : high[1], low[0] : high[0]] += inside
    return count
