"""`TriangleTree`: the triangles of a mesh in a tree of boxes, for touching faces and for rays.

Does not know: what the mesh shows, how it was made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.export.cancellation import call, check
from trellis2_server.export.kernels import rays, trees
from trellis2_server.export.kernels import triangles as kernels
from trellis2_server.export.parallel import parallel_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.mesh import Mesh

#: Cells along the longest edge of the box, of the curve along which triangles are sorted.
_CELLS: Final = 1024.0
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

    Attributes:
        left: int32 [N], first row of a leaf's faces, or -1 - the second child of a node; the first
            child is the next node.
        right: int32 [N], end of those rows.
        boxes: float32 [N, 6], lower and upper corner.
    """

    def __init__(self, mesh: Mesh) -> None:
        vertices, self._faces = mesh.vertices, np.ascontiguousarray(mesh.faces)
        low = vertices.min(axis=0).astype(np.float64)
        scale = _CELLS / max(float((vertices.max(axis=0) - low).max()), 1e-30)
        codes = np.empty(len(self._faces), np.int64)
        parallel_for(
            trees.morton_codes, len(codes), vertices, self._faces, low, scale, codes
        )  # fmt: skip
        self._order = np.argsort(codes, kind="stable").astype(np.int32)
        check()
        left, right = np.zeros((2, 2 * len(codes)), np.int32)
        count = call(trees.build_nodes, codes, self._order, left, right)
        self.left, self.right = left[:count], right[:count]
        self.boxes = np.empty((count, 6), np.float32)
        self.move(vertices)

    def move(self, vertices: NDArray[np.float32]) -> None:
        """Fit the boxes to other positions of the vertices, float32 [N, 3]."""
        self._vertices = vertices
        self._triangles: NDArray[np.float32] | None = None
        parallel_for(trees.bound_leaves, len(self.left), *self._arrays, self.boxes)
        call(trees.bound_nodes, self.left, self.boxes)

    @property
    def _arrays(self) -> tuple[NDArray[Any], ...]:
        """Return what loops take before the boxes."""
        return self._vertices, self._faces, self._order, self.left, self.right

    def gather_triangles(self) -> NDArray[np.float32]:
        """Return the first corner and two edges of each face, float32 [F, 9], by leaves."""
        if self._triangles is None:
            self._triangles = np.empty((len(self._faces), 9), np.float32)
            parallel_for(
                trees.gather_triangles, len(self._faces), self._vertices, self._faces, self._order,
                self._triangles,
            )  # fmt: skip
        return self._triangles

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
            kernels.find_touching, len(wanted), wanted, *self._arrays, self.boxes, partner,
            grain=_GRAIN,
        )  # fmt: skip
        return partner

    def measure_walls(self) -> NDArray[np.float64]:
        """Return the thickness of the wall behind each face, float64 [F].

        It is measured from four points, against the normal, up to a face that is turned the other
        way; infinite where there is none.
        """
        thickness = np.empty(len(self._faces))
        parallel_for(
            rays.measure_walls, len(thickness), *self._arrays, self.boxes, thickness, grain=_GRAIN,
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
            rays.count_crossings, len(points), points, direction, *self._arrays, self.boxes,
            counts, grain=8,
        )  # fmt: skip
        return counts
