"""Turn, scale and move a model to where a file has it.

Does not know: file formats.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from trellis2_server.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.export.formats.model import Model
    from trellis2_server.parameters import Placement

_LARGEST = float(np.finfo(np.float32).max)


def place(model: Model, placement: Placement) -> Model:
    """Return the model as it lies in a file.

    The front of the object is +Z if Y points up and -Y if Z does, as in Blender and in slicers.

    Raises:
        InputError: the file cannot have numbers of that size.
    """
    positions, normals = model.positions, model.normals
    if placement.up_axis != model.up_axis:
        turn = _z_up if placement.up_axis == "z" else _y_up
        positions, normals = turn(positions), turn(normals)
    low, high = positions.min(axis=0).astype(np.float64), positions.max(axis=0).astype(np.float64)
    scale, offset = scale_and_offset(low, high, placement)
    if scale != 1 or offset.any():
        box = np.array([low, high]) * scale
        if float(np.abs([box, box + offset]).max()) > _LARGEST:
            raise InputError("its size exceeds the range of numbers")
        if not 1 / _LARGEST < scale < _LARGEST:
            positions = positions.astype(np.float64)  # float32 has no such factor
        positions = (positions * scale + offset).astype(np.float32)
    return replace(model, positions=positions, normals=normals, up_axis=placement.up_axis)


def scale_and_offset(
    low: NDArray[np.float64], high: NDArray[np.float64], placement: Placement
) -> tuple[float, NDArray[np.float64]]:
    """Return what positions are multiplied by, and float64 [3], what is then added.

    Args:
        low: float64 [3], least coordinates of the model, whose up axis is the placement's.
        high: float64 [3], greatest coordinates.
        placement: the placement.
    """
    extent = float((high - low).max())
    scale = placement.size / extent if placement.size and extent > 0 else 1.0
    offset = np.zeros(3)
    if placement.origin is not None:
        offset = -(low + high) / 2
        if placement.origin == "floor":
            up = "xyz".index(placement.up_axis)
            offset[up] = -low[up]
    return scale, offset * scale


def _z_up(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    turned = np.stack([rows[:, 0], -rows[:, 2], rows[:, 1]], axis=1)
    return turned + np.float32(0)  # no -0


def _y_up(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    turned = np.stack([rows[:, 0], rows[:, 2], -rows[:, 1]], axis=1)
    return turned + np.float32(0)
