"""`cumesh.CuMesh` with the methods that TRELLIS.2's own mesh class uses.

Boundary loops are closed by a fan around their middle; `simplify` merges vertices on a grid.
The server calls none of this: its exporter closes holes and decimates better. TRELLIS.2
imports it, and code that calls TRELLIS.2 in the same process may use it.

Does not know: voxels, models.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

torch: Any = importlib.import_module("torch")
Tensor = Any

#: Halvings of the interval in which the grid's resolution is searched.
_SEARCH_STEPS: Final = 12
_FINEST_GRID: Final = 4096


class CuMesh:
    """A triangle mesh with CuMesh's methods; derived data is computed when it is needed."""

    def __init__(self) -> None:
        self._vertices: Tensor = None
        self._faces: Tensor = None
        self._rim: Tensor = None
        self._loops: tuple[Tensor, Tensor] | None = None

    def init(self, vertices: Tensor, faces: Tensor) -> None:
        """Set the mesh: vertices float [V, 3], faces integer [F, 3]."""
        self._vertices, self._faces = vertices, faces
        self.clear_cache()

    def clear_cache(self) -> None:
        """Delete the data that was derived from the mesh."""
        self._rim = self._loops = None

    def read(self) -> tuple[Tensor, Tensor]:
        """Return vertices and faces."""
        return self._vertices, self._faces

    @property
    def num_vertices(self) -> int:
        """Number of vertices, used or not."""
        return len(self._vertices)

    @property
    def num_faces(self) -> int:
        """Number of triangles."""
        return len(self._faces)

    @property
    def num_boundaries(self) -> int:
        """Number of edges with one face."""
        return len(self._boundary())

    @property
    def num_boundary_loops(self) -> int:
        """Number of closed boundaries that touch neither themselves nor each other."""
        rows, _ = self._boundary_loops()
        return 0 if not len(rows) else int(rows.max()) + 1

    def get_edges(self) -> None:
        """Do nothing: derived data is computed when it is needed. The other methods do the same."""

    get_boundary_info = get_edges
    get_vertex_edge_adjacency = get_edges
    get_vertex_boundary_adjacency = get_edges
    get_manifold_boundary_adjacency = get_edges
    read_manifold_boundary_adjacency = get_edges
    get_boundary_connected_components = get_edges
    get_boundary_loops = get_edges

    def fill_holes(self, max_hole_perimeter: float = 3e-2) -> None:
        """Close the boundary loops that are shorter than `max_hole_perimeter`."""
        loop, edges = self._boundary_loops()
        if not len(edges):
            return
        start, end = self._vertices[edges[:, 0]], self._vertices[edges[:, 1]]
        count = int(loop.max()) + 1
        perimeter = start.new_zeros(count).index_add_(0, loop, (end - start).norm(dim=1))
        sizes = torch.bincount(loop, minlength=count)
        middle = start.new_zeros(count, 3).index_add_(0, loop, start) / sizes[:, None]
        is_filled = perimeter < max_hole_perimeter
        rank = is_filled.cumsum(0) - 1 + len(self._vertices)
        is_rim = is_filled[loop]
        fan = torch.stack([edges[is_rim, 1], edges[is_rim, 0], rank[loop[is_rim]]], dim=1)
        vertices = torch.cat([self._vertices, middle[is_filled]])
        self.init(vertices, torch.cat([self._faces, fan.to(self._faces.dtype)]))

    def remove_faces(self, face_mask: Tensor) -> None:
        """Remove the faces where the mask is set, and vertices that are then unused."""
        self._compact(self._vertices, self._faces[~face_mask])

    def simplify(
        self,
        target_num_faces: int,
        verbose: bool = False,  # noqa: FBT001, FBT002
        options: Mapping[str, float] | None = None,
    ) -> None:
        """Reduce to at most `target_num_faces` faces: merge the vertices of each cell of a grid."""
        del verbose, options
        if len(self._faces) <= target_num_faces:
            return
        low, high = self._vertices.amin(0), self._vertices.amax(0)
        edge = float((high - low).max()) or 1.0
        coarse, fine = 1, _FINEST_GRID
        for _ in range(_SEARCH_STEPS):
            cells = (coarse + fine + 1) // 2
            if len(self._merged(low, edge / cells)[1]) <= target_num_faces:
                coarse = cells
            else:
                fine = cells - 1
        self._compact(*self._merged(low, edge / coarse))

    def _merged(self, low: Tensor, cell: float) -> tuple[Tensor, Tensor]:
        place = ((self._vertices - low) / cell).floor().long()
        key = (place[:, 0] * (_FINEST_GRID + 2) + place[:, 1]) * (_FINEST_GRID + 2) + place[:, 2]
        _, group = key.unique(return_inverse=True)
        count = int(group.max()) + 1
        total = self._vertices.new_zeros(count, 3).index_add_(0, group, self._vertices)
        vertices = total / torch.bincount(group, minlength=count)[:, None]
        faces = group[self._faces.long()]
        a, b, c = faces.unbind(1)
        return vertices, faces[(a != b) & (b != c) & (c != a)].to(self._faces.dtype)

    def _compact(self, vertices: Tensor, faces: Tensor) -> None:
        used, inverse = faces.unique(return_inverse=True)
        self.init(vertices[used.long()], inverse.to(faces.dtype))

    def _boundary(self) -> Tensor:
        """Edges with one face, in that face's direction, int64 [B, 2]."""
        if self._rim is None:
            faces = self._faces.long()
            edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
            low, high = edges.amin(1), edges.amax(1)
            _, group, sizes = (low * len(self._vertices) + high).unique(
                return_inverse=True, return_counts=True
            )
            self._rim = edges[sizes[group] == 1]
        return self._rim

    def _boundary_loops(self) -> tuple[Tensor, Tensor]:
        """Loop of each edge, int64 [E], and the edges, int64 [E, 2]."""
        if self._loops is None:
            edges = self._boundary()
            used, ends = edges.unique(return_inverse=True)
            label = torch.arange(len(used), device=edges.device)
            while len(used):
                # The lowest label moves along edges, then every vertex takes the label of its
                # label: few rounds even for a long loop.
                low = label[ends].amin(1)
                moved = label.scatter_reduce(0, ends.reshape(-1), low.repeat_interleave(2), "amin")
                moved = moved[moved]
                if torch.equal(moved, label):
                    break
                label = moved
            degree = torch.bincount(ends.reshape(-1), minlength=len(used))
            is_loop = torch.ones(len(used), dtype=torch.bool, device=edges.device)
            is_loop[label[degree != 2]] = False  # noqa: PLR2004 - two edges meet in a loop
            in_loop = is_loop[label[ends[:, 0]]]
            _, loop = label[ends[in_loop, 0]].unique(return_inverse=True)
            self._loops = loop, edges[in_loop]
        return self._loops
