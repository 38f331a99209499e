"""Reduce the number of faces by edge collapses, in the order of their quadric error.

Garland and Heckbert, "Surface Simplification Using Quadric Error Metrics" (1997), in rounds. A
round sorts the mesh into the cells of a grid. Each cell, independently and on any thread,
collapses its edges in the order of their error up to a common limit. Vertices with neighbours in
other cells are locked until the next round, which shifts the grid. The last round has one cell and
meets the target. The link condition of Dey, Edelsbrunner, Guha and Nekhayev (1999) preserves
closed manifolds; what is closed stays closed, even if that needs more faces than the target.

Does not know: colours, charts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.export.adjacency import twins
from trellis2_server.export.cancellation import call
from trellis2_server.export.clean import drop_repeated, drop_unused
from trellis2_server.export.kernels import decimate as kernels
from trellis2_server.export.parallel import parallel_for
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.reports import Report

#: Approximate number of vertices of a cell, which fit into the cache of a core.
_CELL_VERTICES: Final = 2000
#: Meshes with fewer faces are not split into cells.
_MIN_SPLIT_FACES: Final = 80_000
#: The last round, in one cell, removes at most this share of the faces.
_LAST_SHARE: Final = 0.08
#: The first and the later rounds stop at this multiple of the target, because the locked vertices
#: have yet to be decimated as much as the others.
_FIRST_ROUND_TARGET, _ROUND_TARGET = 1.2, 1.05
#: One of this many cells is decimated first, to find the limit for the others: these are then
#: traversed once, instead of once for each step.
_SAMPLE_CELLS: Final = 8
#: Multiple of the target share at which these cells stop, because the others may differ.
_SAMPLE_TARGET: Final = 1.15
#: Weight of the plane that holds an open edge, relative to a face of the edge's squared length.
_RIM_WEIGHT: Final = 4.0
#: Number of float32 values of a vertex: one cache line.
_VERTEX_VALUES: Final = 16
#: Edges are queued in buckets, eight per doubling of their error. Errors that are at most
#: `_TOLERANCE` buckets apart are treated as equal.
_BUCKETS, _TOLERANCE = 1024, 8
#: What a collapse may change if the target cannot be met otherwise: nothing else, the orientation
#: of faces, the topology at vertices with an open edge or an edge of more than two faces.
_STRICT, _ALLOW_FLIPS, _ALLOW_TOPOLOGY = 0, 1, 2


def decimate(
    mesh: Mesh,
    target: int,
    report: Report | None = None,
    *,
    min_split_faces: int = _MIN_SPLIT_FACES,
    is_fixed: NDArray[np.bool_] | None = None,
) -> Mesh:
    """Return a mesh with at most `target` faces, or the mesh itself if it has no more.

    Parts whose edges all have two faces stay so: if the holes and handles of such parts need more
    faces than the target, the mesh has more. Open edges and creases are preserved if the target
    allows. Faces are flipped, or the topology of open parts is changed, only if the target cannot
    be met otherwise. If the mesh was split into cells, vertices and faces are in the order of the
    cells.

    Args:
        mesh: clean, without unused vertices.
        target: maximum number of faces, at least 1.
        report: called between rounds with "decimate", the number of removed faces and the number of
            faces to remove.
        min_split_faces: number of faces from which the mesh is split into cells.
        is_fixed: bool [N], vertices that stay as they are. With it, no face is flipped and the
            topology is not changed, whatever the target; None: no vertex.
    """
    if len(mesh.faces) <= target:
        return mesh
    work = _Decimation(mesh, is_fixed)
    last_level = _ALLOW_TOPOLOGY if is_fixed is None else _STRICT
    level, round_index, is_stuck, to_remove = _STRICT, 0, False, len(work.faces) - target
    unflipped: Mesh | None = None
    while len(work.faces) > target:
        before = len(work.faces)
        budget = before - target
        if report:
            report("decimate", to_remove - budget, to_remove)
        is_last = is_stuck or before < min_split_faces or budget < _LAST_SHARE * before
        if not is_last:
            work.split(round_index)
        work.enqueue()
        allowed = budget
        if is_last:
            # A collapse that changes the topology may remove further faces: leave a reserve.
            allowed = budget if level < _ALLOW_TOPOLOGY else max(1, budget // 4)
            work.collapse(np.array([allowed]), _BUCKETS - 1, level)
        else:
            multiple = _ROUND_TARGET if round_index else _FIRST_ROUND_TARGET
            work.collapse_cells(multiple * target / before, budget)
        work.compact(drop_repeated_faces=level == _ALLOW_TOPOLOGY)
        removed = before - len(work.faces)
        if is_last and removed < min(allowed, max(2, before // 500)):
            if level == last_level and removed == 0:
                break
            if level == _STRICT:
                unflipped = work.mesh()
            level = min(last_level, level + 1)
        is_stuck = is_stuck or removed <= budget // 10
        round_index += 1
    if len(work.faces) > target and unflipped is not None and _is_closed(unflipped):
        return unflipped  # flipped faces would save a few of them, and harm the surface
    return work.mesh()


def _is_closed(mesh: Mesh) -> bool:
    """Return whether each edge has exactly two faces."""
    return int(twins(mesh.faces, len(mesh.vertices)).min()) >= 0


class _Decimation:
    """A mesh that is being decimated, sorted by cells.

    Attributes:
        faces: int32 [F, 3].
        vertices: float32 [N, 16]: 0:3 position; 3:9 second-order part of the quadric relative to
            the position (xx, xy, xz, yy, yz, zz); 9:12 half its first-order part; 12 its value; 13
            is 1 if a neighbour lies in another cell; 14 is 1 if the vertex is fixed. Before `split`
            or `enqueue`, the mesh's own arrays: [N, 3].
    """

    def __init__(self, mesh: Mesh, is_fixed: NDArray[np.bool_] | None = None) -> None:
        self.faces: NDArray[np.int32] = mesh.faces
        self.vertices: NDArray[np.float32] = mesh.vertices
        axes = mesh.vertices.T  # separately, because NumPy is slow along the first axis
        self._box = np.array([[end(axis) for axis in axes] for end in (np.min, np.max)], float)
        self._has_quadrics = False
        self._has_fixed = is_fixed is not None and bool(is_fixed.any())
        if self._has_fixed:
            self._widen()
            self.vertices[:, 14] = is_fixed
        #: Latest limit of all cells, or of the sample cells; -1: none yet.
        self._limit = -1
        self._reset_cells()

    def _reset_cells(self) -> None:
        count = len(self.vertices)
        self._first = np.array([0, count], np.int32)
        self._cell = np.zeros(count, np.int16)
        # First corner at each vertex, -1 for removed vertices; 0 until the corners are linked.
        self._head = np.zeros(count, np.int32)

    def _widen(self) -> None:
        """Replace the mesh's own arrays by copies with room for all values of a vertex."""
        own = np.empty((len(self.vertices), _VERTEX_VALUES), np.float32)
        own[:, :3] = self.vertices
        self.vertices, self.faces = own, self.faces.copy()

    def mesh(self) -> Mesh:
        """Return a copy of the mesh, without unused vertices; only after `compact`."""
        vertices, faces = drop_unused(np.ascontiguousarray(self.vertices[:, :3]), self.faces)
        return Mesh(vertices, faces.copy())

    def split(self, round_index: int) -> None:
        """Sort vertices and faces by the cells of a grid, which is shifted in each round."""
        count = len(self.vertices)
        # A surface intersects about three times as many cells as one side of the grid has.
        side = max(1, min(30, round(float(np.sqrt(len(self.faces) / (6 * _CELL_VERTICES))))))
        longest = max(float((self._box[1] - self._box[0]).max()), 1e-30)
        cell = np.empty(count, np.int16)
        parallel_for(
            kernels.find_cells, count, self.vertices, self._box[0], side / longest, side + 1,
            (0.5 * round_index + 0.25) % 1.0, cell,
        )  # fmt: skip
        sizes, face_sizes = np.zeros((2, (side + 1) ** 3), np.int32)
        call(kernels.count_cells, cell, self._head, self.faces, sizes, face_sizes)
        used = np.flatnonzero(sizes)
        starts, face_starts = (
            np.cumsum(size, dtype=np.int32) - size for size in (sizes, face_sizes)
        )
        new_index = np.empty(count, np.int32)
        faces = np.empty_like(self.faces)
        self._first = np.append(starts[used], sizes.sum(dtype=np.int32))
        call(
            kernels.sort_by_cell,
            cell,
            self._head,
            self.faces,
            starts,
            face_starts,
            new_index,
            faces,
        )
        vertices = np.empty((int(self._first[-1]), _VERTEX_VALUES), np.float32)
        parallel_for(kernels.move_vertices, count, new_index, self.vertices, vertices)
        self.vertices, self.faces = vertices, faces
        self._cell = np.repeat(np.arange(len(used), dtype=np.int16), np.diff(self._first))

    def enqueue(self) -> None:
        """Queue each vertex that is not locked with its cheapest edge."""
        count, cells = len(self.vertices), len(self._first) - 1
        if self.vertices.shape[1] < _VERTEX_VALUES:
            self._widen()
        self._head = np.empty(count, np.int32)
        self._next_corner = np.empty(self.faces.size, np.int32)
        call(kernels.link_corners, self.faces, self._head, self._next_corner)
        if not self._has_quadrics:
            parallel_for(
                kernels.sum_quadrics, count, self.faces, self._head, self._next_corner, _RIM_WEIGHT,
                self.vertices,
            )  # fmt: skip
            self._has_quadrics = True
        parallel_for(
            kernels.lock_borders, count, self.faces, self._head, self._next_corner, self._cell,
            self._has_fixed, self.vertices,
        )  # fmt: skip
        self._buckets, self._counts = (np.empty((cells, _BUCKETS), np.int32) for _ in range(2))
        self._after, self._partner, self._stamp = (np.empty(count, np.int32) for _ in range(3))
        self._version = np.zeros(count, np.int32)
        # Offset from the queued vertex to the vertex that would replace both ends of the edge.
        self._target = np.empty((count, 3), np.float32)
        parallel_for(
            kernels.enqueue_all, cells, self._first, self.vertices, self.faces, self._head,
            self._next_corner, self._buckets, self._counts, self._after, self._partner, self._stamp,
            self._version, self._target, grain=1,
        )  # fmt: skip
        #: Number of vertices of each cell that are not locked.
        self._free = self._counts.sum(axis=1, dtype=np.int64).astype(np.float64)

    def collapse(self, budgets: NDArray[np.int64], limit: int, level: int) -> NDArray[np.int64]:
        """Collapse the queued edges and return the number of removed faces of each cell.

        Args:
            budgets: int64 [cells], number of faces to remove at most; the last collapse may exceed
                it.
            limit: last bucket.
            level: what a collapse may change.
        """
        removed = np.zeros(len(budgets), np.int64)
        parallel_for(
            kernels.collapse_edges, len(budgets), budgets, limit, _TOLERANCE, level, self.vertices,
            self.faces, self._head, self._next_corner, self._buckets, self._counts, self._after,
            self._partner, self._stamp, self._version, self._target, removed, grain=1,
        )  # fmt: skip
        return removed

    def collapse_cells(self, share: float, budget: int) -> None:
        """Collapse edges in all cells, up to a common limit.

        Args:
            share: share of the unlocked vertices that should remain.
            budget: number of faces to remove at most.
        """
        left = self._free.copy()
        if len(left) >= 4 * _SAMPLE_CELLS:
            sample = slice(0, None, _SAMPLE_CELLS)
            budget = self._collapse_to(sample, left, _SAMPLE_TARGET * share, budget)
        self._collapse_to(slice(None), left, share, budget)

    def _collapse_to(
        self, cells: slice, left: NDArray[np.float64], share: float, budget: int
    ) -> int:
        """Collapse edges in some cells, in steps; the first step uses the latest limit.

        Args:
            cells: selection of cells.
            left: float64 [cells], number of remaining unlocked vertices; updated.
            share: share of the unlocked vertices that should remain.
            budget: number of faces to remove at most.

        Returns:
            Remaining budget.
        """
        counts, free = self._counts[cells], float(self._free[cells].sum())
        budgets = np.zeros(len(left), np.int64)
        last = -1
        while True:
            queued = counts.sum(axis=0, dtype=np.int64)
            # Many vertices are queued with the same edge, or with a removed one.
            wanted = min(0.5 * float(queued.sum()), float(left[cells].sum()) - share * free)
            if wanted <= 0.01 * free:
                return budget
            if last >= 0 or self._limit < 0:
                self._limit = int(np.searchsorted(np.cumsum(queued), wanted))
            if self._limit == last:  # the cells have exhausted their budgets
                return budget
            last = self._limit
            ready = counts[:, : last + 1].sum(axis=1, dtype=np.int64)
            budgets[cells] = budget * ready // max(1, int(ready.sum()))
            removed = self.collapse(budgets, last, _STRICT)
            left -= removed / 2
            budget -= int(removed.sum())

    def compact(self, *, drop_repeated_faces: bool) -> None:
        """Drop removed faces and return to a single cell."""
        self.faces = self.faces[: call(kernels.compact_faces, self.faces)]
        if drop_repeated_faces:
            self.faces = drop_repeated(self.faces, len(self.vertices))
        head = self._head
        self._reset_cells()
        self._head = head
