"""Which face lies on the other side of an edge.

A half-edge is `3 * face + k`: the edge from corner `k` to corner `(k + 1) % 3`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.export.kernel import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

BOUNDARY: Final = -1
NON_MANIFOLD: Final = -2


def twins(faces: NDArray[np.int32], vertex_count: int) -> NDArray[np.int32]:
    """The half-edge across each edge, whatever the winding of the two faces.

    Args:
        faces: int32 [F, 3].
        vertex_count: one more than the largest index, or more.

    Returns:
        int32 [3 * F]: a half-edge, `BOUNDARY` where no other face has the edge, or
        `NON_MANIFOLD` where more than one has.
    """
    twin = np.empty(faces.size, np.int32)
    order = np.empty(faces.size, np.int32)
    _pair(faces, order, np.empty_like(order), np.zeros(vertex_count + 1, np.int32), twin)
    return twin


def is_solid(faces: NDArray[np.int32], twin: NDArray[np.int32]) -> bool:
    """Whether every edge joins exactly two faces that agree on the winding."""
    if twin.size == 0 or int(twin.min()) < 0:
        return False
    return bool(np.all(faces.reshape(-1) != faces.reshape(-1)[twin]))


def corner_lists(
    faces: NDArray[np.int32], vertex_count: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The corners at each vertex.

    Returns:
        first: int32 [N + 1], where a vertex' list starts in `corners`.
        corners: int32 [3 * F], `3 * face + k`, ascending within a vertex.
    """
    first = np.zeros(vertex_count + 1, np.int32)
    corners = np.empty(faces.size, np.int32)
    _list_corners(faces, first, corners)
    return first, corners


@kernel
def _list_corners(faces, first, corners):
    n = first.shape[0] - 1
    for f in range(faces.shape[0]):
        for k in range(3):
            first[faces[f, k]] += 1
    total = 0
    for v in range(n + 1):
        total += first[v]
        first[v] = total
    for f in range(faces.shape[0] - 1, -1, -1):
        for k in range(2, -1, -1):
            v = faces[f, k]
            first[v] -= 1
            corners[first[v]] = 3 * f + k


@kernel
def _pair(faces, order, scratch, count, twin):
    # Two stable counting sorts, by the larger and then by the smaller vertex.
    half_edges = faces.shape[0] * 3
    n = count.shape[0] - 1
    for sweep in range(2):
        for v in range(n + 1):
            count[v] = 0
        for h in range(half_edges):
            f, k = h // 3, h % 3
            a, b = faces[f, k], faces[f, (k + 1) % 3]
            key = max(a, b) if sweep == 0 else min(a, b)
            count[key + 1] += 1
        for v in range(n):
            count[v + 1] += count[v]
        for i in range(half_edges):
            h = i if sweep == 0 else scratch[i]
            f, k = h // 3, h % 3
            a, b = faces[f, k], faces[f, (k + 1) % 3]
            key = max(a, b) if sweep == 0 else min(a, b)
            if sweep == 0:
                scratch[count[key]] = h
            else:
                order[count[key]] = h
            count[key] += 1
    i = 0
    while i < half_edges:
        f, k = order[i] // 3, order[i] % 3
        a, b = faces[f, k], faces[f, (k + 1) % 3]
        low, high = min(a, b), max(a, b)
        j = i + 1
        while j < half_edges:
            g, m = order[j] // 3, order[j] % 3
            c, d = faces[g, m], faces[g, (m + 1) % 3]
            if min(c, d) != low or max(c, d) != high:
                break
            j += 1
        if j - i == 2:
            twin[order[i]] = order[i + 1]
            twin[order[i + 1]] = order[i]
        else:
            for t in range(i, j):
                twin[order[t]] = -1 if j - i == 1 else -2
        i = j
