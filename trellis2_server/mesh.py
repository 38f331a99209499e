"""What travels between the engine, the exporter and the jobs: plain arrays, frozen.

The model frame is TRELLIS.2's: right-handed, Z up, the object's front toward -Y, inside
[-0.5, 0.5]³. Only `export.glb` turns it into glTF's frame, (x, y, z) → (x, z, -y): Y up,
front toward +Z.

What this module does not know: files, HTTP, which engine made the arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Columns of `VoxelField.attributes`, as TRELLIS.2 lays them out.
BASE_COLOR: Final = slice(0, 3)
METALLIC: Final = 3
ROUGHNESS: Final = 4
ALPHA: Final = 5


@dataclass(frozen=True, slots=True, eq=False)
class Mesh:
    """A triangle mesh in the model frame.

    Attributes:
        vertices: float32 [N, 3].
        faces: int32 [F, 3], rows of `vertices`; counter-clockwise seen from outside where
            the surface has an outside. An engine may hand over an open, non-manifold mesh
            without consistent winding: TRELLIS.2 does.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class VoxelField:
    """Material attributes on a sparse grid over [-0.5, 0.5]³ of the model frame.

    Voxel (i, j, k) covers `[i, i+1] / resolution - 0.5` along x, and so on; its value
    belongs to its centre. Trilinear sampling drops absent voxels and renormalises.

    Attributes:
        coords: int32 [V, 3], each in [0, resolution), no duplicates, any order.
        attributes: float32 [V, 6]: base colour (sRGB-encoded) 0:3, metallic 3,
            roughness 4, alpha 5. Meant for [0, 1] but *not clamped* by TRELLIS.2.
        resolution: voxels along an edge of the cube.
        warnings: sentences for the client: what was given up to make it at all.
    """

    coords: NDArray[np.int32]
    attributes: NDArray[np.float32]
    resolution: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What an engine's shape stage makes.

    Attributes:
        mesh: the surface, before any decimation.
        resolution: voxels along the cube's edge that were really used; it can be lower than
            what was asked for.
        state: what the engine's texture stage goes on from; opaque to everybody else.
        warnings: sentences for the client: what was given up to make it at all.
    """

    mesh: Mesh
    resolution: int
    state: object
    warnings: tuple[str, ...] = ()
