from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.engines.preview.test_depth import pixels_of
from tests.support.preview import Array, Request, cutout, disc, grid, ignore, measure
from trellis2_server.engines.preview.depth import find_balls
from trellis2_server.engines.preview.heightmap import cell_sizes, make_heightmap
from trellis2_server.engines.preview.relief import (
    find_bulges,
    find_contours,
    find_paint,
    find_relief,
    unpainted,
)

if TYPE_CHECKING:
    from trellis2_server.engines.preview import PreviewEngine


def relief_of(color: Array) -> Array:
    pixels = pixels_of(np.ones(color.shape[:2]), color.astype(np.uint8))
    return find_relief(pixels, find_balls(pixels.alpha).distance)


def grey(values: Array) -> Array:
    return np.dstack([np.clip(values, 0, 255)] * 3)


def test_one_colour_has_no_relief() -> None:
    assert not relief_of(grey(np.full((120, 120), 150.0))).any()


def test_dark_is_deep_and_nothing_is_at_the_outline() -> None:
    x, _ = grid(160)
    relief = relief_of(grey(150 + 40 * np.cos(x / 4)))
    middle = relief[60:100]
    assert middle[:, 1 + round(8 * np.pi)].mean() > middle[:, 1 + round(4 * np.pi) + 25].mean() + 1
    assert abs(relief[1]).max() < 0.1 * abs(relief).max()


def test_relief_stays_shallow_however_strong_the_contrast() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (160, 160)).astype(float)
    assert abs(relief_of(grey(noise))).max() < 20


def test_a_step_in_hue_is_paint_and_a_soft_one_in_lightness_is_not() -> None:
    x, _ = grid(160)
    soft = pixels_of(np.ones((160, 160)), grey(150 + 60 * np.tanh((x - 80) / 6)).astype(np.uint8))
    color = np.where((x > 80)[..., None], (200, 60, 60), (60, 120, 60)).astype(np.uint8)
    hue = pixels_of(np.ones((160, 160)), color)
    ink = pixels_of(np.ones((160, 160)), grey(255.0 * (x > 80)).astype(np.uint8))
    assert find_paint(soft)[80, 70:92].max() < 0.1
    assert find_paint(hue)[80, 81] > 0.6
    assert find_paint(ink)[80, 81] > 0.6


def test_painted_stripes_have_less_relief_than_shaded_ones() -> None:
    x, _ = grid(160)
    stripe = (x // 12 % 2 > 0)[..., None]
    painted = np.where(stripe, (235, 190, 90), (130, 120, 200))
    light = pixels_of(np.ones((160, 160)), painted.astype(np.uint8)).lightness[1:-1, 1:-1]
    shaded = relief_of(grey(255 * light**1.4))
    assert relief_of(painted)[80, 20:140].std() < 0.6 * shaded[80, 20:140].std()


def test_a_contour_is_one_pixel_wide_and_in_place() -> None:
    ball = disc(160, 80, 80, 40)
    pixels = pixels_of(np.ones((160, 160)), grey(100 + 80 * ball).astype(np.uint8))
    contours = find_contours(pixels)
    y, x = np.nonzero(contours > 0.5)
    radius = np.hypot(x - 1 + 0.5 - 80, y - 1 + 0.5 - 80)
    inner = radius < 60
    assert abs(radius[inner] - 40).max() < 1.6
    assert inner.sum() < 1.5 * 2 * np.pi * 40


@pytest.mark.parametrize("length", [4.0, 12.0, 36.0])
def test_a_bulge_rises_from_its_contour_over_its_length(length: float) -> None:
    edges = np.zeros((200, 200), np.float32)
    edges[:, 100] = 1
    inside = np.ones((200, 200), bool)
    found = find_bulges(edges, inside, length)
    assert not find_bulges(np.zeros_like(edges), inside, length).any()
    profile = found[100, 100:]
    assert profile[0] < -0.3 * length
    assert (np.diff(profile) >= -1e-3).all()
    assert abs(profile[min(round(4 * length), 99)]) < 0.1 * length


def test_lightness_that_the_hue_explains_is_weakened() -> None:
    x, _ = grid(160)
    stripe = ((x // 8) % 2 > 0)[..., None]
    painted = np.where(stripe, (220, 190, 140), (150, 70, 50)).astype(np.uint8)
    pixels = pixels_of(np.ones((160, 160)), painted)
    left = unpainted(pixels)[40:120, 40:120].std()
    assert left < 0.7 * pixels.lightness[40:120, 40:120].std()
    plain = pixels_of(np.ones((160, 160)), grey(255.0 * stripe[..., 0]).astype(np.uint8))
    assert unpainted(plain) == pytest.approx(plain.lightness, abs=0.02)


def test_cells_are_finer_where_there_is_relief() -> None:
    x, y = grid(200)
    color = grey(140 + 60 * np.sin(x / 2) * np.sin(y / 2) * (x < 100))
    picture = cutout(np.ones((200, 200)), color.astype(np.uint8)).rgba
    heightmap = make_heightmap(picture, np.ones((200, 200), np.float32), 1.0, 50_000)
    sizes = cell_sizes(heightmap, 257)
    assert sizes.shape == (128, 128)
    assert np.median(sizes[30:70, 10:40]) < 0.6 * np.median(sizes[30:70, 60:90])


def test_few_faces_show_no_fine_relief() -> None:
    x, y = grid(200)
    picture = cutout(np.ones((200, 200)), grey(128 + 90 * np.sin(x) * np.sin(y)).astype(np.uint8))
    found = [
        make_heightmap(picture.rgba, np.ones((200, 200), np.float32), 0.0, faces).front
        for faces in (100_000, 1_000)
    ]
    fine, coarse = (np.sqrt(np.maximum(each, 0))[80:120, 80:120].std() for each in found)
    assert coarse < 0.3 * fine


def test_two_parts_and_a_ring_stay_what_they_are_with_relief(engine: PreviewEngine) -> None:
    size = 300
    noise = np.random.default_rng(2).integers(0, 256, (size, size)).astype(float)
    mask = np.maximum(disc(size, 80, 80, 70) - disc(size, 80, 80, 25), disc(size, 230, 230, 50))
    picture = cutout(mask, grey(noise).astype(np.uint8))
    for depth in ("auto", 0.0, 1.0):
        shape = engine.shape(picture, Request(depth=depth), ignore)
        volume, euler = measure(shape.mesh)
        assert volume > 0
        assert euler == 2 * (2 - 1)
        assert abs(shape.mesh.vertices).max() <= 0.5
