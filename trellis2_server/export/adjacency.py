"""Which half-edge lies on the other side of an edge, and which corners meet at a vertex.

A half-edge is `3 * face + k`: the edge from corner `k` to corner `(k + 1) % 3`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from trellis2_server.export.cancellation import call
from trellis2_server.export.kernels import adjacency as kernels
from trellis2_server.export.parallel import parallel_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Index = TypeVar("_Index", np.int32, np.int64)

#: Twin of a half-edge whose edge has one face.
BOUNDARY: Final = -1
#: Twin of a half-edge whose edge has more than two faces.
NON_MANIFOLD: Final = -2


def twins(faces: NDArray[np.int32], vertex_count: int) -> NDArray[np.int32]:
    """Return the half-edge on the other side of each edge, whatever the winding of the faces.

    Args:
        faces: int32 [F, 3].
        vertex_count: greater than the largest index.

    Returns:
        int32 [3 * F], a half-edge, `BOUNDARY` or `NON_MANIFOLD`.
    """
    twin, order, far = (np.empty(faces.size, np.int32) for _ in range(3))
    first = np.zeros(vertex_count + 1, np.int32)
    call(kernels.sort_half_edges, faces, first, order, far)
    parallel_for(kernels.pair_half_edges, vertex_count, first, order, far, twin)
    return twin


def next_half_edges(half_edges: NDArray[_Index]) -> NDArray[_Index]:
    """Return the next half-edge of the same face, which starts at the end of the given one."""
    return np.where(half_edges % 3 == 2, half_edges - 2, half_edges + 1)  # noqa: PLR2004


def is_watertight(faces: NDArray[np.int32], twin: NDArray[np.int32]) -> bool:
    """Return whether each edge has exactly two faces, with consistent winding."""
    if twin.size == 0 or int(twin.min()) < 0:
        return False
    return bool(np.all(faces.reshape(-1) != faces.reshape(-1)[twin]))


def corner_lists(
    faces: NDArray[np.int32], vertex_count: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """List the corners at each vertex.

    Returns:
        first: int32 [N + 1], index in `corners` at which the list of a vertex starts.
        corners: int32 [3 * F], `3 * face + k`, ascending for each vertex.
    """
    first = np.zeros(vertex_count + 1, np.int32)
    corners = np.empty(faces.size, np.int32)
    call(kernels.list_corners, faces, first, corners)
    return first, corners
