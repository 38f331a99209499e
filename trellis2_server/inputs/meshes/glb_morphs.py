"""Morph targets of a glTF primitive, at rest: with the weights that the file gives.

Khronos, "glTF 2.0 Specification", chapter 3.7.2.2.

Does not know: nodes, meshes, animations.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import InputError, TooLargeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.inputs.meshes.glb_accessors import Accessors

#: Maximum number of targets that are applied in a file, and of their vertices. Faces that people
#: animate have some fifty targets; few of them count at rest.
_MAX_TARGETS: Final = 10_000
_MAX_VERTICES: Final = 50_000_000


def read_weights(values: object, name: str) -> tuple[float, ...]:
    """Return the weights of morph targets; empty if all are zero.

    Args:
        values: from the file.
        name: of the node or mesh, for error messages.

    Raises:
        InputError: they are not finite numbers.
    """
    if not isinstance(values, list):
        raise InputError(f"mesh: the weights of {name} of the GLB are not a list")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"mesh: the weights of {name} of the GLB are not numbers")
        if not math.isfinite(value):
            raise InputError(f"mesh: the weights of {name} of the GLB are not finite")
    return tuple(map(float, values)) if any(values) else ()


class MorphTargets:
    """Applies morph targets of a file, until its limits are used up.

    Args:
        accessors: of the file.
    """

    def __init__(self, accessors: Accessors) -> None:
        self._accessors = accessors
        self._targets = self._vertices = 0

    def apply(  # noqa: PLR0913, PLR0917 - what a target belongs to
        self,
        rows: NDArray[np.float32],
        primitive: dict[str, Any],
        attribute: str,
        weights: tuple[float, ...],
        vertices: int,
        used: NDArray[np.int64] | None,
    ) -> NDArray[np.float32]:
        """Return positions or normals with the targets of a primitive applied.

        Args:
            rows: float32 [N, 3], of the used vertices.
            primitive: from the JSON.
            attribute: `POSITION` or `NORMAL`.
            weights: from `read_weights`.
            vertices: number of vertices of the primitive.
            used: int64 [N], rows of its vertices; None: all.

        Raises:
            InputError: a target is invalid.
            TooLargeError: the file has too many targets.
        """
        out: NDArray[np.float64] | None = None
        for weight, target in zip(weights, primitive.get("targets", ()), strict=False):
            if not weight or attribute not in target:
                continue
            self._targets += 1
            self._vertices += len(rows)
            if self._targets > _MAX_TARGETS or self._vertices > _MAX_VERTICES:
                raise TooLargeError(
                    f"mesh: over the limit of {_MAX_TARGETS} morph targets with "
                    f"{_MAX_VERTICES} vertices"
                )
            offsets = self._accessors.rows(target[attribute], "VEC3")
            if offsets.count != vertices:
                raise InputError(
                    f"mesh: a morph target of the GLB has {offsets.count} vertices, its primitive "
                    f"has {vertices}"
                )
            if out is None:
                out = rows.astype(np.float64)
            out += weight * offsets.take(used).astype(np.float64)
        return rows if out is None else out.astype(np.float32)
