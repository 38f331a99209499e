"""Model that is drawn: triangles and one material."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class DrawnModel:
    """Triangles and a material, in glTF's frame (Y up, front toward +Z).

    Attributes:
        positions: vertices, float32 [N, 3].
        faces: vertex indices, counter-clockwise from outside, int32 [F, 3].
        normals: unit normals, float32 [N, 3]; smooth ones if the file has none.
        uvs: texture coordinates, float32 [N, 2]; zeros if the file has none.
        base_color: base colour, texture times factor, sRGB, uint8 [H, W, 4]; one pixel without
            a texture.
        is_textured: whether the base colour has a texture.
        alpha_mode: OPAQUE, MASK or BLEND.
        alpha_cutoff: smallest visible alpha if the mode is MASK, 0 to 1.
        double_sided: whether back faces are drawn.
    """

    positions: NDArray[np.float32]
    faces: NDArray[np.int32]
    normals: NDArray[np.float32]
    uvs: NDArray[np.float32]
    base_color: NDArray[np.uint8]
    is_textured: bool
    alpha_mode: str
    alpha_cutoff: float
    double_sided: bool
