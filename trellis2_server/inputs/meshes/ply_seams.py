"""Texture coordinates of the corners of a PLY's faces, as MeshLab writes them.

Does not know: how rows are stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trellis2_server.inputs.meshes.ply_rows import row_error
from trellis2_server.inputs.meshes.scene import check_size
from trellis2_server.inputs.meshes.seams import Seams, cut_seams, to_gltf

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.inputs.meshes.ply_rows import RowLists


def cut_corners(
    corners: NDArray[np.int64], sizes: NDArray[np.int64], texture: RowLists | None = None
) -> Seams | None:
    """Return vertices that have one pair of coordinates each; None: no corner has any.

    Args:
        corners: int64 [C], vertices of all faces.
        sizes: integers [F], numbers of corners.
        texture: of the faces, two numbers for each corner, the second upwards; empty for none.

    Raises:
        InputError: a face has more or fewer.
        TooLargeError: there are more vertices than the limit allows.
    """
    if texture is None or not texture.sizes.any():
        return None
    is_bad = (texture.sizes != 0) & (texture.sizes != 2 * sizes)
    if is_bad.any():
        row = int(is_bad.argmax())
        raise row_error(
            "face",
            row,
            f"texcoord has {texture.sizes[row]} numbers, not two for each of {sizes[row]} corners",
        )
    pairs = np.ascontiguousarray(to_gltf(texture.values.reshape(-1, 2)))
    # Equal pairs are one row.
    known, index = np.unique(pairs.view(np.uint64), return_inverse=True)
    rows = np.full(len(corners), -1, np.int64)
    rows[np.repeat(texture.sizes > 0, sizes)] = index.reshape(-1)
    seams = cut_seams(corners, rows, known.view(np.float32).reshape(-1, 2))
    check_size(len(seams.source), 0)
    return seams
