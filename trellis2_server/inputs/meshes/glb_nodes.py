"""The tree of nodes of a GLB's default scene, and where it places the meshes.

Khronos, "glTF 2.0 Specification", chapter 3.5; KHR_node_visibility.

Does not know: what meshes consist of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes.glb_instances import read_instances
from trellis2_server.inputs.meshes.glb_morphs import read_weights
from trellis2_server.inputs.meshes.glb_transforms import read_transforms
from trellis2_server.inputs.meshes.placements import local_transform
from trellis2_server.inputs.meshes.scene import check_count, check_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.inputs.meshes.glb_accessors import Accessors
    from trellis2_server.inputs.meshes.glb_container import Glb
    from trellis2_server.inputs.meshes.metadata import MetadataFilter


@dataclass(frozen=True, slots=True)
class MeshUse:
    """A mesh as nodes use it: each use has vertices of its own.

    Attributes:
        mesh: index of the mesh in the file.
        skin: index of the skin in the file, or None.
        weights: of the morph targets; all zero: empty.
    """

    mesh: int
    skin: int | None
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class NodeTree:
    """Nodes in the order parent, first child with all below it, next child; then instances.

    Attributes:
        nodes: glTF nodes; `children` are indices of this list, `mesh` is a `MeshUse`.
        roots: indices of the nodes without a parent.
        placements: by use, float64 [4, 4]: the transform of the first node that has it.
    """

    nodes: list[dict[str, Any]]
    roots: list[int]
    placements: dict[MeshUse, NDArray[np.float64]]


@dataclass(slots=True, eq=False)
class _Place:
    """Transform of a node to the scene's frame.

    Attributes:
        matrix: float64 [4, 4].
        error: why it is not known, or None.
    """

    matrix: NDArray[np.float64]
    error: InputError | None = None


def read_nodes(file: Glb, accessors: Accessors, metadata: MetadataFilter) -> NodeTree:
    """Read the visible nodes of the default scene; without scenes, of all trees.

    A transform that is invalid, but places no mesh, is left out.

    Args:
        file: the file.
        accessors: of the file.
        metadata: decides what is kept of names and extras.

    Raises:
        InputError: the nodes are not trees, or a transform is invalid.
        TooLargeError: there are too many nodes and instances.
    """
    declared = _roots(file)
    roots = [root for root in declared if _is_visible(file, root)]
    count, is_any_hidden = len(declared), len(roots) < len(declared)
    nodes: list[dict[str, Any]] = []
    placements: dict[MeshUse, NDArray[np.float64]] = {}
    instances: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    new_index: dict[int, int] = {}
    stack = [(root, _Place(np.eye(4))) for root in reversed(roots)]
    while stack:
        index, outer = stack.pop()
        if index in new_index:
            raise InputError("mesh: the nodes of the GLB do not form a tree")
        new_index[index] = len(nodes)
        source, name = file.item("nodes", index), f"nodes[{index}]"
        node, place = _read_node(source, name, outer, metadata)
        nodes.append(node)
        if "mesh" in source:
            if place.error is not None:
                raise place.error
            use = _read_use(file, source, name)
            copied = read_instances(accessors, source, name)
            if copied is None:
                node["mesh"] = use
                placements.setdefault(use, place.matrix)
            else:
                count += len(copied)
                instances.append((node, [each | {"mesh": use} for each in copied]))
                placements.setdefault(use, place.matrix @ local_transform(copied[0]))
        below = source.get("children") or ()
        count += len(below)
        check_size(0, 0, count)  # hidden nodes count: looking for them takes time
        children = [child for child in below if _is_visible(file, child)]
        is_any_hidden |= len(children) < len(below)
        if children:
            node["children"] = children
        stack += [(child, place) for child in reversed(children)]
    if is_any_hidden and not placements:
        raise InputError("mesh: all nodes of the GLB that have meshes are hidden")
    _connect(nodes, new_index, instances)
    return NodeTree(nodes, [new_index[root] for root in roots], placements)


def _connect(
    nodes: list[dict[str, Any]],
    new_index: dict[int, int],
    instances: list[tuple[dict[str, Any], list[dict[str, Any]]]],
) -> None:
    """Let children refer to the new nodes, and append the instances.

    Args:
        nodes: changed.
        new_index: by the index of a node in the file.
        instances: nodes, and the instances of each.
    """
    for node in nodes:
        if "children" in node:
            node["children"] = [new_index[child] for child in node["children"]]
    for node, copied in instances:
        node["children"] = [
            *node.get("children", ()), *range(len(nodes), len(nodes) + len(copied))
        ]  # fmt: skip
        nodes += copied


def _roots(file: Glb) -> list[Any]:
    """Return the indices of the nodes without a parent in the default scene."""
    nodes = file.json.get("nodes", [])
    check_size(0, 0, len(nodes))
    if file.json.get("scenes"):
        roots = file.item("scenes", file.json.get("scene", 0)).get("nodes", [])
    else:
        children = {child for node in nodes for child in node.get("children", [])}
        roots = [index for index in range(len(nodes)) if index not in children]
    check_size(0, 0, len(roots))
    return roots


def _is_visible(file: Glb, index: object) -> bool:
    """Whether a node, and what is below it, is not hidden."""
    extensions = file.item("nodes", check_count(index)).get("extensions", {})
    return extensions.get("KHR_node_visibility", {}).get("visible") is not False


def _read_node(
    source: dict[str, Any], name: str, outer: _Place, metadata: MetadataFilter
) -> tuple[dict[str, Any], _Place]:
    """Return what is kept of a node, without its children and its mesh, and its place.

    Args:
        source: the node in the file.
        name: of the node, for error messages.
        outer: place of its parent.
        metadata: decides what is kept of names and extras.
    """
    node: dict[str, Any] = {}
    title = metadata.name(source.get("name"))
    if title is not None:
        node["name"] = title
    error = outer.error
    try:
        node |= read_transforms(source, name)
    except InputError as invalid:
        error = invalid
    extras = metadata.extras(source.get("extras"))
    if extras is not None:
        node["extras"] = extras
    matrix = outer.matrix @ local_transform(node)
    if error is None and not np.isfinite(matrix).all():
        error = InputError(
            f"mesh: the transforms of {name} and its parents in the GLB exceed the range of numbers"
        )
    return node, _Place(matrix, error)


def _read_use(file: Glb, source: dict[str, Any], name: str) -> MeshUse:
    """Return which mesh a node has, and how.

    Args:
        file: the file.
        source: the node in the file.
        name: of the node, for error messages.
    """
    index = check_count(source["mesh"])
    mesh = file.item("meshes", index)
    skin = check_count(source["skin"]) if "skin" in source else None
    if "weights" in source:
        weights = read_weights(source["weights"], name)
    else:
        weights = read_weights(mesh.get("weights", []), f"meshes[{index}]")
    return MeshUse(index, skin, weights)
