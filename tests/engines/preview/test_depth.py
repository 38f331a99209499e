"""Outline, shading, balls: what decides how deep an object is made."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from scipy import ndimage

from tests.support.preview import Array, disc, grid, masks
from trellis2_server.engines.preview import kernels
from trellis2_server.engines.preview.depth import find_balls, find_base, flatness, revolve
from trellis2_server.engines.preview.outline import find_core, measure_outline
from trellis2_server.engines.preview.pixels import GRID_PX, Pixels, blurred, read_pixels
from trellis2_server.engines.preview.shading import find_changes, measure_shading, measure_turning
from trellis2_server.export.cancellation import call


def pixels_of(mask: Array, color: Array | None = None) -> Pixels:
    picture = np.full((*mask.shape, 4), 200, np.uint8)
    if color is not None:
        picture[..., :3] = color
    picture[..., 3] = np.rint(255 * mask)
    return read_pixels(picture, np.asarray(mask, np.float32))


def lit_ball(size: int, *, painted: bool) -> tuple[Array, Array]:
    """The mask of a ball, and its colours under a lamp from the upper left."""
    x, y = grid(size)
    u, v = (x - size / 2) / (0.47 * size), (y - size / 2) / (0.47 * size)
    w = np.sqrt(np.maximum(1 - u * u - v * v, 0))
    light = 0.15 + 0.8 * np.maximum(-0.5 * u - 0.5 * v + 0.7 * w, 0)
    albedo = np.where(painted & (np.sin(6 * u) > 0), 0.5, 0.8)
    grey = np.rint(255 * (light * albedo) ** (1 / 2.2)).clip(0, 255)
    return disc(size, size / 2, size / 2, 0.47 * size), np.dstack([grey] * 3).astype(np.uint8)


@given(mask=masks())
@settings(max_examples=20, deadline=None)
def test_distances_are_exact_and_the_balls_are_their_union(mask: Array) -> None:
    alpha = np.pad(mask, 1).astype(np.float32)
    distance, squared, radius = (np.empty(alpha.shape, np.float32) for _ in range(3))
    call(kernels.load("balls").inflate_balls, alpha, distance, squared, radius)
    exact = ndimage.distance_transform_edt(alpha)
    assert distance == pytest.approx(np.maximum(exact - 0.5, 0), abs=1e-3)
    centres = np.argwhere(distance > 0)
    if not len(centres):
        return
    for place in np.argwhere(alpha)[:: max(mask.size // 100, 1)]:
        each = distance[tuple(centres.T)] ** 2 - ((centres - place) ** 2).sum(1)
        assert squared[tuple(place)] == pytest.approx(each.max(), abs=1e-2)
    assert (radius[distance > 0] >= distance[distance > 0] - 1e-3).all()


def test_smoothing_is_a_gaussian() -> None:
    values = np.random.default_rng(0).random((40, 40)).astype(np.float32)
    expected = ndimage.gaussian_filter(values.astype(float), 2.5, mode="constant", truncate=3.2)
    assert blurred(values, 2.5) == pytest.approx(expected, abs=2e-3)


def test_a_small_hole_does_not_divide_the_balls_and_a_large_one_does() -> None:
    ball = np.pad(disc(200, 100, 100, 90), 1).astype(np.float32)
    whole = find_balls(ball).radius[101, 101 + 40]
    for radius, share in ((4, 1.0), (30, 0.35)):
        hole = np.pad(disc(200, 100, 100, radius), 1).astype(np.float32)
        found = find_balls(ball - hole)
        assert found.radius[101, 101 + 40] == pytest.approx(share * whole, rel=0.1)
        assert found.distance[101, 101] == 0


def test_the_grid_is_at_most_448_pixels_and_has_a_frame() -> None:
    assert pixels_of(np.ones((100, 100))).alpha.shape == (102, 102)
    large = pixels_of(np.ones((900, 900)))
    assert large.alpha.shape == (GRID_PX + 2, GRID_PX + 2)
    assert large.scale == pytest.approx(900 / GRID_PX)
    assert not large.alpha[0].any()
    assert not large.alpha[:, -1].any()


def test_shading_does_not_change_the_hue() -> None:
    color = np.array([200, 120, 60]) / 255
    light = np.linspace(0.3, 1, 64)[None, :, None]
    shaded = np.rint(255 * (color**2.2 * light) ** (1 / 2.2)) * np.ones((64, 1, 1))
    pixels = pixels_of(np.ones((64, 64)), shaded.astype(np.uint8))
    hue = pixels.hue[:, 20:44, 4:-4]
    assert np.ptp(pixels.lightness[30, 4:-4]) > 0.15
    assert np.ptp(hue, axis=2).max() < 0.2 * abs(hue).max()
    assert abs(hue).max() > 0.1


@pytest.mark.parametrize(
    ("mask", "symmetry", "convexity", "boxiness"),
    [
        (disc(120, 60, 60, 50), 1.0, 1.0, np.pi / 4),
        (np.pad(np.ones((40, 80)), 20), 1.0, 1.0, 1.0),
        (np.pad(np.tri(80), 20), 1 / 3, 1.0, 0.5),
        (np.pad(np.array([[1, 0, 1]]).repeat(30, 0).repeat(20, 1), 20), 1.0, 4 / 5, 2 / 3),
    ],
    ids=["disc", "box", "corner", "two bars"],
)
def test_outlines_are_measured(
    mask: Array, symmetry: float, convexity: float, boxiness: float
) -> None:
    found = measure_outline(mask >= 0.5)
    assert found.convexity == pytest.approx(convexity, abs=0.03)
    assert found.boxiness == pytest.approx(boxiness, abs=0.03)
    if symmetry == 1:
        assert found.symmetry == pytest.approx(1, abs=0.01)
    else:
        assert found.symmetry < 0.7


def test_a_handle_is_not_part_of_the_core() -> None:
    x, y = grid(200)
    body = (abs(x - 80) < 50) & (abs(y - 100) < 80)
    ring = disc(200, 130, 100, 45) - disc(200, 130, 100, 30) > 0.5
    core = find_core(body | ring)
    assert core.axis == 80
    assert core.width[100] == 50
    assert 0.8 < core.share < 1


def test_a_turned_box_is_a_cylinder_with_closed_ends() -> None:
    x, y = grid(200)
    rod = (abs(x - 100) < 40) & (abs(y - 100) < 90)
    height = revolve(rod, find_core(rod))
    assert height[100, 100] == pytest.approx(40, abs=0.1)
    assert height[100, 100 + 24] == pytest.approx(np.sqrt(40**2 - 24.5**2), abs=0.1)
    assert height[10, 100] < 30
    assert not height[~rod].any()


@pytest.mark.parametrize("painted", [False, True])
def test_the_shading_of_a_ball_is_found_under_its_paint(painted: bool) -> None:  # noqa: FBT001
    mask, color = lit_ball(300, painted=painted)
    pixels = pixels_of(mask, color)
    balls = find_balls(pixels.alpha)
    height = np.sqrt(np.maximum(balls.squared, 0))
    found = measure_shading(find_changes(pixels, balls.distance), height)
    assert found.amount > 0.05
    assert found.share > 0.3
    assert flatness(measure_outline(pixels.inside), found) < 0.1


@pytest.mark.parametrize("paint", ["checkerboard", "stripes"])
def test_paint_on_a_disc_is_no_shading(paint: str) -> None:
    x, y = grid(300)
    check = (x // 40 + (y // 40 if paint == "checkerboard" else 0)) % 2 > 0
    color = np.where(check[..., None], (230, 220, 40), (30, 40, 160)).astype(np.uint8)
    pixels = pixels_of(disc(300, 150, 150, 140), color)
    balls = find_balls(pixels.alpha)
    height = np.sqrt(np.maximum(balls.squared, 0))
    found = measure_shading(find_changes(pixels, balls.distance), height)
    assert found.contrast > 0.1
    assert found.evidence < 0.01
    assert flatness(measure_outline(pixels.inside), found) > 0.9
    assert find_base(pixels, balls, None).form == "flat"


#: Half the width by the height from the top, shares of the picture.
PROFILES = {
    "bowl": [(0.29, 0), (0.3, 0.42), (0.45, 0.4), (0.6, 0.3), (0.68, 0.15), (0.7, 0.14), (0.71, 0)],
    "vase": [(0.1, 0), (0.11, 0.17), (0.25, 0.12), (0.6, 0.3), (0.85, 0.18), (0.9, 0)],
    "egg": [(0.1, 0), (0.13, 0.1), (0.3, 0.25), (0.5, 0.32), (0.75, 0.25), (0.87, 0.1), (0.9, 0)],
}
LIGHTS = {"left": (-0.6, 0.4, 0.6), "above": (0.05, 0.8, 0.6), "front": (0.0, 0.1, 1.0)}


def turned(profile: list[tuple[float, float]], light: tuple[float, float, float]) -> Pixels:
    """A solid of revolution with two painted bands, lit from a direction."""
    size = 320
    x, y = grid(size)
    rows = y[:, :1] / size
    half = np.interp(rows, *np.transpose(profile))
    across = (x / size - 0.5) / np.maximum(half, 1e-3)
    inside = (abs(across) < 1) & (half > 0.005)
    normal = np.stack([
        across, np.broadcast_to(np.gradient(half[:, 0], rows[:, 0])[:, None], x.shape),
        np.sqrt(np.maximum(1 - across**2, 0)),
    ])  # fmt: skip
    normal /= np.linalg.norm(normal, axis=0)
    lamp = np.clip(np.tensordot(np.array(light) / np.linalg.norm(light), normal, 1), 0, 1)
    is_band = (abs(rows - 0.37) < 0.02) | (abs(rows - 0.5) < 0.015)
    albedo = np.where(is_band, 0.85, 0.3)
    grey = np.rint(255 * (albedo * (0.3 + 0.65 * lamp)) ** (1 / 2.2))
    return pixels_of(inside.astype(float), np.dstack([grey] * 3).astype(np.uint8))


@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("shape", PROFILES)
def test_what_is_turned_is_known_by_its_shading_under_its_paint(shape: str, light: str) -> None:
    pixels = turned(PROFILES[shape], LIGHTS[light])
    base = find_base(pixels, find_balls(pixels.alpha), None)
    assert base.form == "revolution"
    assert base.depth > 0.95


def turning_of(pixels: Pixels) -> float:
    balls, core = find_balls(pixels.alpha), find_core(pixels.inside)
    return measure_turning(find_changes(pixels, balls.distance), core.axis, core.width)


PAINTINGS = {
    "a gradient": lambda u, v: 0.6 + 0.25 * u - 0 * v,
    "an oblique gradient on squares": lambda u, v: (
        (0.5 + 0.3 * (np.floor(4 * u) + np.floor(4 * v)) % 2) * (1 + 0.2 * u - 0.2 * v)
    ),
    "three stripes, bright in the middle": lambda u, v: np.where(abs(u) < 0.33, 0.9, 0.4 - 0 * v),
    "a cross": lambda u, v: np.where((abs(u) < 0.15) | (abs(v) < 0.15), 0.9, 0.3) * (1 + 0.2 * u),
    "a bright rim": lambda u, v: np.where(np.hypot(u, v) > 0.8, 0.9, 0.4),
    "a sheen": lambda u, v: 0.5 + 0.2 * np.exp(-(((u + 0.3) / 0.25) ** 2)) + 0.02 * np.sin(40 * v),
}


@pytest.mark.parametrize("painting", PAINTINGS)
def test_paintings_and_gradients_on_a_disc_are_not_taken_for_a_turn(painting: str) -> None:
    x, y = grid(320)
    u, v = (x - 160) / 150, (y - 160) / 150
    grey = 255 * np.asarray(PAINTINGS[painting](u, v))
    pixels = pixels_of(
        disc(320, 160, 160, 150), np.dstack([grey] * 3).clip(0, 255).astype(np.uint8)
    )
    assert turning_of(pixels) < 0.2
    assert find_base(pixels, find_balls(pixels.alpha), None).form == "flat"


def test_a_leaf_with_veins_is_flat() -> None:
    x, y = grid(320)
    u, v = (x - 160) / 90, (y - 160) / 150
    width = np.sqrt(np.maximum(1 - v**2, 0)) * (1 - 0.3 * v)
    veins = (abs(u) < 0.04) | (abs((v + 0.5 * abs(u)) % 0.2 - 0.1) < 0.02)
    color = np.where(veins[..., None], (150, 180, 110), (80, 130, 60)) * (1 + 0.15 * u[..., None])
    pixels = pixels_of((abs(u) < width).astype(float), color.clip(0, 255).astype(np.uint8))
    assert turning_of(pixels) < 0.2
    assert find_base(pixels, find_balls(pixels.alpha), None).form == "flat"


def test_a_pane_without_paint_has_no_turn_and_neither_has_a_speck() -> None:
    assert turning_of(pixels_of(disc(200, 100, 100, 90))) == 0
    assert turning_of(pixels_of(disc(9, 4.5, 4.5, 3))) == 0


def test_a_picture_of_few_pixels_is_not_taken_for_painted() -> None:
    x, _ = grid(22)
    color = np.where((x > 11)[..., None], (250, 250, 250), (20, 20, 20)).astype(np.uint8)
    pixels = pixels_of(disc(22, 11, 11, 10), color)
    balls = find_balls(pixels.alpha)
    changes = find_changes(pixels, balls.distance)
    assert 0 < changes.inside.sum() < 50
    assert changes.contrast == 0
    assert find_base(pixels, balls, None).form == "revolution"


def test_the_depth_that_is_asked_for_is_used() -> None:
    pixels = pixels_of(disc(200, 100, 100, 90))
    balls = find_balls(pixels.alpha)
    flat, half, full = (find_base(pixels, balls, depth).height for depth in (0.0, 0.5, 1.0))
    assert flat.max() == pytest.approx(0.022 * 180, rel=0.05)
    assert full.max() == pytest.approx(90, rel=0.03)
    assert half == pytest.approx((flat + full) / 2, abs=0.01)
    assert find_base(pixels, balls, None).height.max() == pytest.approx(90, rel=0.03)


def test_a_broad_irregular_object_is_less_deep_than_wide() -> None:
    x, y = grid(300)
    arms = (abs(x - y) < 6) | ((abs(x + y - 300) < 6) & (x < 150))
    mask = np.maximum(disc(300, 150, 150, 80), arms)
    pixels = pixels_of(mask)
    base = find_base(pixels, find_balls(pixels.alpha), None)
    assert base.form == "round"
    assert 40 < base.height.max() < 75
