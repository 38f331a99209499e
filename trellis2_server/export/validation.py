"""Check meshes and fields, and bring them into the memory layout that the kernels expect.

Does not know: what the arrays are used for.
"""

from __future__ import annotations

import numpy as np

from trellis2_server.errors import ExportError
from trellis2_server.mesh import Mesh, VoxelField


def checked_mesh(mesh: Mesh) -> Mesh:
    """Return the mesh with contiguous, writable arrays: vertices float32, faces int32.

    Args:
        mesh: of any integer and float types.

    Raises:
        ExportError: a shape, an index or a coordinate is invalid.
    """
    vertices, faces = mesh.vertices, mesh.faces
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


def checked_field(field: VoxelField) -> VoxelField:
    """Return the field with contiguous, writable arrays: coords int32, attributes float32.

    Args:
        field: of any integer and float types.

    Raises:
        ExportError: a shape, a coordinate or a value is invalid.
    """
    coords, attributes, resolution = field.coords, field.attributes, field.resolution
    if coords.ndim != 2 or coords.shape[1] != 3 or attributes.shape != (len(coords), 6):  # noqa: PLR2004
        raise ExportError("A field needs coords [V, 3] and attributes [V, 6].")
    if len(coords) == 0:
        raise ExportError("The field has no voxels.")
    if int(coords.min()) < 0 or int(coords.max()) >= resolution:
        raise ExportError("A voxel of the field lies outside its resolution.")
    if not bool(np.isfinite(attributes).all()):
        raise ExportError("An attribute of the field is not finite.")
    return VoxelField(
        np.require(coords, np.int32, ["C", "W"]),
        np.require(attributes, np.float32, ["C", "W"]),
        int(resolution),
    )
