"""The triangles of a glTF primitive, with the vertices that they use.

Khronos, "glTF 2.0 Specification", chapters 3.7.2.1 and 3.7.2.2.

Does not know: nodes, names, how accessors are stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes.glb_draco import decompress, draco_of, import_draco
from trellis2_server.inputs.meshes.glb_skins import Influences, read_influences
from trellis2_server.inputs.meshes.scene import check_size
from trellis2_server.inputs.meshes.visibility import compact, visible_faces

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.inputs.meshes.glb_accessors import Accessors, Rows
    from trellis2_server.inputs.meshes.glb_container import Glb
    from trellis2_server.inputs.meshes.glb_morphs import MorphTargets

#: glTF's `primitive.mode`.
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_MODES: Final = {_TRIANGLES, _STRIP, _FAN}
#: Beginnings of the names of attributes that are read.
_ATTRIBUTES: Final = ("POSITION", "NORMAL", "TEXCOORD_0", "JOINTS_", "WEIGHTS_")


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """The triangles of a primitive.

    Attributes:
        positions: float32 [N, 3].
        normals: float32 [N, 3] of length 1, or None.
        uv: float32 [N, 2], or None.
        faces: int32 [F, 3].
        influences: of the joints of a skin, or None.
    """

    positions: NDArray[np.float32]
    normals: NDArray[np.float32] | None
    uv: NDArray[np.float32] | None
    faces: NDArray[np.int32]
    influences: Influences | None = None


def has_triangles(primitive: dict[str, Any]) -> bool:
    """Whether a primitive is made of triangles, not of points or lines."""
    return primitive.get("mode", _TRIANGLES) in _MODES


def declared_faces(accessors: Accessors, primitive: dict[str, Any]) -> int:
    """Return the number of faces that a primitive of triangles declares."""
    corners = accessors.count(primitive.get("indices", primitive["attributes"]["POSITION"]))
    mode = primitive.get("mode", _TRIANGLES)
    return corners // 3 if mode == _TRIANGLES else max(corners - 2, 0)


def decompress_primitive(
    file: Glb, accessors: Accessors, primitive: dict[str, Any], name: str
) -> dict[str, Any]:
    """Decompress a primitive if Draco compresses it; the accessors then have its rows.

    Args:
        file: the file.
        accessors: of the file.
        primitive: from the JSON; what it declares is within the limits.
        name: of the primitive, for error messages.

    Returns:
        The primitive, as it is to be read.

    Raises:
        InputError: the bytes are damaged, or do not fit to what the JSON says of them.
        MissingPackageError: the package that decompresses them is not installed.
    """
    about = draco_of(primitive)
    if about is None:
        return primitive
    attributes, indices = primitive["attributes"], primitive.get("indices")
    if import_draco() is None and all(
        "bufferView" in file.item("accessors", at) for at in (attributes["POSITION"], indices)
    ):
        return primitive  # the same triangles, not compressed
    if indices is None:
        raise InputError(f"mesh: {name} of the GLB has Draco compression, but no indices")
    mesh = decompress(
        bytes(file.view(about.get("bufferView"))),
        name,
        faces=accessors.count(indices) // 3,
        vertices=accessors.count(attributes["POSITION"]),
    )
    accessors.provide(indices, mesh.faces.reshape(-1, 1), name)
    for attribute, key in about.get("attributes", {}).items():
        if attribute not in attributes or not attribute.startswith(_ATTRIBUTES):
            continue
        if key not in mesh.attributes:
            raise InputError(f"mesh: {name} of the GLB has no {attribute} in its Draco compression")
        accessors.provide(attributes[attribute], mesh.attributes[key], name)
    # Draco stores no strips: what was one is a list of triangles.
    return {**primitive, "mode": _TRIANGLES}


def read_primitive(  # noqa: PLR0913 - what a node adds to a primitive
    accessors: Accessors,
    primitive: dict[str, Any],
    name: str,
    morphs: MorphTargets,
    weights: tuple[float, ...] = (),
    *,
    is_skinned: bool = False,
) -> Geometry:
    """Read a primitive of triangles.

    Args:
        accessors: of the file.
        primitive: from the JSON; what it declares is within the limits.
        name: of the primitive, for error messages.
        morphs: applies morph targets.
        weights: of the morph targets.
        is_skinned: whether joints and their weights are read, too.

    Raises:
        InputError: an accessor cannot be read, or they do not fit together.
    """
    attributes = primitive["attributes"]
    positions = accessors.rows(attributes["POSITION"], "VEC3")
    faces, used = _faces(accessors, primitive, positions.count, name)
    normals = uv = None
    if "NORMAL" in attributes:
        rows = accessors.rows(attributes["NORMAL"], "VEC3")
        if rows.count != positions.count:
            raise InputError(
                f"mesh: {name} of the GLB has {positions.count} vertices but {rows.count} normals"
            )
        directions = _floats(rows, used)
        if weights:
            count = positions.count
            directions = morphs.apply(directions, primitive, "NORMAL", weights, count, used)
        normals = unit_normals(directions)
    if "TEXCOORD_0" in attributes:
        rows = accessors.rows(attributes["TEXCOORD_0"], "VEC2")
        if rows.count == positions.count:
            uv = _floats(rows, used)
            uv[~np.isfinite(uv)] = 0
    points = _floats(positions, used)
    if weights:
        points = morphs.apply(points, primitive, "POSITION", weights, positions.count, used)
    influences = None
    if is_skinned:
        influences = read_influences(accessors, attributes, positions.count, used, name)
    return Geometry(points, normals, uv, faces, influences)


def _floats(rows: Rows, used: NDArray[np.int64] | None) -> NDArray[np.float32]:
    return np.ascontiguousarray(rows.take(used), np.float32)


def unit_normals(normals: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale directions to length 1; those that are far from it are replaced.

    Args:
        normals: float32 [N, 3], changed in place.
    """
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    is_bad = ~((length[:, 0] > 0.5) & (length[:, 0] < 2.0))  # noqa: PLR2004
    normals /= np.where(is_bad[:, None], np.float32(1), length)
    normals[is_bad] = (0, 0, 1)
    return normals


def _faces(
    accessors: Accessors, primitive: dict[str, Any], vertices: int, name: str
) -> tuple[NDArray[np.int32], NDArray[np.int64] | None]:
    """Return the faces that show something as rows of the used vertices, and those vertices."""
    mode = primitive.get("mode", _TRIANGLES)
    if "indices" in primitive:
        rows = accessors.rows(primitive["indices"], "SCALAR")
        if rows.dtype.kind != "u":
            raise InputError(f"mesh: the indices of {name} of the GLB are not unsigned integers")
        check_size(0, rows.count // 3, is_own=accessors.is_own)
        # Zeros, which no buffer stores, are faces of one vertex.
        stored = rows.take()[:, 0] if not rows.is_zero else np.zeros(0, np.uint32)
        if stored.size and int(stored.max()) >= min(vertices, 2**31):
            raise InputError(
                f"mesh: a face of {name} of the GLB refers to vertex {int(stored.max())}, "
                f"a vertex that does not exist: it has {vertices}"
            )
        corners = stored.astype(np.int32)
    else:
        corners = np.arange(vertices, dtype=np.int32)
    faces, used = compact(_triangles(corners, mode), vertices)
    count = vertices if used is None else len(used)
    visible = visible_faces(faces, count)
    if len(visible) == len(faces):
        return faces, used
    visible, rest = compact(visible, count)
    if rest is not None:
        used = rest if used is None else used[rest]
    return visible, used


def _triangles(corners: NDArray[np.int32], mode: int) -> NDArray[np.int32]:
    """Convert a triangle list, strip or fan to faces, int32 [F, 3]."""
    if mode == _TRIANGLES:
        return corners[: len(corners) // 3 * 3].reshape(-1, 3)
    if mode == _FAN:
        rim = corners[1:]
        hub = np.full(max(len(rim) - 1, 0), corners[0] if len(corners) else 0, np.int32)
        return np.stack([rim[:-1], rim[1:], hub], axis=1)
    faces = np.stack([corners[:-2], corners[1:-1], corners[2:]], axis=1)
    faces[1::2] = faces[1::2][:, [0, 2, 1]]
    return faces
