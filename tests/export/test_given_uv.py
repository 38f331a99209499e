"""Limits of texture coordinates that come with a mesh."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trellis2_server.errors import InputError
from trellis2_server.export import given_uv
from trellis2_server.mesh import Mesh


def check(corner: list[list[float]], count: int) -> None:
    """Check faces with the same place in the texture, on a surface where each has an area."""
    surface = Mesh(np.eye(3, dtype=np.float32), np.tile(np.arange(3, dtype=np.int32), (count, 1)))
    scene: Any = None  # only named where a face has no area
    given_uv._check_area(scene, np.tile(np.array(corner, np.float32), (count, 1, 1)), surface)


@pytest.mark.parametrize(
    ("corner", "limit"),
    [([[0, 0], [1, 0], [0, 1]], 16), ([[0.5, 0], [0.5 + 1 / 4096, 0], [0.5, 1]], 20_000)],
    ids=["areas of half a square", "heights of a square"],
)
def test_layers_that_take_long_to_search_are_refused(corner: list[list[float]], limit: int) -> None:
    check(corner, limit)
    with pytest.raises(InputError, match="in many layers"):
        check(corner, limit + 1)
