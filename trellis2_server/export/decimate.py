"""Fewer faces for the same shape: edge collapses in the order of their quadric error.

Garland and Heckbert, "Surface Simplification Using Quadric Error Metrics" (1997), in
rounds: each round prices the best edge of every vertex, on all threads, then collapses the
cheapest ones in order, skipping vertices that the round has moved already. Dey, Edelsbrunner,
Guha and Nekhayev's link condition (1999) keeps a closed manifold closed and manifold.

What this module does not know: colours, charts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.export.adjacency import corner_lists
from trellis2_server.export.clean import drop_repeated, drop_unused
from trellis2_server.export.kernel import spread
from trellis2_server.export.kernels import decimate as kernels
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Callable


#: Share of the vertices whose cheapest edge is tried in one round.
_SHARE: Final = 0.35
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
    quadrics = np.zeros((count, 10))
    first, corners = corner_lists(faces, count)
    spread(kernels.sum_quadrics, count, vertices, faces, first, corners, _RIM_WEIGHT, quadrics)

    partner = np.empty(count, np.int32)
    avoid = np.full(count, -1, np.int32)
    cost = np.empty(count, np.float64)
    place = np.empty((count, 3))
    stamp = np.zeros(count, np.int32)
    times = np.zeros(count, np.int32)
    share, level, to_remove = _SHARE, _STRICT, len(faces) - target
    while len(faces) > target:
        if report:
            report("decimate", to_remove - (len(faces) - target), to_remove)
        spread(
            kernels.price,
            count,
            vertices,
            quadrics,
            faces,
            first,
            corners,
            avoid,
            partner,
            cost,
            place,
        )
        chosen = np.flatnonzero(partner >= 0)
        wanted = max(1, int(share * len(chosen)))
        if wanted < len(chosen):
            limit = np.partition(cost[chosen], wanted - 1)[wanted - 1]
            chosen = chosen[cost[chosen] <= limit]
        chosen = chosen[np.argsort(cost[chosen], kind="stable")].astype(np.int32)
        before = len(faces)
        # A reckless collapse may remove more than its own faces: leave room.
        budget = before - target if level < _RECKLESS else max(1, (before - target) // 4)
        stamp.fill(0)
        left = kernels.collapse(
            chosen, partner, place, vertices, quadrics, faces, first, corners,
            np.zeros(count, np.int8), avoid, stamp, times, budget, level,
        )  # fmt: skip
        faces = faces[:left]
        if level == _RECKLESS:
            faces = drop_repeated(faces, count)
        if before - left < min(budget, max(2, before // 500)):
            if share < 1.0:
                share = min(1.0, 2.0 * share)
            elif before - left < max(2, before // 5000):
                if level == _RECKLESS and before == left:
                    break
                level = min(_RECKLESS, level + 1)
        first, corners = corner_lists(faces, count)
    kept, faces = drop_unused(vertices.astype(np.float32), faces)
    return Mesh(kept, np.ascontiguousarray(faces))
