"""Read GLB files: the triangles, normals and texture coordinates of a tree of nodes.

Khronos, "glTF 2.0 Specification", chapter 3.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes.glb_container import Glb
from trellis2_server.inputs.meshes.glb_nodes import read_nodes
from trellis2_server.inputs.meshes.metadata import MetadataFilter
from trellis2_server.inputs.meshes.scene import Part, Scene, check_size
from trellis2_server.inputs.meshes.visibility import used_vertices, visible_faces

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: glTF's `primitive.mode`.
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_MODES: Final = {_TRIANGLES, _STRIP, _FAN}


def is_glb(content: bytes) -> bool:
    """Whether the file begins like a GLB."""
    return content.startswith(b"glTF")


def read_glb(content: bytes) -> Scene:
    """Read the default scene of a GLB. A mesh that several nodes use is placed by the first."""
    file = Glb(content)
    metadata = MetadataFilter()
    tree = read_nodes(file, metadata)
    _check_totals(file, sorted(tree.placements))
    parts, names = _read_parts(file, tree.placements, metadata)
    mesh_index = {mesh: at for at, mesh in enumerate(names)}
    for node in tree.nodes:
        if "mesh" in node:
            at = mesh_index.get(node.pop("mesh"))
            if at is not None:
                node["mesh"] = at
    is_double_sided = any(
        material.get("doubleSided") is True for material in file.json.get("materials", [])
    )
    return Scene(
        parts=tuple(replace(part, mesh=mesh_index[part.mesh]) for part in parts),
        nodes=tuple(tree.nodes),
        roots=tuple(tree.roots),
        meshes=tuple(names.values()),
        is_double_sided=is_double_sided,
    )


def _check_totals(file: Glb, meshes: list[int]) -> None:
    """Check the sizes that the placed meshes declare, before any of them is copied.

    Primitives can share an accessor: a small file can declare many copies of its vertices.
    """
    vertices = faces = primitives = 0
    for index in meshes:
        for primitive in file.item("meshes", index)["primitives"]:
            primitives += 1
            mode = primitive.get("mode", _TRIANGLES)
            if mode not in _MODES:
                continue
            count = corners = file.count(primitive["attributes"]["POSITION"])
            if "indices" in primitive:
                corners = file.count(primitive["indices"])
            vertices += count
            faces += corners // 3 if mode == _TRIANGLES else max(corners - 2, 0)
            check_size(vertices, faces, primitives)
    check_size(0, 0, primitives)


def _read_parts(
    file: Glb, placements: dict[int, NDArray[np.float64]], metadata: MetadataFilter
) -> tuple[list[Part], dict[int, str | None]]:
    """Read the triangles of the placed meshes; return parts, and names of meshes with parts."""
    parts: list[Part] = []
    names: dict[int, str | None] = {}
    for index in sorted(placements):
        mesh = file.item("meshes", index)
        for primitive in mesh["primitives"]:
            if primitive.get("mode", _TRIANGLES) not in _MODES:
                continue
            part = _read_part(file, primitive, index, placements[index])
            if len(part.faces):
                parts.append(part)
                names[index] = None
        if index in names:
            names[index] = metadata.name(mesh.get("name"))
    return parts, names


def _read_part(
    file: Glb, primitive: dict[str, Any], mesh: int, placement: NDArray[np.float64]
) -> Part:
    attributes = primitive["attributes"]
    positions = np.array(file.rows(attributes["POSITION"], "VEC3"), np.float32)
    normals = uv = None
    if "NORMAL" in attributes:
        normals = np.array(file.rows(attributes["NORMAL"], "VEC3"), np.float32)
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        # Invalid directions are replaced; the others are only scaled to length 1.
        is_bad = ~((length[:, 0] > 0.5) & (length[:, 0] < 2.0))  # noqa: PLR2004
        normals /= np.where(is_bad[:, None], np.float32(1), length)
        normals[is_bad] = (0, 0, 1)
        if len(normals) != len(positions):
            raise InputError("mesh: a primitive of the GLB has more vertices than normals")
    if "TEXCOORD_0" in attributes:
        uv = np.array(file.rows(attributes["TEXCOORD_0"], "VEC2"), np.float32)
        uv[~np.isfinite(uv)] = 0
        if len(uv) != len(positions):
            uv = None
    if "indices" in primitive:
        indices = file.rows(primitive["indices"], "SCALAR")[:, 0]
        if indices.dtype.kind != "u" or (indices.size and indices.max() >= len(positions)):
            raise InputError("mesh: a face of the GLB refers to a vertex that does not exist")
        indices = indices.astype(np.int32)
    else:
        indices = np.arange(len(positions), dtype=np.int32)
    faces = visible_faces(_triangles(indices, primitive.get("mode", _TRIANGLES)), len(positions))
    used = used_vertices(faces, len(positions))
    if used is not None:
        faces = np.searchsorted(used, faces).astype(np.int32)
        positions = positions[used]
        normals = None if normals is None else normals[used]
        uv = None if uv is None else uv[used]
    return Part(mesh, positions, normals, uv, faces, placement)


def _triangles(indices: NDArray[np.int32], mode: int) -> NDArray[np.int32]:
    """Convert a triangle list, strip or fan to faces, int32 [F, 3]."""
    if mode == _TRIANGLES:
        return indices[: len(indices) // 3 * 3].reshape(-1, 3)
    if mode == _FAN:
        rim = indices[1:]
        hub = np.full(max(len(rim) - 1, 0), indices[0], np.int32)
        return np.stack([rim[:-1], rim[1:], hub], axis=1)
    faces = np.stack([indices[:-2], indices[1:-1], indices[2:]], axis=1)
    faces[1::2] = faces[1::2][:, [0, 2, 1]]
    return faces
