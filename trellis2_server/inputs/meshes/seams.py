"""Vertices of polygons whose corners have texture coordinates of their own.

Does not know: file formats, normals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Seams:
    """Vertices that have one pair of texture coordinates each.

    Attributes:
        source: int64 [V], the vertex of the file, ascending.
        uv: float32 [V, 2]; NaN for a vertex of a corner without.
        corners: int64 [C], rows of the two.
    """

    source: NDArray[np.int64]
    uv: NDArray[np.float32]
    corners: NDArray[np.int64]


def cut_seams(corners: NDArray[Any], rows: NDArray[Any], uv: NDArray[Any]) -> Seams:
    """Return vertices for each pair of texture coordinates that corners have at a vertex.

    Args:
        corners: integers [C], vertices.
        rows: integers [C], rows of the coordinates; -1: none.
        uv: [M, 2]. Those that are not finite count as 0.
    """
    known = np.append(np.nan_to_num(uv.astype(np.float32), posinf=0, neginf=0), [[np.nan] * 2], 0)
    # The last row is that of corners without.
    keys = corners.astype(np.int64) * len(known) + (rows.astype(np.int64) % len(known))
    found, index = np.unique(keys, return_inverse=True)
    source, row = np.divmod(found, len(known))
    return Seams(source, known[row].astype(np.float32), index.reshape(-1))
