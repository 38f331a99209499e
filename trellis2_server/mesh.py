"""Meshes, shapes and voxel fields: the arrays between engine, exporter and jobs.

The model frame is TRELLIS.2's: right-handed, Z up, the object's front toward -Y, inside
[-0.5, 0.5]³. Only `export.geometry` converts it to glTF's frame, (x, y, z) → (x, z, -y): Y up,
front toward +Z.

Does not know: files, HTTP, engines.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        faces: int32 [F, 3], rows of `vertices`; counter-clockwise seen from outside. The mesh
            of an engine may be open, non-manifold and without consistent winding, as
            TRELLIS.2's is.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class PreparedMesh(Mesh):
    """A mesh as the exporter writes it: cleaned, remeshed if requested, decimated.

    Attributes:
        warnings: sentences for the client, for example about a missed number of faces.
    """

    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class VoxelField:
    """Material attributes on a sparse grid over [-0.5, 0.5]³ of the model frame.

    Voxel (i, j, k) covers `[i, i+1] / resolution - 0.5` along x, and so on; its value
    belongs to its centre. Trilinear sampling leaves absent voxels out and renormalises.

    Attributes:
        coords: int32 [V, 3], each in [0, resolution), no duplicates, any order.
        attributes: float32 [V, 6]: base colour (sRGB-encoded) 0:3, metallic 3,
            roughness 4, alpha 5. Intended for [0, 1], but *not clamped* by TRELLIS.2.
        resolution: edge of the cube, voxels.
        warnings: sentences for the client, for example about a lower resolution.
        details: what the engine decided, by name, for the client.
    """

    coords: NDArray[np.int32]
    attributes: NDArray[np.float32]
    resolution: int
    warnings: tuple[str, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """Result of an engine's shape stage.

    Attributes:
        mesh: surface, before decimation.
        resolution: edge of the voxel grid that was used, voxels; can be lower than requested.
        state: input of the engine's texture stage, in the engine's own format.
        warnings: sentences for the client, for example about a lower resolution.
        details: what the engine decided, by name, for the client.
    """

    mesh: Mesh
    resolution: int
    state: object
    warnings: tuple[str, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict[str, str])
