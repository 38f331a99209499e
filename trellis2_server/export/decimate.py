"""Fewer faces for the same shape: edge collapses in the order of their quadric error.

Garland and Heckbert, "Surface Simplification Using Quadric Error Metrics" (1997), in
rounds. A round prices the best edge of every vertex and chooses a limit; then each cell of a
grid, by itself and on whatever thread, collapses its edges in the order of their error up to
that limit. Vertices beside another cell rest until the next round, which shifts the grid. The
last round has one cell and meets the target. Dey, Edelsbrunner, Guha and Nekhayev's link
condition (1999) keeps a closed manifold closed and manifold.

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

#: About how many vertices a cell holds, and a mesh that is not worth cutting.
_CELL_VERTICES: Final = 6000
_ONE_CELL: Final = 40_000
#: The last round, in one cell, removes at most this share of the faces.
_LAST_SHARE: Final = 0.15
#: How strongly an open edge resists being moved, against a face of its length squared.
_RIM_WEIGHT: Final = 4.0
#: What a collapse may break when nothing else is left: nothing, the shape, the topology.
_STRICT, _LOOSE, _RECKLESS = 0, 1, 2


def decimate(
    mesh: Mesh, target: int, report: Callable[[str, int, int], None] | None = None
) -> Mesh:
    """The mesh with at most `target` faces, or the mesh itself if it has no more.

    Open edges and creases are kept where the budget allows. A face is turned over, or the
    topology changed, only where the target cannot be met otherwise.

    Args:
        mesh: clean; every vertex is used.
        target: faces, at least 1.
        report: called between rounds with "decimate", faces removed, faces to remove.
    """
    faces = np.array(mesh.faces, np.int32, order="C")
    if len(faces) <= target:
        return mesh
    vertices = np.array(mesh.vertices, np.float64, order="C")
    count = len(vertices)
    box = np.array([[f(vertices[:, k]) for k in range(3)] for f in (np.min, np.max)])
    head, following = np.empty(count, np.int32), np.empty(faces.size, np.int32)
    kernels.chain(faces, head, following)
    quadrics = np.zeros((count, 10))
    spread(kernels.sum_quadrics, count, vertices, faces, head, following, _RIM_WEIGHT, quadrics)

    partner, avoid = np.empty(count, np.int32), np.full(count, -1, np.int32)
    cost = np.empty(count, np.float64)
    age, stamp, times = np.zeros(count, np.int32), np.empty(count, np.int32), np.empty_like(avoid)
    level, turn, is_stuck, to_remove = _STRICT, 0, False, len(faces) - target
    while len(faces) > target:
        before = len(faces)
        budget = before - target
        if report:
            report("decimate", to_remove - budget, to_remove)
        is_last = is_stuck or before < 2 * _ONE_CELL or budget < _LAST_SHARE * before
        cell = np.zeros(count, np.int16) if is_last else _cells(vertices, box, before // 2, turn)
        spread(
            kernels.price, count, vertices, quadrics, faces, head, following, cell, avoid,
            partner, cost,
        )  # fmt: skip
        able = np.flatnonzero(partner >= 0)
        able = able[partner[partner[able]] != -2].astype(np.int32)  # noqa: PLR2004
        limit = np.inf
        if not is_last and able.size:
            # A collapse removes two faces; not all succeed, so most cells reach the limit.
            wanted = min(int(0.7 * able.size), budget // 2)
            limit = float(np.partition(cost[able], wanted)[wanted])
            able = able[cost[able] <= limit]
        order = able[np.argsort(cell[able], kind="stable")]
        sizes = np.bincount(cell[order], minlength=1)
        first = np.zeros(len(sizes) + 1, np.int32)
        np.cumsum(sizes, out=first[1:])
        # A reckless collapse may remove more than its own faces: leave room.
        allowed = budget if level < _RECKLESS else max(1, budget // 4)
        budgets = allowed * sizes // max(1, len(order))
        stamp.fill(0)
        spread(
            kernels.collapse, len(sizes), order, first, budgets, limit, level,
            vertices, quadrics, faces, head, following, partner, cost, avoid, age, stamp, times,
            grain=1,
        )  # fmt: skip
        faces = faces[: kernels.squeeze(faces)]
        if level == _RECKLESS:
            faces = drop_repeated(faces, count)
        if is_last and before - len(faces) < min(allowed, max(2, before // 500)):
            if level == _RECKLESS and before == len(faces):
                break
            level = min(_RECKLESS, level + 1)
        is_stuck = is_stuck or before - len(faces) < budget // 10
        turn += 1
        kernels.chain(faces, head, following)
    kept, faces = drop_unused(vertices.astype(np.float32), faces)
    return Mesh(kept, np.ascontiguousarray(faces))


def _cells(
    vertices: NDArray[np.float64], box: NDArray[np.float64], count: int, turn: int
) -> NDArray[np.int16]:
    """The cell of each vertex in a grid that every turn shifts.

    Args:
        vertices: float64 [N, 3].
        box: float64 [2, 3], lower corner and upper corner of the grid.
        count: how many of them are used.
        turn: the number of the round.
    """
    # A surface meets about three times as many cells as one side of the grid has.
    side = max(1, min(30, round(float(np.sqrt(count / (3 * _CELL_VERTICES))))))
    cell = np.empty(len(vertices), np.int16)
    longest = max(float((box[1] - box[0]).max()), 1e-30)
    spread(
        kernels.sort_cells,
        len(vertices),
        vertices,
        box[0],
        side / longest,
        side + 1,
        (0.5 * turn + 0.25) % 1.0,
        cell,
    )
    return cell
