"""The camera's axes and its projection."""

from __future__ import annotations

import numpy as np
import pytest

from trellis2_server.client.drawing.camera import MARGIN, VIEWS, axes_of, frame_of, project

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
