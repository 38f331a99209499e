"""Small meshes, their projections as one chart, and the texels that faces cover."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from tests.support import shapes
from trellis2_server.export.charts import Charts, project_charts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.mesh import Mesh

    Floats = NDArray[np.float64]


def bent(rows: int = 5, columns: int = 4) -> Mesh:
    """A sheet that no plane fits, with faces of different sizes."""

    def place(u: Floats, v: Floats) -> Floats:
        return np.stack([0.8 * u * u + 0.2 * v, v, 0.5 * np.sin(2 * u) * v], -1) * 0.6

    return shapes.grid(rows, columns, place, wraps=(False, False))


def whole(mesh: Mesh, *axis: float) -> Charts:
    """All faces as one chart."""
    unit = np.array([axis], np.float32) / np.float32(np.linalg.norm(axis))
    return project_charts(mesh, np.zeros(len(mesh.faces), np.int32), unit)


def corners(mesh: Mesh) -> Floats:
    return mesh.vertices[mesh.faces].astype(np.float64)


def crossed(mesh: Mesh) -> Floats:
    a, b, c = np.moveaxis(corners(mesh), 1, 0)
    return np.cross(b - a, c - a)


def covered(points: Floats, faces: NDArray[np.integer]) -> list[set[tuple[int, int]]]:
    """The texels whose centres each face contains; no centre lies on an edge."""
    texels: list[set[tuple[int, int]]] = []
    for a, b, c in points[faces]:
        low = np.floor(np.minimum(np.minimum(a, b), c)).astype(int)
        high = np.ceil(np.maximum(np.maximum(a, b), c)).astype(int)
        found: set[tuple[int, int]] = set()
        for x, y in product(range(low[0], high[0] + 1), range(low[1], high[1] + 1)):
            at = np.array([x + 0.5, y + 0.5])
            sides = [
                (q[0] - p[0]) * (at[1] - p[1]) - (q[1] - p[1]) * (at[0] - p[0])
                for p, q in ((a, b), (b, c), (c, a))
            ]
            if min(sides) > 0 or max(sides) < 0:
                found.add((x, y))
        texels.append(found)
    return texels


def overlapping(points: Floats, faces: NDArray[np.integer]) -> int:
    """The number of faces that cover texels of earlier ones."""
    taken: set[tuple[int, int]] = set()
    count = 0
    for texels in covered(points, faces):
        count += bool(texels & taken)
        taken |= texels
    return count
