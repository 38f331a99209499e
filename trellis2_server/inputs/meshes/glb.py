"""Read glTF files: the triangles, normals and texture coordinates of a tree of nodes.

Khronos, "glTF 2.0 Specification", chapter 3.

Does not know: how data is stored in a file.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from trellis2_server.inputs.meshes.glb_accessors import Accessors
from trellis2_server.inputs.meshes.glb_container import Glb
from trellis2_server.inputs.meshes.glb_extensions import check_required
from trellis2_server.inputs.meshes.glb_nodes import read_nodes
from trellis2_server.inputs.meshes.glb_primitives import (
    declared_faces,
    decompress_primitive,
    has_triangles,
    read_primitive,
)
from trellis2_server.inputs.meshes.glb_sizes import StoredSize
from trellis2_server.inputs.meshes.metadata import MetadataFilter
from trellis2_server.inputs.meshes.scene import Part, Scene, check_declared, check_size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def read_glb(content: bytes) -> Scene:
    """Read the default scene of a GLB, or of glTF as text that embeds its data.

    A mesh that several nodes use is placed by the first.
    """
    file = Glb(content)
    check_required(file.json)
    metadata = MetadataFilter()
    tree = read_nodes(file, metadata)
    accessors = Accessors(file)
    stored_bytes = _check_totals(file, accessors, sorted(tree.placements))
    parts, names = _read_parts(file, accessors, tree.placements, metadata)
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
        stored_bytes=stored_bytes,
    )


def _check_totals(file: Glb, accessors: Accessors, meshes: list[int]) -> int:
    """Check the sizes that the placed meshes declare, before any of them is read.

    Primitives can share an accessor: a small file can declare many copies of its faces. A face has
    at most three vertices of its own, so that the limit on faces is one on vertices, too.

    Returns:
        About the size that the file would have without compression, bytes.
    """
    faces = primitives = 0
    stored = StoredSize(file)
    for index in meshes:
        for primitive in file.item("meshes", index)["primitives"]:
            primitives += 1
            if has_triangles(primitive):
                faces += declared_faces(accessors, primitive)
                stored.add(primitive)
            check_size(0, faces, primitives)
    check_declared(faces, stored.bytes)
    return stored.bytes


def _read_parts(
    file: Glb,
    accessors: Accessors,
    placements: dict[int, NDArray[np.float64]],
    metadata: MetadataFilter,
) -> tuple[list[Part], dict[int, str | None]]:
    """Read the triangles of the placed meshes; return parts, and names of meshes with parts."""
    parts: list[Part] = []
    names: dict[int, str | None] = {}
    vertices = 0
    for index in sorted(placements):
        mesh = file.item("meshes", index)
        for at, primitive in enumerate(mesh["primitives"]):
            if not has_triangles(primitive):
                continue
            name = f"meshes[{index}].primitives[{at}]"
            stored = decompress_primitive(file, accessors, primitive, name)
            read = read_primitive(accessors, stored, name)
            vertices += len(read.positions)
            check_size(vertices, 0)
            if len(read.faces):
                placement = placements[index]
                parts.append(
                    Part(index, read.positions, read.normals, read.uv, read.faces, placement)
                )
                names[index] = None
        if index in names:
            names[index] = metadata.name(mesh.get("name"))
    return parts, names
