"""TRELLIS.2's tensors as NumPy arrays, meshes and voxel fields.

Does not know: stages, devices, jobs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import EngineError
from trellis2_server.mesh import Mesh, VoxelField

if TYPE_CHECKING:
    from numpy.typing import NDArray

Tensor = Any

#: Columns of a voxel's attributes, see `VoxelField.attributes`.
_ATTRIBUTES: Final = 6


def to_array(tensor: Tensor, dtype: Any) -> NDArray[Any]:
    """Copy a tensor of any device and dtype to a C-contiguous array."""
    if dtype == np.float32:
        tensor = tensor.float()  # NumPy has no bfloat16
    return np.array(tensor.cpu().numpy(), dtype=dtype, order="C")


def pack_signs(logits: Tensor) -> NDArray[np.uint8]:
    """Pack which logits are positive: [N, 8] → uint8 [N, 1], one bit per column."""
    return np.packbits((logits > 0).cpu().numpy(), axis=1)


def unpack_signs(bits: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Undo `pack_signs`: uint8 [N, 1] → bool [N, 8]."""
    return np.unpackbits(bits, axis=1).astype(bool)


def to_field(voxels: Any, resolution: int) -> VoxelField:
    """Convert a decoded texture, a sparse tensor with feats [V, 6] and coords [V, 4].

    Args:
        voxels: batch of one.
        resolution: edge of the grid, voxels.

    Raises:
        EngineError: the attributes are not finite or not six per voxel.
    """
    attributes = to_array(voxels.feats, np.float32)
    if attributes.shape[1] != _ATTRIBUTES or not np.isfinite(attributes).all():
        raise EngineError("TRELLIS.2 made no usable texture; another seed may help")
    return VoxelField(
        coords=np.ascontiguousarray(to_array(voxels.coords, np.int32)[:, 1:]),
        attributes=attributes,
        resolution=resolution,
    )


def to_mesh(mesh: Any) -> Mesh:
    """Convert a decoded shape, TRELLIS.2's mesh with vertices [N, 3] and faces [F, 3].

    Raises:
        EngineError: there are no faces, or vertices are not finite.
    """
    vertices, faces = to_array(mesh.vertices, np.float32), to_array(mesh.faces, np.int32)
    if not len(faces):
        raise EngineError("TRELLIS.2 made no surface from the picture; another seed may help")
    if not np.isfinite(vertices).all():
        raise EngineError("TRELLIS.2 made a surface with coordinates that are not finite")
    return Mesh(vertices=vertices, faces=faces)
