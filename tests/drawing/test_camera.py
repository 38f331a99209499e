"""The camera's axes and its projection."""

from __future__ import annotations

import numpy as np
import pytest

from trellis2_server.drawing.camera import MARGIN, VIEWS, axes_of, frame_of, project

CORNERS = np.array([[-1, -1, -1], [1, 1, 1]], np.float32)


@pytest.mark.parametrize("view", [*VIEWS, (32.0, 18.0)])
def test_the_axes_are_orthonormal_and_right_handed(view: str | tuple[float, float]) -> None:
    axes = axes_of(view)
    assert axes @ axes.T == pytest.approx(np.eye(3), abs=1e-12)
    assert np.cross(axes[0], axes[1]) == pytest.approx(axes[2], abs=1e-12)


def test_the_front_view_looks_from_plus_z_and_the_right_one_from_plus_x() -> None:
    assert axes_of("front")[2] == pytest.approx([0, 0, 1])
    assert axes_of("right")[2] == pytest.approx([1, 0, 0])
    assert axes_of("top")[2] == pytest.approx([0, 1, 0])


def test_the_default_frame_shows_the_model_with_a_margin() -> None:
    axes = axes_of("front")
    frame = frame_of(CORNERS, axes)
    assert frame == pytest.approx((0, 0, 2 * MARGIN))
    low, high = project(CORNERS, axes, frame, 104)
    assert low == pytest.approx([2, 102, -1])  # rows count downward
    assert high == pytest.approx([102, 2, 1])


@pytest.mark.parametrize(
    ("view", "right", "up"),
    [
        ("front", (1, 0, 0), (0, 1, 0)),
        ("right", (0, 0, -1), (0, 1, 0)),
        ("back", (-1, 0, 0), (0, 1, 0)),
        ("left", (0, 0, 1), (0, 1, 0)),
        ("top", (1, 0, 0), (0, 0, -1)),
        ("bottom", (1, 0, 0), (0, 0, 1)),
    ],
)
def test_each_named_view_has_the_model_the_right_way_up(
    view: str, right: tuple[int, ...], up: tuple[int, ...]
) -> None:
    axes = axes_of(view)
    assert axes[0] == pytest.approx(right, abs=1e-12)
    assert axes[1] == pytest.approx(up, abs=1e-12)
    assert axes[2] == pytest.approx(np.cross(right, up), abs=1e-12)


def test_azimuth_and_elevation_turn_the_camera_toward_plus_x_and_up() -> None:
    assert axes_of((30.0, 0.0))[2] == pytest.approx([0.5, 0, 0.8660254], abs=1e-6)
    assert axes_of((0.0, 30.0))[2] == pytest.approx([0, 0.5, 0.8660254], abs=1e-6)
    assert axes_of((60.0, 30.0))[2] == pytest.approx([0.75, 0.5, 0.4330127], abs=1e-6)


def test_the_frame_is_a_square_about_the_middle_of_what_the_camera_sees() -> None:
    points = np.array([[1.0, 2, 3], [5, 3, 103], [2, 4, 3]])
    assert frame_of(points, axes_of("front")) == pytest.approx((3, 3, 4 * MARGIN))
    assert frame_of(points, axes_of("right")) == pytest.approx((-53, 3, 100 * MARGIN))
    assert 1 < MARGIN < 1.1


def test_a_point_without_an_extent_has_a_frame() -> None:
    point = np.array([[1.0, 2, 3]])
    frame = frame_of(point, axes_of("front"))
    assert frame == (1, 2, 1e-9)
    assert project(point, axes_of("front"), frame, 8).tolist() == [[4, 4, 3]]


def test_a_frame_elsewhere_moves_and_scales_the_picture() -> None:
    points = np.array([[3.0, 5, 7], [3.5, 5.5, -7]])
    shown = project(points, axes_of("front"), (3.0, 5.0, 2.0), 100)
    assert shown.tolist() == [[50, 50, 7], [75, 25, -7]]
    assert shown.dtype == np.float64
