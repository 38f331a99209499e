"""Colours under the three lights."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trellis2_server.client.drawing.camera import axes_of
from trellis2_server.client.drawing.shading import shade

FRONT = axes_of("front")
#: Directions of the lights in the camera's frame (right, up, toward it) and their strengths.
KEY, FILL = ((-0.45, 0.65, 0.61), 0.80), ((0.80, 0.10, 0.59), 0.18)
GROUND, SKY = 0.22, 0.16
NORMALS = [
    (0, 0, 1), (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, -1), (0.6, 0, 0.8),
    (-0.48, 0.6, 0.64), (0.48, -0.6, 0.64),
]  # fmt: skip


def lit(value: float, normal: tuple[float, ...]) -> float:
    """One sRGB value, 0 … 255, under the lights."""
    part = value / 255
    linear = part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
    light = GROUND + SKY * (normal[1] + 1) / 2
    for direction, strength in (KEY, FILL):
        light += strength * max(sum(a * b for a, b in zip(direction, normal, strict=True)), 0)
    linear *= light
    encoded = 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055
    return 255 * min(encoded, 1)


@pytest.mark.parametrize("normal", NORMALS)
def test_a_colour_is_lit_by_what_its_normal_faces(normal: tuple[float, ...]) -> None:
    color = np.array([[0.0, 5.0, 128.0], [255.0, 200.0, 30.0]])
    shaded = shade(color, np.array([normal] * 2) * 3.0, FRONT, "lit")  # of any length
    wanted = [[lit(value, normal) for value in row] for row in color]
    assert shaded == pytest.approx(np.array(wanted), abs=1e-3)


def test_nothing_is_brighter_than_white_and_the_key_light_is_the_brightest() -> None:
    white = np.full((len(NORMALS), 3), 255.0)
    shaded = shade(white, np.array(NORMALS, float), FRONT, "lit")
    assert shaded.max() == 255
    grey = shade(white[:3] / 2, np.array([KEY[0], FILL[0], (0, -1, 0)]), FRONT, "lit")[:, 0]
    assert grey[0] > grey[1] > grey[2] > 0


def test_the_lights_move_with_the_camera() -> None:
    color, normals = np.full((len(NORMALS), 3), 128.0), np.array(NORMALS, float)
    for view in ("right", "top", (32.0, 18.0)):
        axes = axes_of(view)
        turned = shade(color, normals @ axes, axes, "lit")
        assert turned == pytest.approx(shade(color, normals, FRONT, "lit"), abs=1e-6)


def test_clay_is_the_same_grey_whatever_the_colour() -> None:
    color = np.array([[0.0, 128, 255], [9, 9, 9]])
    shaded = shade(color, np.array([[0.0, 0, 1]] * 2), FRONT, "clay")
    grey = 255 * (1.055 * 0.62 ** (1 / 2.4) - 0.055)
    assert shaded == pytest.approx(np.full((2, 3), lit(grey, (0, 0, 1))), abs=1e-3)


def test_unlit_colours_and_missing_normals_are_left_alone() -> None:
    color = np.array([[1.0, 2, 3]])
    assert shade(color, np.zeros((1, 3)), FRONT, "unlit") is color
    dark = shade(color, np.zeros((1, 3)), FRONT, "lit")
    assert math.isfinite(dark.sum())
    assert dark == pytest.approx(np.array([[lit(value, (0, 0, 0)) for value in (1, 2, 3)]]))
