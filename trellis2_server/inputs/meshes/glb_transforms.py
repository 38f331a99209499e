"""The transforms of a glTF file's nodes.

Khronos, "glTF 2.0 Specification", chapter 3.5.3.

Does not know: which nodes a scene has.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes.placements import local_transform
from trellis2_server.inputs.meshes.scene import MAX_NODES, check_count

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.inputs.meshes.glb_container import Glb

#: A node's transforms, and their number of values.
_TRANSFORMS: Final = {"matrix": 16, "translation": 3, "rotation": 4, "scale": 3}
#: Integers up to this size are exact as float64.
_MAX_INTEGER: Final = 2**53


def read_transforms(source: dict[str, Any], name: str) -> dict[str, list[int | float]]:
    """Return the transforms of a node; the integers among their values stay integers.

    Args:
        source: the node in the file.
        name: of the node, for error messages.

    Raises:
        InputError: one of them is invalid.
    """
    return {
        transform: _numbers(source[transform], count, f"{transform} of {name}")
        for transform, count in _TRANSFORMS.items()
        if transform in source
    }


def _numbers(values: object, count: int, name: str) -> list[int | float]:
    if not isinstance(values, list) or len(values) != count:
        raise InputError(f"mesh: the {name} of the GLB is not a list of {count} numbers")
    numbers: list[int | float] = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"mesh: the {name} of the GLB is not a list of {count} numbers")
        numbers.append(_number(value))
        if not math.isfinite(numbers[-1]):
            raise InputError(f"mesh: the {name} of the GLB is not finite")
    return numbers


def _number(value: float) -> int | float:
    """Return a number as float64 holds it."""
    if isinstance(value, int) and abs(value) <= _MAX_INTEGER:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf


class NodeTransforms:
    """Transforms of any node of a file to the frame of its tree's root; each is computed once.

    Args:
        file: the file.
    """

    def __init__(self, file: Glb) -> None:
        self._file = file
        self._parents: dict[object, int] = {}
        for index, node in enumerate(file.json.get("nodes", [])):
            for child in node.get("children", []):
                self._parents.setdefault(child, index)
        self._known: dict[int, NDArray[np.float64]] = {}

    def placement(self, index: object) -> NDArray[np.float64]:
        """Return the transform of a node to the scene's frame, float64 [4, 4].

        Raises:
            InputError: there is no such node, it is not in a tree, or a transform is invalid.
        """
        way: list[int] = []
        at: int | None = check_count(index)
        while at is not None and at not in self._known:
            if len(way) > MAX_NODES:
                raise InputError("mesh: the nodes of the GLB do not form a tree")
            way.append(at)
            at = self._parents.get(at)
        placement = np.eye(4) if at is None else self._known[at]
        for node in reversed(way):
            source = self._file.item("nodes", node)
            local = local_transform(read_transforms(source, f"nodes[{node}]"))
            placement = self._known[node] = placement @ local
        return placement
