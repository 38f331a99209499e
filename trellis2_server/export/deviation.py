"""How far a mesh is from the surface that it stands for.

What this module does not know: how it got there, colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.export.bake import project

if TYPE_CHECKING:
    from trellis2_server.mesh import Mesh

#: Places at which the distance is measured.
_SAMPLES: Final = 20_000


@dataclass(frozen=True, slots=True)
class Deviation:
    """Distances from one surface to another, in voxels.

    Attributes:
        p99: of a hundred places, all but one are closer than that.
        largest: the farthest of those that were looked at.
    """

    p99: float
    largest: float


def deviation(original: Mesh, mesh: Mesh, resolution: int) -> Deviation:
    """How far the vertices of `original` are from `mesh`.

    Args:
        original: checked.
        mesh: checked.
        resolution: voxels along an edge of the unit cube.
    """
    # Evenly spread over the rows, so the same mesh always has the same deviation.
    count = len(original.vertices)
    rows = np.arange(min(_SAMPLES, count), dtype=np.int64) * count // min(_SAMPLES, count)
    places = original.vertices[rows].astype(np.float64)
    distance = np.linalg.norm(project(places, mesh) - places, axis=1) * resolution
    return Deviation(float(np.quantile(distance, 0.99)), float(distance.max()))
