"""Texture coordinates of a mesh: the result of unwrapping.

Does not know: how the coordinates are computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Atlas:
    """The positions of a mesh's faces in a square texture.

    Attributes:
        uv: float32 [M, 2], in texels: x to the right, y downward, inside [0, size_px].
        source: int32 [M], the mesh vertex of each row of `uv`.
        faces: int32 [F, 3], rows of `uv`, in the order and winding of the mesh's faces.
        chart: int32 [F], the chart of each face.
        size_px: edge of the texture, texels.
    """

    uv: NDArray[np.float32]
    source: NDArray[np.int32]
    faces: NDArray[np.int32]
    chart: NDArray[np.int32]
    size_px: int
