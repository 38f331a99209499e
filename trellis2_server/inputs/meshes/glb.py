"""Read glTF files: the triangles, normals and texture coordinates of a tree of nodes.

Khronos, "glTF 2.0 Specification", chapter 3.

Does not know: how data is stored in a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.inputs.meshes.glb_accessors import Accessors
from trellis2_server.inputs.meshes.glb_container import Glb
from trellis2_server.inputs.meshes.glb_extensions import check_required, unread_geometry
from trellis2_server.inputs.meshes.glb_meshes import MeshReader
from trellis2_server.inputs.meshes.glb_nodes import read_nodes
from trellis2_server.inputs.meshes.metadata import MetadataFilter
from trellis2_server.inputs.meshes.placements import node_placements
from trellis2_server.inputs.meshes.scene import Part, Scene, check_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.inputs.meshes.glb_nodes import MeshUse, NodeTree

#: What is kept of a node, in the order in which it is passed on.
_NODE: Final = (
    "name", "children", "matrix", "translation", "rotation", "scale", "extras", "mesh",
)  # fmt: skip


def read_glb(content: bytes, *, is_own: bool = False) -> Scene:
    """Read the default scene of a GLB, or of glTF as text that embeds its data.

    A mesh that several nodes use is placed by the first.

    Args:
        content: of the file.
        is_own: see `scene.check_size`.
    """
    file = Glb(content)
    check_required(file.json)
    accessors, metadata = Accessors(file, is_own=is_own), MetadataFilter()
    tree = read_nodes(file, accessors, metadata)
    parts, names, posed, stored_bytes = _read_parts(file, accessors, tree, metadata)
    _place_posed(tree, posed)
    mesh_index = {use: at for at, use in enumerate(names)}
    for node in tree.nodes:
        if "mesh" in node:
            at = mesh_index.get(node.pop("mesh"))
            if at is not None:
                node["mesh"] = at
    nodes = [{key: node[key] for key in _NODE if key in node} for node in tree.nodes]
    is_double_sided = any(
        material.get("doubleSided") is True for material in file.json.get("materials", [])
    )
    return Scene(
        parts=tuple(parts),
        nodes=tuple(nodes),
        roots=tuple(tree.roots),
        meshes=tuple(names.values()),
        is_double_sided=is_double_sided,
        stored_bytes=stored_bytes,
        unread=unread_geometry(file.json),
    )


def _read_parts(
    file: Glb, accessors: Accessors, tree: NodeTree, metadata: MetadataFilter
) -> tuple[list[Part], dict[MeshUse, str | None], dict[MeshUse, NDArray[np.float64]], int]:
    """Read the triangles of the placed meshes.

    Returns:
        The parts.
        Names of the meshes with parts, in their order.
        Where skins place meshes, float64 [4, 4].
        About the size that the file would have without compression, bytes.
    """
    reader = MeshReader(file, accessors)
    uses = sorted(tree.placements, key=lambda use: use.mesh)
    stored_bytes = reader.check_totals(uses)
    parts: list[Part] = []
    names: dict[MeshUse, str | None] = {}
    posed: dict[MeshUse, NDArray[np.float64]] = {}
    for use in uses:
        geometries, pose = reader.read(use)
        if not geometries:
            continue
        placement = tree.placements[use]
        if pose is not None:
            placement = posed[use] = pose
        parts += [
            Part(len(names), each.positions, each.normals, each.uv, each.faces, placement)
            for each in geometries
        ]
        names[use] = metadata.name(file.item("meshes", use.mesh).get("name"))
    return parts, names, posed, stored_bytes


def _place_posed(tree: NodeTree, posed: dict[MeshUse, NDArray[np.float64]]) -> None:
    """Place the meshes that have skins: the transforms of their nodes do not count.

    Where a node is elsewhere, a root gets its mesh, name and extras.

    Args:
        tree: changed.
        posed: float64 [4, 4], by use.
    """
    if not posed:
        return
    placements = node_placements(tree.nodes, tree.roots)
    for node, placement in zip(tree.nodes.copy(), placements, strict=True):
        if node.get("mesh") not in posed:
            continue
        matrix = posed[node["mesh"]]
        if np.array_equal(placement, matrix):
            continue
        moved = {name: node.pop(name) for name in ("name", "extras") if name in node}
        moved["matrix"] = matrix.T.ravel().tolist()
        moved["mesh"] = node.pop("mesh")
        tree.roots.append(len(tree.nodes))
        tree.nodes.append(moved)
        check_size(0, 0, len(tree.nodes))
