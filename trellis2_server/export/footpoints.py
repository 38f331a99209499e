"""Points of a textured surface that are closest to given places, each within one chart.

A coarser level of detail has its vertices beside the finest one's surface. What is seen there is
what the finest one has at the footpoint: texture coordinates, normal, tangent.

Does not know: decimation, files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trellis2_server.export.adjacency import corner_lists, twins
from trellis2_server.export.kernels import footpoints as kernels
from trellis2_server.export.parallel import parallel_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.export.atlas import Atlas
    from trellis2_server.mesh import Mesh


@dataclass(frozen=True, slots=True, eq=False)
class Footpoints:
    """Points on faces of a mesh.

    Attributes:
        faces: int32 [P].
        shares: float32 [P, 3], of the corners of the face: barycentric coordinates. Some are
            negative where the point lies in the gutter around a chart.
        distances: float32 [P], from the place to the chart; infinite for those that were held.
    """

    faces: NDArray[np.int32]
    shares: NDArray[np.float32]
    distances: NDArray[np.float32]

    def interpolate(
        self, values: NDArray[np.float32], faces: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Return the values at the points, float32 [P, C].

        Args:
            values: float32 [M, C].
            faces: int32 [F, 3], rows of `values`.
        """
        corners = faces[self.faces]
        found = self.shares[:, :1] * values[corners[:, 0]]
        for k in (1, 2):
            found += self.shares[:, k : k + 1] * values[corners[:, k]]
        return found


def find_footpoints(  # noqa: PLR0913, PLR0917 - one argument per input
    points: NDArray[np.float32],
    rows: NDArray[np.int32],
    is_held: NDArray[np.bool_],
    mesh: Mesh,
    atlas: Atlas,
    gutter: float,
) -> Footpoints:
    """Return the closest points of charts to places.

    Args:
        points: float32 [P, 3].
        rows: int32 [P], of the atlas, near the point: the search starts there and remains in the
            chart. Where the surface turns away, it may end at a point that is only the closest of
            those around.
        is_held: bool [P], points whose footpoint is that of the row itself.
        mesh: of the atlas.
        atlas: each row has a face.
        gutter: how far beyond the rim of its chart a point may lie, texels.
    """
    count = len(points)
    is_rim = twins(atlas.faces, len(atlas.uv)) < 0
    first, corners = corner_lists(atlas.faces, len(atlas.uv))
    faces, distances = np.empty(count, np.int32), np.empty(count, np.float32)
    shares = np.empty((count, 3), np.float32)
    parallel_for(
        kernels.find_footpoints, count, points, rows, is_held, mesh.vertices, mesh.faces,
        atlas.uv, atlas.faces, is_rim, float(gutter), first, corners, faces, shares, distances,
        grain=512,
    )  # fmt: skip
    return Footpoints(faces, shares, distances)
