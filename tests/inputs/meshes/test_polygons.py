from __future__ import annotations

import importlib.util
import struct
import sys
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.meshes import ply
from trellis2_server.errors import MissingPackageError, TooLargeError
from trellis2_server.inputs.meshes import polygons as module
from trellis2_server.inputs.meshes import read_scene
from trellis2_server.inputs.meshes.polygons import triangulate
from trellis2_server.inputs.meshes.scene import MAX_CORNERS, MAX_FACES

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from numpy.typing import NDArray


needs_earcut = pytest.mark.skipif(
    importlib.util.find_spec("mapbox_earcut") is None, reason="needs mapbox_earcut"
)

#: On a parabola, any points in their order are a convex polygon.
CURVE = np.array([[at, at * at, 0] for at in range(10)], np.float64)


@given(st.lists(st.sets(st.integers(0, 9), max_size=6).map(sorted), max_size=6))
def test_convex_polygons_become_fans(polygons: list[list[int]]) -> None:
    corners = np.array([corner for polygon in polygons for corner in polygon], np.int64)
    faces = triangulate(corners, np.array([len(polygon) for polygon in polygons], np.int64), CURVE)
    assert faces.tolist() == [
        [polygon[0], a, b] for polygon in polygons for a, b in pairwise(polygon[1:])
    ]


U = np.array([(0, 0), (3, 0), (3, 3), (2, 3), (2, 1), (1, 1), (1, 3), (0, 3)], np.float64)
DART = np.array([(0, 0), (2, 1), (0, 2), (0.6, 1)], np.float64)
KEYHOLE = np.array(
    [(0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (1, 1), (1, 3), (3, 3), (3, 1), (1, 1)], np.float64
)
#: With corners on straight edges.
NOTCHED = np.array(
    [(0, 0), (1, 0), (2, 0), (2, 1), (1, 1), (1, 1.5), (1, 2), (0, 2), (0, 1)], np.float64
)


@needs_earcut
@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize(
    ("outline", "area"), [(U, 7.0), (DART, 1.4), (KEYHOLE, 12.0), (NOTCHED, 3.0)]
)
def test_a_concave_polygon_is_covered_from_any_first_corner(
    outline: NDArray[np.float64], area: float, axes: tuple[int, int, int]
) -> None:
    count = len(outline)
    points = np.column_stack([outline, np.full(count, 5.0)])[:, axes]
    for first in range(count):
        corners = np.roll(np.arange(count), first)
        faces = triangulate(corners, np.array([count]), points)
        sides = points[faces]
        crosses = np.cross(sides[:, 1] - sides[:, 0], sides[:, 2] - sides[:, 0])
        assert len(faces) == count - 2
        assert np.linalg.norm(crosses, axis=1).sum() / 2 == pytest.approx(area)
        # All look to the side of the polygon: the sum of their areas is as long.
        around = np.cross(points[corners], np.roll(points[corners], -1, axis=0)).sum(axis=0)
        np.testing.assert_allclose(crosses.sum(axis=0), around, atol=1e-9)
        assert {*faces.ravel().tolist()} == {*range(count)}


@given(st.lists(st.integers(0, 2), min_size=3, max_size=5), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_corners_on_straight_edges_leave_nothing_open(counts: list[int], chance: Random) -> None:
    """Each edge of the polygon has one triangle, and each other edge two."""
    count = sum(counts) + len(counts)
    turning = [sum(counts[:at]) + at for at in range(len(counts))]
    first = chance.randrange(len(counts))
    fan = turning[first:] + turning[:first]
    faces = [[fan[0], *pair] for pair in pairwise(fan[1:])]
    for face in faces:
        shift = chance.randrange(3)
        face[:] = face[shift:] + face[:shift]
    chance.shuffle(faces)
    found = module._with_all_corners(np.array(faces), count)
    assert len(found) == count - 2
    edges = Counter((face[k], face[(k + 1) % 3]) for face in found.tolist() for k in range(3))
    assert set(edges.values()) == {1}
    open_edges = {(a, b) for a, b in edges if (b, a) not in edges}
    assert open_edges == {(at, (at + 1) % count) for at in range(count)}


@needs_earcut
def test_concave_polygons_among_others_keep_their_places() -> None:
    points = np.column_stack([U, np.zeros(len(U))])
    corners = np.array([0, 1, 2, *range(8), 0, 3, 4, 5, 0, 1])
    faces = triangulate(corners, np.array([3, 8, 4, 2]), points)
    assert faces[0].tolist() == [0, 1, 2]
    assert len(faces) == 1 + 6 + 2


@needs_earcut
def test_a_polygon_without_area_is_no_surface() -> None:
    line = np.array([[at % 3, 0, 0] for at in range(7)], np.float64)
    faces = triangulate(np.arange(7), np.array([7]), line)
    assert len(faces) == 5


@needs_earcut
def test_outlines_made_to_be_slow_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.column_stack([U, np.zeros(len(U))])
    corners = np.random.default_rng(0).integers(0, 8, 400)
    work = 10 * 400**2 + 50_000  # ten times: the same eight points again and again
    monkeypatch.setattr(module, "_MAX_WORK", work)
    triangulate(corners, np.array([400]), points)
    monkeypatch.setattr(module, "_MAX_WORK", work - 1)
    with pytest.raises(TooLargeError, match="too many concave faces"):
        triangulate(corners, np.array([400]), points)


def test_without_earcut_a_concave_polygon_names_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "mapbox_earcut", None)
    points = np.column_stack([U, np.zeros(len(U))])
    with pytest.raises(MissingPackageError, match="pip install mapbox_earcut"):
        triangulate(np.arange(8), np.array([8]), points)


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


@pytest.mark.costly
@pytest.mark.parametrize("make", [_obj, _ply_text, _ply, _ply_among_others])
def test_a_disc_of_many_corners_is_read_and_one_of_too_many_is_refused(
    make: Callable[[int], bytes],
) -> None:
    (part,) = read_scene(make(MAX_CORNERS)).parts
    assert len(part.faces) >= MAX_CORNERS - 2
    with pytest.raises(TooLargeError, match="mesh: a face over the limit of 65536 corners"):
        read_scene(make(MAX_CORNERS + 1))
