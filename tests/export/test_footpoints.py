"""Closest points of charts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support import shapes
from trellis2_server.export.atlas import Atlas
from trellis2_server.export.bake import closest_points
from trellis2_server.export.footpoints import Footpoints, find_footpoints

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.mesh import Mesh

#: Texels along the unit square.
SIDE = 32


def plate() -> tuple[Mesh, Atlas]:
    """A unit square in the plane z = 0, whose only chart begins at texel (10, 10)."""
    mesh = shapes.grid(9, 9, lambda u, v: np.stack([u, v, 0 * u], -1), wraps=(False, False))
    uv = (mesh.vertices[:, :2] * SIDE + 10).astype(np.float32)
    rows = np.arange(len(uv), dtype=np.int32)
    return mesh, Atlas(uv, rows, mesh.faces, np.zeros(len(mesh.faces), np.int32), 64)


def find(points: list[list[float]], gutter: float = 2, *, is_held: bool = False) -> Footpoints:
    mesh, atlas = plate()
    places = np.array(points, np.float32)
    held, rows = np.full(len(places), is_held), np.zeros(len(places), np.int32)
    return find_footpoints(places, rows, held, mesh, atlas, gutter)


def texels(feet: Footpoints) -> NDArray[np.float32]:
    _, atlas = plate()
    return feet.interpolate(atlas.uv, atlas.faces) - 10


def test_a_search_walks_across_the_chart() -> None:
    feet = find([[0.9, 0.8, 0.05], [0.3, 0.6, -0.02], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(
        texels(feet), [[0.9 * SIDE, 0.8 * SIDE], [0.3 * SIDE, 0.6 * SIDE], [0, 0]], atol=1e-4
    )
    np.testing.assert_allclose(feet.distances, [0.05, 0.02, 0], atol=1e-6)


@pytest.mark.parametrize(("beyond", "found"), [(1.0, 1.0), (2.0, 2.0), (2.5, 2.0), (9.0, 2.0)])
def test_a_point_beside_the_chart_lies_in_its_gutter_at_most(beyond: float, found: float) -> None:
    feet = find([[1 + beyond / SIDE, 0.4, 0.0]])
    np.testing.assert_allclose(texels(feet), [[SIDE + found, 0.4 * SIDE]], atol=1e-3)
    assert feet.distances[0] == pytest.approx(beyond / SIDE, abs=1e-6)


def test_a_held_point_stays_at_its_row() -> None:
    feet = find([[0.9, 0.8, 0.05]], is_held=True)
    np.testing.assert_array_equal(texels(feet), [[0, 0]])
    assert np.isinf(feet.distances).all()


def test_points_near_a_ball_have_its_closest_points() -> None:
    ball = shapes.sphere(12)
    rows = np.arange(len(ball.vertices), dtype=np.int32)
    flat = ball.vertices[:, :2] * SIDE + SIDE
    charts = np.zeros(len(ball.faces), np.int32)
    atlas = Atlas(flat.astype(np.float32), rows, ball.faces, charts, 64)
    shift = np.random.default_rng(3).normal(size=ball.vertices.shape) * 0.03
    places = (ball.vertices + shift).astype(np.float32)
    feet = find_footpoints(places, rows, np.zeros(len(rows), np.bool_), ball, atlas, 2)
    shown = feet.interpolate(ball.vertices, ball.faces)
    np.testing.assert_allclose(shown, closest_points(places.astype(np.float64), ball), atol=1e-5)
