"""Rays through a few faces, against one face at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from trellis2_server.export.triangle_tree import TriangleTree
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def count_met(triangles: Floats, point: Floats, direction: Floats) -> int:
    """How many faces a ray meets, by a linear system for each: no face is along the ray."""
    a, b, c = triangles.swapaxes(0, 1)
    systems = np.stack([b - a, c - a, np.broadcast_to(-direction, a.shape)], axis=-1)
    s, t, distance = np.linalg.solve(systems, (point - a)[..., None])[..., 0].T
    return int(((np.minimum(np.minimum(s, t), 1 - s - t) >= 0) & (distance > 0)).sum())


@pytest.mark.parametrize(
    "direction",
    [(0.3, 0.7, -0.2), (-1, -2, -3), (1, 0, 0), (0, -1, 0), (0, 0, 1), (0.5, 0, -0.5), (9, 9, 8)],
)
def test_a_ray_meets_the_faces_that_are_in_its_way(direction: tuple[float, float, float]) -> None:
    random = np.random.default_rng(5)
    corners = random.uniform(-0.5, 0.5, (80, 1, 3)) + random.uniform(-0.3, 0.3, (80, 3, 3))
    faces = np.arange(240, dtype=np.int32).reshape(-1, 3)
    mesh = Mesh(corners.reshape(-1, 3).astype(np.float32), faces)
    points = random.uniform(-0.6, 0.6, (25, 3))
    along = np.array(direction, np.float64)
    counts = TriangleTree(mesh).count_crossings(points, along)
    triangles = mesh.vertices.astype(np.float64)[mesh.faces]
    assert counts.tolist() == [count_met(triangles, point, along) for point in points]
    assert counts.sum() >= 5


def test_a_wall_is_as_thick_as_the_nearest_face_that_looks_the_other_way() -> None:
    """Of a box, from four points of each face, against its normal."""
    corners = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float64)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([(q[0], q[i], q[i + 1]) for q in quads for i in (1, 2)], np.int32)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    sizes = np.array([0.1, 0.3, 0.7])
    vertices = (corners * sizes @ turn.T).astype(np.float32)
    walls = TriangleTree(Mesh(vertices, faces)).measure_walls()
    assert walls == pytest.approx(np.repeat(sizes, 4), rel=1e-4)
    # A face that looks to the same side is no wall: without its opposite, there is none.
    open_box = TriangleTree(Mesh(vertices, faces[2:])).measure_walls()
    assert np.isinf(open_box[:2]).all()
    assert open_box[2:] == pytest.approx(np.repeat(sizes[1:], 4), rel=1e-4)
