"""Where the nodes of a scene place its meshes.

Khronos, "glTF 2.0 Specification", chapter 3.5.2.

Does not know: file formats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


def local_transform(node: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return a glTF node's transform to its parent's frame, float64 [4, 4]."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    out = np.eye(4)
    if "rotation" in node or "scale" in node:
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


def node_placements(
    nodes: Sequence[Mapping[str, Any]], roots: Sequence[int]
) -> NDArray[np.float64]:
    """Return the transforms from the nodes' frames to the scene's, float64 [N, 4, 4].

    Args:
        nodes: of a scene; they form trees.
        roots: the nodes without a parent.
    """
    out = np.array([local_transform(node) for node in nodes]).reshape(-1, 4, 4)
    stack = list(roots)
    while stack:
        index = stack.pop()
        for child in nodes[index].get("children", ()):
            out[child] = out[index] @ out[child]
            stack.append(child)
    return out
