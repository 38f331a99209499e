"""Check meshes and fields, and bring them into the memory layout that the kernels expect.

Does not know: tensors on a device, see `device`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trellis2_server.errors import ExportError
from trellis2_server.mesh import Mesh, VoxelField

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def checked_mesh(mesh: Mesh) -> Mesh:
    """Return the mesh with contiguous, writable arrays: vertices float32, faces int32.

    Args:
        mesh: NumPy arrays, or tensors in the CPU's memory or on a device.

    Raises:
        ExportError: a shape, an index or a coordinate is invalid.
    """
    vertices, faces = _to_numpy(mesh.vertices), _to_numpy(mesh.faces)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:  # noqa: PLR2004
        raise ExportError("A mesh needs vertices [N, 3] and faces [F, 3].")
    if len(faces) == 0:
        raise ExportError("The mesh has no faces.")
    if int(faces.min()) < 0 or int(faces.max()) >= len(vertices):
        raise ExportError("A face of the mesh refers to a vertex that does not exist.")
    if not bool(np.isfinite(vertices).all()):
        raise ExportError("A vertex of the mesh is not finite.")
    return Mesh(
        np.require(vertices, np.float32, ["C", "W"]), np.require(faces, np.int32, ["C", "W"])
    )


def check_field(
    coords: Any, attributes: Any, resolution: int, isfinite: Callable[[Any], Any]
) -> None:
    """Return if the arrays of a field are valid.

    Args:
        coords: voxels [V, 3], an array or a tensor.
        attributes: their attributes [V, 6], likewise.
        resolution: voxels along an edge of the cube.
        isfinite: the function of that name of the arrays' library.

    Raises:
        ExportError: a shape, a coordinate or a value is invalid.
    """
    if coords.ndim != 2 or coords.shape[1] != 3 or attributes.shape != (len(coords), 6):  # noqa: PLR2004
        raise ExportError("A field needs coords [V, 3] and attributes [V, 6].")
    if len(coords) == 0:
        raise ExportError("The field has no voxels.")
    if int(coords.min()) < 0 or int(coords.max()) >= resolution:
        raise ExportError("A voxel of the field lies outside its resolution.")
    if not bool(isfinite(attributes).all()):
        raise ExportError("An attribute of the field is not finite.")


def checked_field(field: VoxelField) -> VoxelField:
    """Return the field with contiguous, writable arrays: coords int32, attributes float32.

    Args:
        field: NumPy arrays, or tensors in the CPU's memory or on a device.

    Raises:
        ExportError: a shape, a coordinate or a value is invalid.
    """
    coords, attributes = _to_numpy(field.coords), _to_numpy(field.attributes)
    check_field(coords, attributes, field.resolution, np.isfinite)
    return VoxelField(
        np.require(coords, np.int32, ["C", "W"]),
        np.require(attributes, np.float32, ["C", "W"]),
        int(field.resolution),
    )


def _to_numpy(array: Any) -> NDArray[Any]:
    return np.asarray(array.cpu()) if hasattr(array, "cpu") else array
