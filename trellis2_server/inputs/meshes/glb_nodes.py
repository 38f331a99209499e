"""The tree of nodes of a GLB's default scene, and where it places the meshes.

Khronos, "glTF 2.0 Specification", chapter 3.5.

Does not know: what meshes consist of.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes.scene import check_count, check_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.inputs.meshes.glb_container import Glb
    from trellis2_server.inputs.meshes.metadata import MetadataFilter

#: A node's transforms, and their number of values.
_TRANSFORMS: Final = {"matrix": 16, "translation": 3, "rotation": 4, "scale": 3}
#: Integers up to this size are exact as float64.
_MAX_INTEGER: Final = 2**53


@dataclass(frozen=True, slots=True, eq=False)
class NodeTree:
    """Nodes in the order parent, first child with all below it, next child.

    Attributes:
        nodes: glTF nodes; `children` are indices of this list, `mesh` is that of the file.
        roots: indices of the nodes without a parent.
        placements: by mesh of the file, float64 [4, 4]: the transform of the first node that
            has the mesh.
    """

    nodes: list[dict[str, Any]]
    roots: list[int]
    placements: dict[int, NDArray[np.float64]]


def read_nodes(file: Glb, metadata: MetadataFilter) -> NodeTree:
    """Read the nodes of the default scene; without scenes, of all trees.

    Args:
        file: the file.
        metadata: decides what is kept of names and extras.

    Raises:
        InputError: the nodes are not trees, or a transform is invalid.
        TooLargeError: there are too many nodes.
    """
    roots = _roots(file)
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
        node = _read_node(source, metadata)
        placement = outer @ _transform(node)
        if not np.isfinite(placement).all():
            raise InputError("mesh: the transforms of the GLB's nodes exceed the range of numbers")
        nodes.append(node)
        if "mesh" in node:
            placements.setdefault(node["mesh"], placement)
        children = node.get("children", ())
        check_size(0, 0, len(nodes) + len(stack) + len(children))
        stack += [(check_count(child), placement) for child in reversed(children)]
    for node in nodes:
        if "children" in node:
            node["children"] = [new_index[child] for child in node["children"]]
    return NodeTree(nodes, [new_index[root] for root in roots], placements)


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


def _read_node(source: dict[str, Any], metadata: MetadataFilter) -> dict[str, Any]:
    """Return what is kept of a node."""
    node: dict[str, Any] = {}
    name = metadata.name(source.get("name"))
    if name is not None:
        node["name"] = name
    if source.get("children"):
        node["children"] = source["children"]
    for transform, count in _TRANSFORMS.items():
        if transform in source:
            node[transform] = _numbers(source[transform], count)
    extras = metadata.extras(source.get("extras"))
    if extras is not None:
        node["extras"] = extras
    if "mesh" in source:
        node["mesh"] = check_count(source["mesh"])
    return node


def _numbers(values: object, count: int) -> list[int | float]:
    """Return the values of a transform; the integers among them stay integers."""
    if not isinstance(values, list) or len(values) != count:
        raise InputError("mesh: a transform in the GLB has a wrong number of values")
    numbers: list[int | float] = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError("mesh: a transform in the GLB is not made of numbers")
        # An integer beyond float64 raises OverflowError.
        number = value if abs(value) <= _MAX_INTEGER and isinstance(value, int) else float(value)
        if not math.isfinite(number):
            raise InputError("mesh: a transform in the GLB is not finite")
        numbers.append(number)
    return numbers


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
    out[:3, :3] = rotation * np.array(node.get("scale", (1, 1, 1)), np.float64)
    out[:3, 3] = node.get("translation", (0, 0, 0))
    return out
