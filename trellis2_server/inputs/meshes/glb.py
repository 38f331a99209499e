"""Read GLB files: triangles, normals, texture coordinates and the tree of nodes.

Khronos, "glTF 2.0 Specification", chapter 3.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes.glb_container import Glb
from trellis2_server.inputs.meshes.scene import Part, Scene, check_count, check_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: glTF's `primitive.mode`.
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
#: What a scene's nodes take over from the file.
_NODE_KEYS: Final = (
    "name", "children", "matrix", "translation", "rotation", "scale", "mesh", "extras",
)  # fmt: skip


def is_glb(content: bytes) -> bool:
    """Whether the file begins like a GLB."""
    return content.startswith(b"glTF")


def read_glb(content: bytes) -> Scene:
    """Read the default scene of a GLB. A mesh that several nodes use is placed by the first."""
    file = Glb(content)
    scenes = file.json.get("scenes", [])
    all_nodes = file.json.get("nodes", [])
    check_size(0, 0, len(all_nodes))
    if scenes:
        roots = file.item("scenes", file.json.get("scene", 0)).get("nodes", [])
    else:
        children = {child for node in all_nodes for child in node.get("children", [])}
        roots = [index for index in range(len(all_nodes)) if index not in children]
    nodes: list[dict[str, Any]] = []
    placements: dict[int, NDArray[np.float64]] = {}
    new_index: dict[int, int] = {}
    stack = [(check_count(root), np.eye(4)) for root in reversed(roots)]
    while stack:
        index, outer = stack.pop()
        if index in new_index:
            raise InputError("mesh: the nodes of the GLB do not form a tree")
        new_index[index] = len(nodes)
        source = file.item("nodes", index)
        placement = outer @ _transform(source)
        nodes.append({name: source[name] for name in _NODE_KEYS if name in source})
        if "mesh" in source:
            placements.setdefault(check_count(source["mesh"]), placement)
        stack += [(check_count(child), placement) for child in reversed(source.get("children", []))]
    parts, names = _read_parts(file, placements)
    mesh_index = {mesh: at for at, mesh in enumerate(names)}
    for node in nodes:
        if "children" in node:
            node["children"] = [new_index[child] for child in node["children"]]
        if "mesh" in node:
            at = mesh_index.get(node.pop("mesh"))
            if at is not None:
                node["mesh"] = at
    is_double_sided = any(
        material.get("doubleSided") is True for material in file.json.get("materials", [])
    )
    return Scene(
        parts=tuple(replace(part, mesh=mesh_index[part.mesh]) for part in parts),
        nodes=tuple(nodes),
        roots=tuple(new_index[root] for root in roots),
        meshes=tuple(names.values()),
        is_double_sided=is_double_sided,
    )


def _transform(node: dict[str, Any]) -> NDArray[np.float64]:
    """Return a node's transform to its parent's frame, float64 [4, 4]."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    out = np.eye(4)
    x, y, z, w = np.array(node.get("rotation", (0, 0, 0, 1)), np.float64)
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    out[:3, :3] = rotation * np.array(node.get("scale", (1, 1, 1)), np.float64).reshape(3)
    out[:3, 3] = np.array(node.get("translation", (0, 0, 0)), np.float64).reshape(3)
    return out


def _read_parts(
    file: Glb, placements: dict[int, NDArray[np.float64]]
) -> tuple[list[Part], dict[int, str | None]]:
    """Read the triangles of the placed meshes; return parts, and names of meshes with parts."""
    parts: list[Part] = []
    names: dict[int, str | None] = {}
    vertices = faces = primitives = 0
    for index in sorted(placements):
        mesh = file.item("meshes", index)
        for primitive in mesh["primitives"]:
            primitives += 1
            if primitive.get("mode", _TRIANGLES) not in {_TRIANGLES, _STRIP, _FAN}:
                continue
            part = _read_part(file, primitive, index, placements[index])
            vertices, faces = vertices + len(part.positions), faces + len(part.faces)
            check_size(vertices, faces, primitives)
            if len(part.faces):
                parts.append(part)
                name = mesh.get("name")
                names[index] = name if isinstance(name, str) else None
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
    if "indices" in primitive:
        indices = file.rows(primitive["indices"], "SCALAR")[:, 0]
        if indices.dtype.kind != "u" or (indices.size and indices.max() >= len(positions)):
            raise InputError("mesh: a face of the GLB refers to a vertex that does not exist")
        indices = indices.astype(np.int32)
    else:
        indices = np.arange(len(positions), dtype=np.int32)
    return Part(
        mesh, positions, normals, uv, _triangles(indices, primitive.get("mode", 4)), placement
    )


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
