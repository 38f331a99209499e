"""Triangles for tests of both rasterizers, and their barycentric coordinates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from trellis2_server.drawing import NUMPY_LOOPS
from trellis2_server.export.pictures import COMPILED_LOOPS

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Samples along an edge of the picture.
N = 24
BOTH = (NUMPY_LOOPS, COMPILED_LOOPS)
LOOPS = pytest.mark.parametrize("loops", BOTH, ids=["numpy", "compiled"])


def weights_at(triangle: NDArray[Any], x: float, y: float) -> NDArray[np.float64]:
    """Barycentric coordinates of a point, by the linear equations that define them."""
    equations = np.vstack([triangle[:, :2].T, np.ones(3)])
    return np.linalg.solve(equations, [x, y, 1.0])


def soup(seed: int, count: int = 8) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Triangles of all sizes that lie across each other, and beyond the picture."""
    chance = np.random.default_rng(seed)
    centers = chance.uniform(-4, N + 4, (count, 1, 2))
    corners = centers + chance.uniform(-1, 1, (count, 3, 2)) * chance.uniform(
        0.5, 20, (count, 1, 1)
    )
    points = np.dstack([corners, chance.uniform(-9, 9, (count, 3, 1))]).reshape(-1, 3)
    return points, chance.permutation(3 * count).reshape(-1, 3).astype(np.int32)
