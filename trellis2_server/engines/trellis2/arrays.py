"""TRELLIS.2's tensors as NumPy arrays, meshes and voxel fields.

The device idles while its thread works on the CPU: checks and packing run on the tensor's
device, and each array is written once, by the transfer.

Does not know: stages, devices, jobs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import EngineError
from trellis2_server.mesh import Mesh, VoxelField

if TYPE_CHECKING:
    from numpy.typing import NDArray

Tensor = Any

#: Columns of a voxel's attributes, see `VoxelField.attributes`.
_ATTRIBUTES: Final = 6
#: Columns that `pack_signs` packs: children of a voxel.
_BITS: Final = 8


def to_array(tensor: Tensor, dtype: Any) -> NDArray[Any]:
    """Copy a tensor of any device and dtype to a C-contiguous array, in one transfer.

    A wider tensor is converted where it is, so that fewer bytes travel; PyTorch converts a
    narrower one after the transfer.
    """
    array = np.empty(tuple(tensor.shape), dtype)
    # PyTorch writes into the array's own memory: no buffer between, no second copy.
    target: Any = _torch().from_numpy(array)
    if tensor.element_size() > target.element_size():
        tensor = tensor.to(target.dtype)
    target.copy_(tensor)
    return array


def pack_signs(logits: Tensor) -> NDArray[np.uint8]:
    """Pack which logits are positive: [N, 8] → uint8 [N, 1], the first column the highest bit.

    Packed on the device, like `numpy.packbits`.
    """
    bits = (logits > 0).to(_torch().uint8)
    packed = (bits << _shifts(logits.device)).sum(dim=1, keepdim=True, dtype=bits.dtype)
    return to_array(packed, np.uint8)


def unpack_signs(packed: Tensor) -> Tensor:
    """Undo `pack_signs` on the tensor's device: uint8 [N, 1] → bool [N, 8]."""
    return ((packed >> _shifts(packed.device)) & 1).bool()


def _shifts(device: Any) -> Tensor:
    """Bit of each column. Made on the device: a transfer would wait for it."""
    torch = _torch()
    return torch.arange(_BITS - 1, -1, -1, dtype=torch.uint8, device=device)


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite, found on the device: one bit travels."""
    return bool(_torch().isfinite(tensor).all())


def _torch() -> Any:
    return importlib.import_module("torch")


def to_field(voxels: Any, resolution: int) -> VoxelField:
    """Convert a decoded texture, a sparse tensor with feats [V, 6] and coords [V, 4].

    Args:
        voxels: batch of one.
        resolution: edge of the grid, voxels.

    Raises:
        EngineError: the attributes are not finite or not six per voxel.
    """
    if voxels.feats.shape[1] != _ATTRIBUTES or not _is_finite(voxels.feats):
        raise EngineError("TRELLIS.2 made no usable texture; another seed may help")
    return VoxelField(
        coords=to_array(voxels.coords[:, 1:], np.int32),
        attributes=to_array(voxels.feats, np.float32),
        resolution=resolution,
    )


def to_mesh(mesh: Any) -> Mesh:
    """Convert a decoded shape, TRELLIS.2's mesh with vertices [N, 3] and faces [F, 3].

    Raises:
        EngineError: there are no faces, or vertices are not finite.
    """
    if not len(mesh.faces):
        raise EngineError("TRELLIS.2 made no surface from the picture; another seed may help")
    if not _is_finite(mesh.vertices):
        raise EngineError("TRELLIS.2 made a surface with coordinates that are not finite")
    return Mesh(vertices=to_array(mesh.vertices, np.float32), faces=to_array(mesh.faces, np.int32))
