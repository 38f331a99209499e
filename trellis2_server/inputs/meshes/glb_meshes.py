"""The triangles of a glTF mesh as nodes use it: with morph targets and in the pose of its skin.

Khronos, "glTF 2.0 Specification", chapter 3.7.

Does not know: nodes, names.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes.glb_morphs import MorphTargets
from trellis2_server.inputs.meshes.glb_primitives import (
    declared_faces,
    decompress_primitive,
    has_triangles,
    read_primitive,
    unit_normals,
)
from trellis2_server.inputs.meshes.glb_sizes import StoredSize
from trellis2_server.inputs.meshes.glb_skins import Skins, blend, common_matrix
from trellis2_server.inputs.meshes.scene import check_declared, check_size, far_offset

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.inputs.meshes.glb_accessors import Accessors
    from trellis2_server.inputs.meshes.glb_container import Glb
    from trellis2_server.inputs.meshes.glb_nodes import MeshUse
    from trellis2_server.inputs.meshes.glb_primitives import Geometry

_SKIN_ATTRIBUTE: Final = "JOINTS_0"


class MeshReader:
    """Reads the meshes of a file, until the limits are used up.

    Args:
        file: the file.
        accessors: of the file.
    """

    def __init__(self, file: Glb, accessors: Accessors) -> None:
        self._file = file
        self._accessors = accessors
        self._morphs = MorphTargets(accessors)
        self._skins = Skins(file, accessors)
        self._vertices = 0

    def check_totals(self, uses: list[MeshUse]) -> int:
        """Check the sizes that meshes declare, before any of them is read.

        Primitives can share an accessor: a small file can declare many copies of its faces. A face
        has at most three vertices of its own, so that the limit on faces is one on vertices, too.

        Returns:
            About the size that the file would have without compression, bytes.
        """
        faces = primitives = 0
        stored = StoredSize(self._file)
        for use in uses:
            for primitive in self._file.item("meshes", use.mesh)["primitives"]:
                primitives += 1
                if has_triangles(primitive):
                    faces += declared_faces(self._accessors, primitive)
                    stored.add(primitive)
                check_size(0, faces, primitives, is_own=self._accessors.is_own)
        check_declared(faces, stored.bytes)
        return stored.bytes

    def is_skinned(self, use: MeshUse) -> bool:
        """Whether the nodes' transforms do not count: the joints place the mesh."""
        return use.skin is not None and any(
            _SKIN_ATTRIBUTE in primitive["attributes"] for primitive in self._primitives(use)
        )

    def read(self, use: MeshUse) -> tuple[list[Geometry], NDArray[np.float64] | None]:
        """Read a mesh.

        Returns:
            The primitives that have faces.
            float64 [4, 4], transform from their frame to the scene's; None: that of the node.

        Raises:
            InputError: the mesh is invalid.
            TooLargeError: it exceeds a limit.
        """
        is_skinned = self.is_skinned(use)
        read: list[Geometry] = []
        for at, primitive in enumerate(self._file.item("meshes", use.mesh)["primitives"]):
            if not has_triangles(primitive):
                continue
            name = f"meshes[{use.mesh}].primitives[{at}]"
            geometry = read_primitive(
                self._accessors,
                decompress_primitive(self._file, self._accessors, primitive, name),
                name,
                self._morphs,
                use.weights,
                is_skinned=is_skinned,
            )
            self._vertices += len(geometry.positions)
            check_size(self._vertices, 0, is_own=self._accessors.is_own)
            if len(geometry.faces):
                read.append(geometry)
        if use.skin is None or not is_skinned or not read:
            return read, None
        return _posed(read, self._skins.matrices(use.skin), f"skins[{use.skin}]")

    def _primitives(self, use: MeshUse) -> list[dict[str, Any]]:
        primitives = self._file.item("meshes", use.mesh)["primitives"]
        return [primitive for primitive in primitives if has_triangles(primitive)]


def _posed(
    read: list[Geometry], matrices: NDArray[np.float64], skin: str
) -> tuple[list[Geometry], NDArray[np.float64]]:
    """Return primitives as their joints place them, and the transform to the scene's frame.

    Positions stay as they are if all joints agree: most files are saved in the pose in which the
    skin was made.
    """
    influences = [each.influences for each in read if each.influences is not None]
    joints = np.unique(np.concatenate([each.used_joints() for each in influences]))
    if joints[-1] >= len(matrices):
        raise InputError(
            f"mesh: a vertex of the GLB refers to joint {joints[-1]} of {skin}, which has "
            f"{len(matrices)} joints"
        )
    low = np.min([each.positions.min(axis=0) for each in read], axis=0)
    high = np.max([each.positions.max(axis=0) for each in read], axis=0)
    common = common_matrix(low, high, matrices[joints])
    if common is not None:
        return read, common
    placed = [
        blend(each.positions, each.normals, each.faces, moved_by, matrices)
        for each, moved_by in zip(read, influences, strict=True)
    ]
    corners = np.array([f(rows, axis=0) for rows, _, _ in placed for f in (np.min, np.max)])
    offset = far_offset(corners, np.arange(len(corners))[:, None])
    placement = np.eye(4)
    if offset is not None:
        placement[:3, 3] = offset
    moved = [
        replace(
            each,
            positions=(positions - placement[:3, 3]).astype(np.float32),
            normals=None if normals is None else unit_normals(normals),
            faces=faces,
        )
        for each, (positions, normals, faces) in zip(read, placed, strict=True)
    ]
    return moved, placement
