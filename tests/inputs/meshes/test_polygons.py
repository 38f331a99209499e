from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.meshes import ply
from trellis2_server.errors import TooLargeError
from trellis2_server.inputs.meshes import read_scene
from trellis2_server.inputs.meshes.polygons import triangulate
from trellis2_server.inputs.meshes.scene import MAX_CORNERS, MAX_FACES

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


#: On a parabola, any points in their order are a convex polygon.
CURVE = np.array([[at, at * at, 0] for at in range(10)], np.float64)


@given(st.lists(st.sets(st.integers(0, 9), max_size=6).map(sorted), max_size=6))
def test_convex_polygons_become_fans(polygons: list[list[int]]) -> None:
    corners = np.array([corner for polygon in polygons for corner in polygon], np.int64)
    faces = triangulate(corners, np.array([len(polygon) for polygon in polygons], np.int64), CURVE)
    assert faces.tolist() == [
        [polygon[0], a, b] for polygon in polygons for a, b in pairwise(polygon[1:])
    ]


def test_too_many_triangles_are_refused_before_any_is_made() -> None:
    count = MAX_FACES // (MAX_CORNERS - 2) + 1
    with pytest.raises(TooLargeError, match="limit of 4000000 faces"):
        triangulate(np.zeros(0, np.int64), np.full(count, MAX_CORNERS), CURVE)


def _disc(count: int) -> NDArray[np.float64]:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle), np.zeros(count)], axis=1)


def _obj(count: int) -> bytes:
    lines = "".join("v {:.6f} {:.6f} {:.0f}\n".format(*point) for point in _disc(count).tolist())
    return f"{lines}f {' '.join(map(str, range(1, count + 1)))}\n".encode()


def _ply_text(count: int) -> bytes:
    lines = "".join("{:.6f} {:.6f} {:.0f}\n".format(*point) for point in _disc(count).tolist())
    body = f"{lines}{count} {' '.join(map(str, range(count)))}\n".encode()
    return ply(count, 1, body, "ascii").replace(b"list uchar", b"list uint")


def _ply(count: int, after: bytes = b"") -> bytes:
    polygon = struct.pack("<I", count) + np.arange(count, dtype="<i4").tobytes()
    body = _disc(count).astype("<f4").tobytes() + polygon + after
    return ply(count, 2 if after else 1, body).replace(b"list uchar", b"list uint")


def _ply_among_others(count: int) -> bytes:
    return _ply(count, struct.pack("<I3i", 3, 0, 1, 2))


@pytest.mark.parametrize("make", [_obj, _ply_text, _ply, _ply_among_others])
def test_a_disc_of_many_corners_is_read_and_one_of_too_many_is_refused(
    make: Callable[[int], bytes],
) -> None:
    (part,) = read_scene(make(MAX_CORNERS)).parts
    assert len(part.faces) >= MAX_CORNERS - 2
    with pytest.raises(TooLargeError, match="mesh: a face over the limit of 65536 corners"):
        read_scene(make(MAX_CORNERS + 1))
