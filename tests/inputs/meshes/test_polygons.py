from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellis2_server.errors import TooLargeError
from trellis2_server.inputs.meshes.polygons import triangulate
from trellis2_server.inputs.meshes.scene import MAX_FACES


@given(st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=6))
def test_polygons_become_fans(polygons: list[list[int]]) -> None:
    corners = np.array([corner for polygon in polygons for corner in polygon], np.int64)
    faces = triangulate(corners, np.array([len(polygon) for polygon in polygons], np.int64))
    assert faces.tolist() == [
        [polygon[0], a, b] for polygon in polygons for a, b in pairwise(polygon[1:])
    ]


def test_too_many_triangles_are_refused_before_any_is_made() -> None:
    with pytest.raises(TooLargeError, match="faces"):
        triangulate(np.zeros(0, np.int64), np.array([MAX_FACES + 3]))
