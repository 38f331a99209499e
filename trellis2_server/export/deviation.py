"""Distance of a mesh from the surface that it approximates.

Does not know: colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.export.bake import closest_points

if TYPE_CHECKING:
    from trellis2_server.mesh import Mesh

#: Number of points at which the distance is measured.
_SAMPLES: Final = 20_000


@dataclass(frozen=True, slots=True)
class Deviation:
    """Distances from points of one surface to another surface, in voxels.

    Attributes:
        p99: 99th percentile.
        largest: maximum.
    """

    p99: float
    largest: float


def deviation(original: Mesh, mesh: Mesh, resolution: int) -> Deviation:
    """Measure the distance of the vertices of `original` from `mesh`.

    Args:
        original: checked.
        mesh: checked.
        resolution: voxels along an edge of the unit cube.
    """
    # Evenly spaced rows: the same mesh always has the same deviation.
    count = len(original.vertices)
    rows = np.arange(min(_SAMPLES, count), dtype=np.int64) * count // min(_SAMPLES, count)
    points = original.vertices[rows].astype(np.float64)
    distance = np.linalg.norm(closest_points(points, mesh) - points, axis=1) * resolution
    return Deviation(float(np.quantile(distance, 0.99)), float(distance.max()))
