"""Light from surfaces: what is brighter than what, and what depends on what."""

from __future__ import annotations

import numpy as np
import pytest

from trellis2_server.drawing import shading
from trellis2_server.drawing.camera import axes_of
from trellis2_server.drawing.color import decode_srgb
from trellis2_server.drawing.shading import shade

FRONT = axes_of("front")
KEY, FILL = (-0.45, 0.65, 0.61), (0.80, 0.10, 0.59)
DOWN = (0, -1, 0)
NORMALS = [
    (0, 0, 1), (1, 0, 0), (-1, 0, 0), (0, 1, 0), DOWN, (0.6, 0, 0.8),
    (-0.48, 0.6, 0.64), (0.48, -0.6, 0.64),
]  # fmt: skip


def texel(
    color: tuple[int, int, int] = (128, 128, 128), *, metallic: int = 0, roughness: int = 255
) -> list[float]:
    return [*color, 255, metallic, roughness, 255]


def lit(normals: object, *texels: list[float], shading: str = "lit") -> np.ndarray:
    rows = np.array(normals, float).reshape(-1, 3)
    values = np.array([*texels] * (len(rows) if len(texels) == 1 else 1), np.float32)
    return shade(values, rows, FRONT, shading)  # pyright: ignore[reportArgumentType]


def test_what_faces_a_light_is_brighter_and_nothing_is_black() -> None:
    key, fill, down = lit([KEY, FILL, DOWN], texel())[:, 0]
    assert key > 1.3 * fill
    assert fill > 1.3 * down
    assert down > 0.2 * key


def test_light_is_between_black_and_white() -> None:
    for each in (texel((255, 255, 255), roughness=0), texel((255, 255, 255), metallic=255)):
        light = lit(NORMALS, each)
        assert light.dtype == np.float32
        assert 0 < light.min() <= light.max() <= 1


def test_rough_colours_keep_their_hue() -> None:
    red, green, blue = lit([KEY], texel((200, 60, 20)))[0]
    assert red > 5 * green
    assert green > blue


def test_the_length_of_a_normal_does_not_matter() -> None:
    once, thrice = (lit(np.array(NORMALS) * length, texel()) for length in (1, 3))
    assert thrice == pytest.approx(once, abs=1e-5)


def test_the_lights_move_with_the_camera() -> None:
    texels, normals = np.float32([texel()] * len(NORMALS)), np.array(NORMALS, float)
    for view in ("right", "top", (32.0, 18.0)):
        axes = axes_of(view)
        turned = shade(texels, normals @ axes, axes, "lit")
        assert turned == pytest.approx(shade(texels, normals, FRONT, "lit"), abs=1e-5)


def test_a_smooth_surface_has_a_highlight_between_the_light_and_the_camera() -> None:
    half = np.add(KEY, (0, 0, 1))
    smooth, rough = texel((60, 0, 0), roughness=40), texel((60, 0, 0))
    assert lit([half], smooth)[0, 1] > lit([half], rough)[0, 1] + 0.2
    assert lit([(0, -0.7, 0.7)], smooth)[0, 1] < 0.1


def test_the_highlight_of_a_metal_has_its_colour_and_that_of_others_is_white() -> None:
    half = np.add(KEY, (0, 0, 1))
    color = (70, 40, 0)  # the highlight does not reach white
    metal = lit([half], texel(color, metallic=255, roughness=90))[0]
    assert metal[0] > metal[1] > 5 * metal[2]
    other = lit([half], texel(color, roughness=90))[0] - lit([half], texel(color))[0]
    assert other[2] == pytest.approx(other[0], abs=0.1)


def test_surfaces_reflect_more_at_their_edges() -> None:
    edge, front = ((0.995, -0.05, 0.09), (0, 0, 1))
    smooth = texel((0, 0, 0), roughness=100)
    assert lit([edge], smooth)[0, 0] > 1.5 * lit([front], smooth)[0, 0]


def test_clay_is_the_same_grey_whatever_the_material() -> None:
    light = lit([KEY] * 2, texel((0, 128, 255)), texel((9, 9, 9), metallic=255), shading="clay")
    assert np.ptp(light) == pytest.approx(0, abs=1e-6)
    assert 0.4 < light[0, 0] < 0.95


def test_unlit_colours_are_those_of_the_texture() -> None:
    light = lit([(0, 0, 0)], texel((1, 2, 200)), shading="unlit")
    assert light[0] == pytest.approx(decode_srgb(np.array([1, 2, 200]) / 255), abs=1e-6)


def test_a_missing_normal_is_lit_too() -> None:
    assert np.isfinite(lit([(0, 0, 0)], texel())).all()


def test_the_sky_is_above_and_the_ground_below_blurred_by_roughness() -> None:
    up = np.linspace(-1, 1, 41, dtype=np.float32)[:, None]
    for roughness in (0.0, 0.5, 1.0):
        light = shading._environment(up, np.float32(roughness))[:, 0]
        assert light[[0, 20, 40]] == pytest.approx([0.20, 0.31, 0.42])
        assert (np.diff(light) >= -1e-6).all()
    rough, smooth = (shading._environment(up, np.float32(each))[:, 0] for each in (1, 0))
    assert (np.diff(rough) > 0).all()
    assert smooth[up[:, 0] > 0.121] == pytest.approx(0.42)
    assert smooth[(up[:, 0] > 0) & (up[:, 0] < 0.119)].max() < 0.42


def test_clay_is_a_rough_grey_that_is_no_metal() -> None:
    as_clay = texel((200, 200, 200), roughness=158)  # 0.58 and 0.62
    assert lit(NORMALS, texel(), shading="clay") == pytest.approx(lit(NORMALS, as_clay), abs=0.01)
