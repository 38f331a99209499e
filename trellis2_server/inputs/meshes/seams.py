"""Texture coordinates of files, and vertices of polygons whose corners have their own.

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


def to_gltf(coordinates: NDArray[Any]) -> NDArray[np.float32]:
    """Return texture coordinates as in glTF, float32 [M, 2]; what is not finite counts as 0.

    Args:
        coordinates: [M, 2], the second upwards.
    """
    turned = np.stack([coordinates[:, 0], 1 - coordinates[:, 1]], axis=1)
    return np.nan_to_num(turned.astype(np.float32), posinf=0, neginf=0)


def cut_seams(corners: NDArray[Any], rows: NDArray[Any], uv: NDArray[np.float32]) -> Seams:
    """Return vertices for each pair of texture coordinates that corners have at a vertex.

    Args:
        corners: integers [C], vertices.
        rows: integers [C], rows of the coordinates; -1: none.
        uv: float32 [M, 2].
    """
    known = np.concatenate([uv, np.full((1, 2), np.nan, np.float32)])
    # The last row is that of corners without.
    keys = corners.astype(np.int64) * len(known) + (rows.astype(np.int64) % len(known))
    found, index = np.unique(keys, return_inverse=True)
    source, row = np.divmod(found, len(known))
    return Seams(source, known[row], index.reshape(-1))
