"""`TriangleTree`: which triangles of a mesh touch each other, and which ones a ray meets.

Does not know: what the mesh shows, how it was made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.export.cancellation import call
from trellis2_server.export.kernels import rays
from trellis2_server.export.kernels import triangles as kernels
from trellis2_server.export.parallel import parallel_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.mesh import Mesh

#: Triangles of a leaf, as `kernels.triangles` counts on it.
_LEAF: Final = 4
#: Bits of a coordinate in the order along which triangles are put into leaves.
_BITS: Final = 10
#: Fewest triangles that a thread takes at a time.
_GRAIN: Final = 512


def count_fans(twin: NDArray[np.int32]) -> int:
    """Return the number of fans of faces around vertices: one for each vertex of a manifold.

    Args:
        twin: int32 [3 F], see `adjacency.twins`, of a closed mesh with consistent winding.
    """
    return call(kernels.count_fans, twin, np.zeros(len(twin), bool))


class TriangleTree:
    """The triangles of a mesh in a tree of boxes.

    Args:
        mesh: at least one face.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._vertices, self._faces = mesh.vertices, np.ascontiguousarray(mesh.faces)
        middle = mesh.vertices[mesh.faces].mean(axis=1)
        low = middle.min(axis=0)
        scale = (2**_BITS - 1) / max(float((middle.max(axis=0) - low).max()), 1e-30)
        place = ((middle - low) * scale).astype(np.int64)
        code = np.zeros(len(place), np.int64)
        for bit in range(_BITS):
            for axis in range(3):
                code |= (place[:, axis] >> bit & 1) << 3 * bit + axis
        self._order = np.argsort(code, kind="stable").astype(np.int32)
        leaves = 1 << (-(-len(place) // _LEAF) - 1).bit_length()
        self._boxes = np.empty((2 * leaves - 1, 6))
        self.move(mesh.vertices)

    def move(self, vertices: NDArray[np.float32]) -> None:
        """Fit the boxes to other positions of the vertices, float32 [N, 3]."""
        self._vertices = vertices
        leaves = len(self._boxes) // 2 + 1
        parallel_for(kernels.bound_leaves, leaves, vertices, self._faces, self._order, self._boxes)
        call(kernels.bound_nodes, self._boxes)

    def find_touching(self, wanted: NDArray[np.int32] | None = None) -> NDArray[np.int32]:
        """Return a face that each face touches beside their common corners and edge; -1: none.

        Faces that rounding may have moved onto each other count as touching; a face without an area
        touches itself.

        Args:
            wanted: int32 [W], the faces to look at; None: all.

        Returns:
            int32 [W].
        """
        if wanted is None:
            wanted = np.arange(len(self._faces), dtype=np.int32)
        partner = np.empty(len(wanted), np.int32)
        parallel_for(
            kernels.find_touching, len(wanted), wanted, self._vertices, self._faces, self._order,
            self._boxes, partner, grain=_GRAIN,
        )  # fmt: skip
        return partner

    def measure_walls(self) -> NDArray[np.float64]:
        """Return the thickness of the wall behind each face, float64 [F].

        It is measured from four points, against the normal, up to a face that is turned the other
        way; infinite where there is none.
        """
        thickness = np.empty(len(self._faces))
        parallel_for(
            rays.measure_walls, len(thickness), self._vertices, self._faces, self._order,
            self._boxes, thickness, grain=_GRAIN,
        )  # fmt: skip
        return thickness

    def count_crossings(
        self, points: NDArray[np.float64], direction: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Return how many faces the rays from the points in the direction meet, int64 [P].

        Args:
            points: float64 [P, 3].
            direction: float64 [3].
        """
        counts = np.empty(len(points), np.int64)
        parallel_for(
            rays.count_crossings, len(points), points, direction, self._vertices, self._faces,
            self._order, self._boxes, counts, grain=8,
        )  # fmt: skip
        return counts
