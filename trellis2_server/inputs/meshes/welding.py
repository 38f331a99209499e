"""Merge vertices at the same position."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray


def weld(points: NDArray[np.float32], faces: NDArray[np.int32]) -> Mesh:
    """Merge vertices with equal coordinates; faces keep their order.

    Args:
        points: float32 [N, 3].
        faces: int32 [F, 3].
    """
    points = points + np.float32(0)  # makes -0.0 and 0.0 equal
    order = np.lexsort(points.T)
    rows = points[order]
    is_new = np.ones(len(rows), bool)
    np.any(rows[1:] != rows[:-1], axis=1, out=is_new[1:])
    index = np.empty(len(rows), np.int32)
    index[order] = (np.cumsum(is_new) - 1).astype(np.int32)
    return Mesh(np.ascontiguousarray(rows[is_new]), index[faces])
