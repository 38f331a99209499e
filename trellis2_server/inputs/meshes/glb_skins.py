"""Skins of a glTF file, in the pose of its nodes.

Khronos, "glTF 2.0 Specification", chapter 3.7.3.

Does not know: which nodes have skins, animations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.meshes.glb_transforms import NodeTransforms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.inputs.meshes.glb_accessors import Accessors
    from trellis2_server.inputs.meshes.glb_container import Glb

#: Maximum number of joints of all skins. Figures have some hundred.
_MAX_JOINTS: Final = 200_000
#: Maximum number of attributes JOINTS_0, JOINTS_1 and so on; each has four joints.
_MAX_SETS: Final = 8
#: Distance between two images of a vertex that count as one, in extents of the mesh. Programs
#: write inverse bind matrices as float32.
_TOLERANCE: Final = 1e-5
_VERTICES_AT_ONCE: Final = 16_384


@dataclass(frozen=True, slots=True, eq=False)
class Influences:
    """Which joints move the vertices of a primitive.

    Attributes:
        joints: int32 [N, K], joints of the skin.
        weights: float32 [N, K], from 0; at least one in a row is positive.
    """

    joints: NDArray[np.int32]
    weights: NDArray[np.float32]

    def used_joints(self) -> NDArray[np.int32]:
        """Return the joints that move any vertex, ascending."""
        return np.unique(self.joints[self.weights > 0])


def read_influences(
    accessors: Accessors,
    attributes: dict[str, Any],
    vertices: int,
    used: NDArray[np.int64] | None,
    name: str,
) -> Influences:
    """Read the joints and weights of a primitive's vertices.

    A vertex without a weight follows its first joint, as other programs do.

    Args:
        accessors: of the file.
        attributes: of the primitive.
        vertices: number of its vertices.
        used: int64 [N], the vertices to read; None: all.
        name: of the primitive, for error messages.

    Raises:
        InputError: the attributes are invalid.
        TooLargeError: there are too many.
    """
    count = vertices if used is None else len(used)
    joints, weights = [np.zeros((count, 1), np.int32)], [np.zeros((count, 1), np.float32)]
    at = 0
    while f"JOINTS_{at}" in attributes and f"WEIGHTS_{at}" in attributes:
        if at >= _MAX_SETS:
            raise TooLargeError(f"mesh: {name} over the limit of {_MAX_SETS} sets of joints")
        joint_rows = accessors.rows(attributes[f"JOINTS_{at}"], "VEC4")
        weight_rows = accessors.rows(attributes[f"WEIGHTS_{at}"], "VEC4")
        if joint_rows.dtype.itemsize > 2 or joint_rows.dtype.kind != "u":  # noqa: PLR2004
            raise InputError(f"mesh: the joints of {name} of the GLB are not bytes or shorts")
        if not joint_rows.count == weight_rows.count == vertices:
            raise InputError(
                f"mesh: {name} of the GLB has {vertices} vertices, but joints for "
                f"{joint_rows.count} and weights for {weight_rows.count}"
            )
        joints.append(joint_rows.take(used).astype(np.int32))
        weights.append(weight_rows.take(used).astype(np.float32))
        at += 1
    if at:
        del joints[0], weights[0]
    joint, weight = np.concatenate(joints, axis=1), np.concatenate(weights, axis=1)
    weight[~(np.isfinite(weight) & (weight > 0))] = 0
    weight[~weight.any(axis=1), 0] = 1
    return Influences(joint, weight)


class Skins:
    """The joints of a file's skins; each skin is read once.

    Args:
        file: the file.
        accessors: of the file.
    """

    def __init__(self, file: Glb, accessors: Accessors) -> None:
        self._file = file
        self._accessors = accessors
        self._transforms: NodeTransforms | None = None
        self._matrices: dict[int, NDArray[np.float64]] = {}
        self._joints = 0

    def matrices(self, index: int) -> NDArray[np.float64]:
        """Return the transforms from a mesh's frame to the scene's by joint, float64 [J, 4, 4].

        Raises:
            InputError: the skin is invalid.
            TooLargeError: the skins have too many joints.
        """
        if index not in self._matrices:
            self._matrices[index] = self._read(index)
        return self._matrices[index]

    def _read(self, index: int) -> NDArray[np.float64]:
        skin, name = self._file.item("skins", index), f"skins[{index}]"
        joints = skin.get("joints")
        if not isinstance(joints, list) or not joints:
            raise InputError(f"mesh: {name} of the GLB has no joints")
        self._joints += len(joints)
        if self._joints > _MAX_JOINTS:
            raise TooLargeError(f"mesh: over the limit of {_MAX_JOINTS} joints of skins")
        if self._transforms is None:
            self._transforms = NodeTransforms(self._file)
        out = np.array([self._transforms.placement(joint) for joint in joints])
        if "inverseBindMatrices" in skin:
            rows = self._accessors.rows(skin["inverseBindMatrices"], "MAT4")
            if rows.count < len(joints):
                raise InputError(
                    f"mesh: {name} of the GLB has {len(joints)} joints, but {rows.count} matrices"
                )
            inverse = rows.take(np.arange(len(joints))).astype(np.float64)
            out = out @ inverse.reshape(-1, 4, 4).transpose(0, 2, 1)
        out[:, 3] = (0, 0, 0, 1)
        if not np.isfinite(out).all():
            raise InputError(f"mesh: the joints of {name} of the GLB exceed the range of numbers")
        return out


def common_matrix(
    low: NDArray[np.floating], high: NDArray[np.floating], matrices: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Return the transform that all joints share; None if they move a mesh differently.

    Args:
        low: [3], least coordinates of the mesh.
        high: [3], largest.
        matrices: float64 [J, 4, 4], at least one.

    Returns:
        float64 [4, 4]; exactly the identity if that is as good.
    """
    is_high = np.array([[at >> axis & 1 for axis in range(3)] for at in range(8)], bool)
    box = np.where(is_high, high, low).astype(np.float64)
    placed = box @ matrices[:, :3, :3].transpose(0, 2, 1) + matrices[:, None, :3, 3]
    for matrix in (np.eye(4), matrices[0]):
        # Two affine transforms differ most in a corner.
        image = box @ matrix[:3, :3].T + matrix[:3, 3]
        if np.abs(placed - image).max() <= _TOLERANCE * np.ptp(image, axis=0).max():
            return matrix
    return None


def blend(
    positions: NDArray[np.float32],
    normals: NDArray[np.float32] | None,
    faces: NDArray[np.int32],
    influences: Influences,
    matrices: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float32] | None, NDArray[np.int32]]:
    """Move vertices by their joints.

    Faces that a mirroring joint turns inside out are turned back.

    Args:
        positions: float32 [N, 3].
        normals: float32 [N, 3], or None.
        faces: int32 [F, 3].
        influences: of the vertices.
        matrices: float64 [J, 4, 4], by joint.

    Returns:
        positions: float64 [N, 3], in the scene's frame.
        normals: float32 [N, 3], of any length, or None.
        faces: int32 [F, 3].
    """
    placed = np.empty(positions.shape)
    turned = None if normals is None else np.empty_like(normals)
    is_mirrored = np.zeros(len(positions), bool)
    affine = matrices[:, :3]
    for start in range(0, len(positions), _VERTICES_AT_ONCE):
        rows = slice(start, start + _VERTICES_AT_ONCE)
        joints, weights = influences.joints[rows], influences.weights[rows].astype(np.float64)
        weights /= weights.sum(axis=1, keepdims=True)
        blended = np.zeros((len(joints), 3, 4))
        for joint, weight in zip(joints.T, weights.T, strict=True):
            blended += weight[:, None, None] * affine[np.where(weight > 0, joint, 0)]
        linear = blended[:, :, :3]
        placed[rows] = np.einsum("nij,nj->ni", linear, positions[rows]) + blended[:, :, 3]
        # The inverse transposed, times the determinant, exists for every transform.
        cofactors = np.cross(linear[:, [1, 2, 0]], linear[:, [2, 0, 1]])
        is_mirrored[rows] = np.einsum("nj,nj->n", linear[:, 0], cofactors[:, 0]) < 0
        if normals is not None and turned is not None:
            directions = np.einsum("nij,nj->ni", cofactors, normals[rows])
            length = np.linalg.norm(directions, axis=1, keepdims=True)
            directions /= np.where(length == 0, 1, length)
            directions[is_mirrored[rows]] *= -1
            turned[rows] = directions
    is_flipped = is_mirrored[faces].sum(axis=1) > 1
    if is_flipped.any():
        faces = np.where(is_flipped[:, None], faces[:, ::-1], faces)
    return placed, turned, faces
