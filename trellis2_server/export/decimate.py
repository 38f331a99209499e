"""Fewer faces for the same shape: edge collapses in the order of their quadric error.

Garland and Heckbert, "Surface Simplification Using Quadric Error Metrics" (1997), in
rounds. A round sorts the mesh into the cells of a grid; each cell, by itself and on whatever
thread, collapses its edges in the order of their error up to a common limit. Vertices beside
another cell rest until the next round, which shifts the grid. The last round has one cell and
meets the target. Dey, Edelsbrunner, Guha and Nekhayev's link condition (1999) keeps a closed
manifold closed and manifold.

What this module does not know: colours, charts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.export.clean import drop_repeated, drop_unused
from trellis2_server.export.kernel import spread
from trellis2_server.export.kernels import decimate as kernels
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

#: About how many vertices a cell holds, so that it stays in a core's cache.
_CELL_VERTICES: Final = 2000
#: A mesh with fewer faces is not worth cutting.
_CUT_FROM: Final = 80_000
#: The last round, in one cell, removes at most this share of the faces.
_LAST_SHARE: Final = 0.08
#: How far above the target the first round and those after it end: the vertices that rested
#: meanwhile are still to be thinned as much as the others.
_FIRST_ABOVE, _ABOVE = 1.2, 1.05
#: Every so many cells, one goes ahead and finds the limit for the others: they are walked
#: through once instead of once for each step there.
_AHEAD: Final = 8
#: … and how far above the goal it stops, since the others may differ.
_AHEAD_ABOVE: Final = 1.15
#: How strongly an open edge resists being moved, against a face of its length squared.
_RIM_WEIGHT: Final = 4.0
#: What is known of a vertex, in numbers of 4 bytes: a line of the cache.
_LINE: Final = 16
#: Edges wait in buckets, eight to a doubling of their error, and are as good as equal when no
#: more than so many buckets apart.
_BUCKETS, _ALIKE = 1024, 8
#: What a collapse may break when nothing else is left: nothing, the shape, the topology.
_STRICT, _LOOSE, _RECKLESS = 0, 1, 2


def decimate(
    mesh: Mesh,
    target: int,
    report: Callable[[str, int, int], None] | None = None,
    *,
    cut_from: int = _CUT_FROM,
) -> Mesh:
    """The mesh with at most `target` faces, or the mesh itself if it has no more.

    Open edges and creases are kept where the budget allows. A face is turned over, or the
    topology changed, only where the target cannot be met otherwise. Vertices and faces come
    in the order of the grid's cells, where there is more than one.

    Args:
        mesh: clean; every vertex is used.
        target: faces, at least 1.
        report: called between rounds with "decimate", faces removed, faces to remove.
        cut_from: faces from which on the mesh is cut into cells.
    """
    if len(mesh.faces) <= target:
        return mesh
    work = _Work(mesh)
    level, turn, is_stuck, to_remove = _STRICT, 0, False, len(work.faces) - target
    while len(work.faces) > target:
        before = len(work.faces)
        budget = before - target
        if report:
            report("decimate", to_remove - budget, to_remove)
        is_last = is_stuck or before < cut_from or budget < _LAST_SHARE * before
        if not is_last:
            work.cut(turn)
        work.line_up()
        allowed = budget
        if is_last:
            # A reckless collapse may remove more than its own faces: leave room.
            allowed = budget if level < _RECKLESS else max(1, budget // 4)
            work.collapse(np.array([allowed]), _BUCKETS - 1, level)
        else:
            work.thin((_ABOVE if turn else _FIRST_ABOVE) * target / before, budget)
        work.tidy(no_repeated=level == _RECKLESS)
        removed = before - len(work.faces)
        if is_last and removed < min(allowed, max(2, before // 500)):
            if level == _RECKLESS and removed == 0:
                break
            level = min(_RECKLESS, level + 1)
        is_stuck = is_stuck or removed <= budget // 10
        turn += 1
    kept, faces = drop_unused(np.ascontiguousarray(work.vertices[:, :3]), work.faces)
    return Mesh(kept, np.ascontiguousarray(faces))


class _Work:
    """A mesh on its way, sorted by cells.

    Attributes:
        faces: int32 [F, 3].
        vertices: float32 [N, 16], one line of the cache each: place; quadric about that place,
            its second order (xx, xy, xz, yy, yz, zz), half its first, its value; 1 where a
            neighbour lies in another cell. [N, 3] until `cut` or `line_up`, and the mesh's own
            like the faces.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.faces: NDArray[np.int32] = mesh.faces
        self.vertices: NDArray[np.float32] = mesh.vertices
        axes = mesh.vertices.T  # each by itself: along the first axis NumPy is slow
        self._box = np.array([[end(axis) for axis in axes] for end in (np.min, np.max)], float)
        self._has_quadrics = False
        #: The last limit in all cells, or in those ahead; -1: none yet.
        self._limit = -1
        self._one_cell()

    def _one_cell(self) -> None:
        count = len(self.vertices)
        self._first = np.array([0, count], np.int32)
        self._cell = np.zeros(count, np.int16)
        # Where the corners at each vertex begin; until they are chained: not -1, it is there.
        self._head = np.zeros(count, np.int32)

    def cut(self, turn: int) -> None:
        """Sort vertices and faces by the cells of a grid that every turn shifts."""
        count = len(self.vertices)
        # A surface meets about three times as many cells as one side of the grid has.
        side = max(1, min(30, round(float(np.sqrt(len(self.faces) / (6 * _CELL_VERTICES))))))
        longest = max(float((self._box[1] - self._box[0]).max()), 1e-30)
        cell = np.empty(count, np.int16)
        spread(
            kernels.find_cells, count, self.vertices, self._box[0], side / longest, side + 1,
            (0.5 * turn + 0.25) % 1.0, cell,
        )  # fmt: skip
        sizes, face_sizes = np.zeros((2, (side + 1) ** 3), np.int32)
        kernels.count(cell, self._head, self.faces, sizes, face_sizes)
        used = np.flatnonzero(sizes)
        starts, face_starts = (
            np.cumsum(size, dtype=np.int32) - size for size in (sizes, face_sizes)
        )
        name = np.empty(count, np.int32)
        faces = np.empty_like(self.faces)
        self._first = np.append(starts[used], sizes.sum(dtype=np.int32))
        kernels.sort(cell, self._head, self.faces, starts, face_starts, name, faces)
        vertices = np.empty((int(self._first[-1]), _LINE), np.float32)
        spread(kernels.move, count, name, self.vertices, vertices)
        self.vertices, self.faces = vertices, faces
        self._cell = np.repeat(np.arange(len(used), dtype=np.int16), np.diff(self._first))

    def line_up(self) -> None:
        """Let every vertex that may move wait with its cheapest edge."""
        count, cells = len(self.vertices), len(self._first) - 1
        if self.vertices.shape[1] < _LINE:
            own = np.empty((count, _LINE), np.float32)
            own[:, :3] = self.vertices
            self.vertices, self.faces = own, self.faces.copy()
        self._head = np.empty(count, np.int32)
        self._following = np.empty(self.faces.size, np.int32)
        kernels.chain(self.faces, self._head, self._following)
        if not self._has_quadrics:
            spread(
                kernels.sum_quadrics, count, self.faces, self._head, self._following, _RIM_WEIGHT,
                self.vertices,
            )  # fmt: skip
            self._has_quadrics = True
        spread(
            kernels.lock, count, self.faces, self._head, self._following, self._cell,
            self.vertices,
        )  # fmt: skip
        self._buckets, self._counts = (np.empty((cells, _BUCKETS), np.int32) for _ in range(2))
        self._after, self._partner, self._when = (np.empty(count, np.int32) for _ in range(3))
        self._age = np.zeros(count, np.int32)
        # Where both ends of the edge would become one vertex, from the one that waits.
        self._spot = np.empty((count, 3), np.float32)
        spread(
            kernels.line_up, cells, self._first, self.vertices, self.faces, self._head,
            self._following, self._buckets, self._counts, self._after, self._partner, self._when,
            self._age, self._spot, grain=1,
        )  # fmt: skip
        #: Vertices of each cell that may move.
        self._free = self._counts.sum(axis=1, dtype=np.int64).astype(np.float64)

    def collapse(self, budgets: NDArray[np.int64], limit: int, level: int) -> NDArray[np.int64]:
        """Collapse what waits up to that bucket; how many faces that removed in each cell.

        Args:
            budgets: int64 [cells], faces that may be removed, give or take a collapse.
            limit: a bucket.
            level: what may break.
        """
        removed = np.zeros(len(budgets), np.int64)
        spread(
            kernels.collapse, len(budgets), budgets, limit, _ALIKE, level, self.vertices,
            self.faces, self._head, self._following, self._buckets, self._counts, self._after,
            self._partner, self._when, self._age, self._spot, removed, grain=1,
        )  # fmt: skip
        return removed

    def thin(self, share: float, budget: int) -> None:
        """Collapse in all cells, up to a common limit.

        Args:
            share: of the vertices that may move, how many shall be left.
            budget: faces that may be removed at most.
        """
        left = self._free.copy()
        if len(left) >= 4 * _AHEAD:
            budget = self._thin(slice(0, None, _AHEAD), left, _AHEAD_ABOVE * share, budget)
        self._thin(slice(None), left, share, budget)

    def _thin(self, cells: slice, left: NDArray[np.float64], share: float, budget: int) -> int:
        """The same in some of the cells, in steps, the first of them up to the last limit.

        Args:
            cells: which.
            left: float64 [cells], vertices that may move, kept up to date.
            share: of them, how many shall be left.
            budget: faces that may be removed at most.

        Returns:
            the budget that is left.
        """
        counts, free = self._counts[cells], float(self._free[cells].sum())
        budgets = np.zeros(len(left), np.int64)
        last = -1
        while True:
            waiting = counts.sum(axis=0, dtype=np.int64)
            # Of those that wait many do with the same edge, or with one that is gone.
            wanted = min(0.5 * float(waiting.sum()), float(left[cells].sum()) - share * free)
            if wanted <= 0.01 * free:
                return budget
            if last >= 0 or self._limit < 0:
                self._limit = int(np.searchsorted(np.cumsum(waiting), wanted))
            if self._limit == last:  # what is left there is beyond the budgets of its cells
                return budget
            last = self._limit
            ready = counts[:, : last + 1].sum(axis=1, dtype=np.int64)
            budgets[cells] = budget * ready // max(1, int(ready.sum()))
            removed = self.collapse(budgets, last, _STRICT)
            left -= removed / 2
            budget -= int(removed.sum())

    def tidy(self, *, no_repeated: bool) -> None:
        """Drop what is gone; all is one cell again."""
        self.faces = self.faces[: kernels.squeeze(self.faces)]
        if no_repeated:
            self.faces = drop_repeated(self.faces, len(self.vertices))
        head = self._head
        self._one_cell()
        self._head = head
