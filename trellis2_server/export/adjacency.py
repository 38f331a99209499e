"""Which face lies on the other side of an edge.

A half-edge is `3 * face + k`: the edge from corner `k` to corner `(k + 1) % 3`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from trellis2_server.export.kernel import spread
from trellis2_server.export.kernels import adjacency as kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Index = TypeVar("_Index", np.int32, np.int64)

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
    twin, order, far = (np.empty(faces.size, np.int32) for _ in range(3))
    first = np.zeros(vertex_count + 1, np.int32)
    kernels.sort_edges(faces, first, order, far)
    spread(kernels.pair, vertex_count, first, order, far, twin)
    return twin


def following(half_edges: NDArray[_Index]) -> NDArray[_Index]:
    """The next half-edge of each one's face, which begins where that one ends."""
    return np.where(half_edges % 3 == 2, half_edges - 2, half_edges + 1)  # noqa: PLR2004


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
    kernels.list_corners(faces, first, corners)
    return first, corners
