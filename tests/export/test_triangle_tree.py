"""Touching faces, rays and walls, against linear programs and formulas."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from tests.support import shapes
from trellis2_server.export.triangle_tree import TriangleTree
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray


def largest_share(one: NDArray[np.float64], two: NDArray[np.float64], shared: int) -> float:
    """Return how far a common point of two triangles can be from the corners that they share.

    Args:
        one: float64 [3, 3], a triangle.
        two: the other one.
        shared: how many of their first corners are the same.

    Returns:
        Largest weight of the other corners in a common point, 0 … 1; -1: there is no such point.
    """
    cost = np.zeros(6)
    cost[shared:3] = -1.0
    equal = np.zeros((5, 6))
    equal[:3, :3], equal[:3, 3:] = one.T, -two.T
    equal[3, :3], equal[4, 3:] = 1.0, 1.0
    found = linprog(cost, A_eq=equal, b_eq=[0, 0, 0, 1, 1], bounds=(0, 1), method="highs")
    return -float(found.fun) if found.status == 0 else -1.0


#: So few places that triangles often lie in a plane, and touch at corners and edges.
_PLACES = st.tuples(*[st.integers(0, 3)] * 3)


@settings(max_examples=150, deadline=None)
@given(places=st.lists(_PLACES, min_size=6, max_size=6), shared=st.integers(0, 2))
@example(places=[(0, 0, 0), (3, 0, 0), (0, 3, 0), (1, 1, 0), (1, 1, 3), (2, 2, 3)], shared=0)
@example(places=[(0, 0, 0), (3, 0, 0), (0, 3, 0), (0, 0, 0), (2, 0, 0), (2, 0, 2)], shared=1)
@example(places=[(0, 0, 0), (3, 0, 0), (0, 3, 0), (0, 0, 0), (3, 0, 0), (1, 1, 0)], shared=2)
@example(places=[(0, 0, 0), (3, 0, 0), (0, 3, 0), (0, 0, 0), (3, 0, 0), (0, 0, 3)], shared=2)
def test_two_triangles_touch_where_a_linear_program_finds_a_common_point(
    places: list[tuple[int, int, int]], shared: int
) -> None:
    places[3 : 3 + shared] = places[:shared]
    corners = np.array(places, np.float64).reshape(2, 3, 3)
    area = np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    assume((area > 0).all())
    faces = np.array([[0, 1, 2], [3, 4, 5]], np.int32)
    faces[1, :shared] = faces[0, :shared]
    turned = np.array([np.roll(faces[0], places[0][0]), faces[1][::-1]], np.int32)
    mesh = Mesh(corners.reshape(-1, 3).astype(np.float32), turned)
    share = largest_share(*corners, shared=shared)
    touches = share > 1e-6 or (shared == 0 and share >= 0)
    assert (TriangleTree(mesh).find_touching() >= 0).tolist() == [touches, touches]


def test_a_face_without_an_area_touches_itself() -> None:
    points = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 0, 1]], np.float32)
    mesh = Mesh(points, np.array([[0, 1, 2], [0, 2, 3]], np.int32))
    assert TriangleTree(mesh).find_touching()[0] == 0


@pytest.mark.parametrize("shape", ["torus", "sphere", "thin_box", "links"])
def test_surfaces_that_do_not_touch_are_told_from_moved_ones_that_do(shape: str) -> None:
    whole = shapes.ALL[shape]()
    tree = TriangleTree(whole)
    assert (tree.find_touching() < 0).all()
    spiked = whole.vertices.copy()
    spiked[0] = -1.5 * spiked[0]  # through the opposite side
    tree.move(spiked)
    wanted = np.arange(len(whole.faces), dtype=np.int32)
    touching = tree.find_touching()
    assert (touching[(whole.faces == 0).any(axis=1)] >= 0).any()
    np.testing.assert_array_equal(tree.find_touching(wanted[::7]), touching[::7])
    fresh = TriangleTree(Mesh(spiked, whole.faces)).find_touching()
    np.testing.assert_array_equal(fresh >= 0, touching >= 0)


def test_rays_leave_a_solid_once_more_than_they_enter_it() -> None:
    mesh = shapes.torus()
    points = np.random.default_rng(3).uniform(-0.4, 0.4, (500, 3))
    counts = TriangleTree(mesh).count_crossings(points, np.array([0.3, 0.7, -0.2]))
    from_ring = np.hypot(np.hypot(points[:, 0], points[:, 1]) - 0.25, points[:, 2])
    is_clear = np.abs(from_ring - 0.09) > 0.003  # the torus has facets
    np.testing.assert_array_equal((counts % 2 == 1)[is_clear], (from_ring < 0.09)[is_clear])


@pytest.mark.parametrize("thickness", [0.004, 0.05, 0.2])
def test_the_thickness_of_a_plate_is_that_of_its_wall(thickness: float) -> None:
    plate = shapes.blocks(np.ones((4, 4, 1), bool))
    vertices = plate.vertices * np.array([1, 1, thickness / np.ptp(plate.vertices[:, 2])])
    walls = TriangleTree(Mesh(vertices.astype(np.float32), plate.faces)).measure_walls()
    a, b, c = (vertices[plate.faces[:, k]] for k in range(3))
    is_flat = np.abs(np.cross(b - a, c - a)[:, 2]) > 1e-6
    np.testing.assert_allclose(walls[is_flat], thickness, rtol=1e-5)
    np.testing.assert_allclose(walls[~is_flat], 0.9, rtol=1e-5)


def test_the_order_of_the_tree_does_not_matter() -> None:
    mesh = shapes.links()
    order = np.random.default_rng(1).permutation(len(mesh.faces))
    shuffled = TriangleTree(Mesh(mesh.vertices, mesh.faces[order])).find_touching() >= 0
    assert np.array_equal(shuffled, (TriangleTree(mesh).find_touching() >= 0)[order])
