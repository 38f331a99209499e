"""Distance of a mesh from the surface that it approximates.

Does not know: colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.export.bake import closest_points, index_faces
from trellis2_server.export.kernels import bake as kernels
from trellis2_server.export.parallel import parallel_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.export.bake import Surface
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


def normal_deviation(original: Mesh, mesh: Mesh, index: Surface | None = None) -> float:
    """Return the median angle between a mesh's faces and those of the original, degrees.

    Args:
        original: checked. The winding of its faces does not matter.
        mesh: checked.
        index: of the original's faces; None: make one.
    """
    index = index_faces(original) if index is None else index
    corners = mesh.vertices[_evenly(mesh.faces)].astype(np.float64)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=1)
    cosines = np.empty(len(corners))
    parallel_for(
        kernels.compare_normals, len(corners), corners.mean(axis=1),
        cross / np.maximum(area, 1e-30)[:, None], *index, cosines,
    )  # fmt: skip
    # The median of the area, not of the faces: small faces lie where the surface is curved.
    order = np.argsort(cosines)[::-1]
    share = np.cumsum(area[order])
    middle = int(np.searchsorted(share, share[-1] / 2))
    return float(np.degrees(np.arccos(min(1.0, cosines[order[min(middle, len(order) - 1)]]))))


def _evenly(rows: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return some rows, always the same ones."""
    count = min(_SAMPLES, len(rows))
    return rows[np.arange(count, dtype=np.int64) * len(rows) // count]
