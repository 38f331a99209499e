from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from trellis2_server.inputs.background.masks import mask_to_alpha, remove_small_parts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]


def test_only_parts_of_a_minimum_size_remain() -> None:
    mask = np.zeros((40, 40), bool)
    mask[:10, :10] = True
    mask[20:22, 20:22] = True
    assert remove_small_parts(mask, least=0.05)[:10, :10].all()
    assert remove_small_parts(mask, least=0.05).sum() == 100
    assert remove_small_parts(mask, least=0.04).sum() == 104
    assert not remove_small_parts(np.zeros((4, 4), bool)).any()


def test_a_part_of_a_fiftieth_remains_and_corners_connect() -> None:
    mask = np.zeros((30, 30), bool)
    mask[:10, :10] = True
    mask[20, 20] = mask[21, 21] = True  # one part of two pixels
    mask[27, 2] = True
    kept = remove_small_parts(mask)
    assert kept[:10, :10].all()
    assert kept[20, 20]
    assert kept[21, 21]
    assert kept.sum() == 102


def test_specks_and_grain_are_removed_and_certain_holes_stay() -> None:
    mask = np.zeros((200, 200), np.uint8)
    mask[40:160, 40:160] = 255
    mask[60:64, 60:64] = 200  # grain
    mask[100:120, 100:120] = 0  # a hole
    mask[5, 5] = 255  # a speck
    mask[10:20, 150:160] = 90  # a veil
    alpha = mask_to_alpha(mask)
    assert alpha.dtype == np.uint8
    assert (alpha[60:64, 60:64] == 255).all()
    assert not alpha[104:116, 104:116].any()
    assert not alpha[:30].any()


def grown(mask: Bools, pixels: int, *, outside: bool = False) -> Bools:
    """Whether a pixel of the mask is at most so far, across or diagonally."""
    padded = np.pad(mask, pixels, constant_values=outside)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * pixels + 1,) * 2)
    return windows.any(axis=(2, 3))


def regions(mask: Bools) -> list[list[tuple[int, int]]]:
    """Pixels of each region whose pixels touch at sides."""
    left = {*zip(*(at.tolist() for at in np.nonzero(mask)), strict=True)}
    found: list[list[tuple[int, int]]] = []
    while left:
        stack, region = [left.pop()], []
        while stack:
            y, x = stack.pop()
            region.append((y, x))
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if near in left:
                    left.remove(near)
                    stack.append(near)
        found.append(region)
    return found


def expected_alpha(mask: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What `mask_to_alpha` promises, a pixel and a region at a time."""
    share = mask / 255
    offsets = np.arange(-4, 5)
    kernel = np.exp(-(offsets**2) / 2)
    kernel /= kernel.sum()
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(share, 4, mode="symmetric"), (9, 9))
    level = np.einsum("yxij,i,j->yx", windows, kernel, kernel)
    solid = (level > 0.45) & grown(remove_small_parts(level > 0.75, least=1 / 300), 4)
    height, width = mask.shape
    for region in regions(~solid):
        touches = any(y in (0, height - 1) or x in (0, width - 1) for y, x in region)
        if not touches and np.mean([share[at] for at in region]) > 0.15:
            for at in region:
                solid[at] = True
    inside = ~grown(~solid, 7)
    alpha = np.clip((share - 0.05) / 0.9, 0, 1) * grown(solid, 3)
    return np.where(inside, 1, alpha) * 255


@pytest.mark.parametrize("seed", range(6))
def test_alpha_is_solid_inside_soft_at_the_edge_and_empty_outside(seed: int) -> None:
    """The object touches another side of the frame each time, or none."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:64, 0:60]
    centre = [(32, 30), (20, 30), (44, 30), (32, 16), (32, 44), (32, 30)][seed]
    distance = np.hypot(y - centre[0], x - centre[1])
    level = np.clip((26 - distance) / 12, 0, 1)
    for _ in range(14):  # holes, of which the mask is more or less sure, and veils around it
        top, left = random.integers(0, 56, 2)
        tall, wide = random.integers(3, 9, 2)
        level[top : top + tall, left : left + wide] = random.choice([0, 0.1, 0.2, 0.4, 0.6, 0.9])
    mask = (np.clip(level + random.normal(0, 0.02, level.shape), 0, 1) * 255).astype(np.uint8)
    np.testing.assert_allclose(mask_to_alpha(mask), expected_alpha(mask), atol=1)


@pytest.mark.parametrize(("share", "is_filled"), [(0.12, False), (0.17, True)])
def test_a_hole_of_one_pixel_is_judged_as_a_larger_one(share: float, *, is_filled: bool) -> None:
    y, x = np.mgrid[0:60, 0:60]
    level = np.clip((26 - np.hypot(y - 30, x - 30)) / 4, 0, 1)
    level[27:34, 27:34] = 0.5
    level[30, 30] = share
    mask = np.rint(255 * level).astype(np.uint8)
    alpha = mask_to_alpha(mask)
    assert (alpha[30, 30] == 255) == is_filled
    np.testing.assert_allclose(alpha, expected_alpha(mask), atol=1)


@pytest.mark.parametrize("side", range(4))
def test_a_gap_at_the_frame_is_no_hole_however_doubtful(side: int) -> None:
    mask = np.full((60, 60), 255, np.uint8)
    mask[:12, 24:36] = 60
    alpha = np.rot90(mask_to_alpha(np.rot90(mask, side).copy()), -side)
    assert alpha[1:7, 28:32].max() < 60
    mask[:12] = 255
    mask[24:36, 24:36] = 60
    assert (mask_to_alpha(mask) == 255).all()  # the same in the middle is filled


@pytest.mark.parametrize("sure", [0, 40, 80])
def test_a_mask_that_is_sure_of_next_to_nothing_is_empty(sure: int) -> None:
    mask = np.full((200, 200), 110, np.uint8)  # as of a blank wall
    mask[80:120, 80 : 80 + sure] = 255
    assert not mask_to_alpha(mask).any()
    mask[40:160, 40:160] = 255
    assert (mask_to_alpha(mask)[60:140, 60:140] == 255).all()


def ring(back: tuple[int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Bools]:
    """A ring on a lit wall, the mask of a model that fills it in doubt, and its hole."""
    y, x = np.mgrid[:240, :240]
    radius = np.hypot(y - 120, x - 120)
    noise = np.random.default_rng(0).normal(0, 1.5, (240, 240, 3))
    wall = np.array(back) + 0.08 * y[..., None] + noise
    is_ring = (radius < 90) & (radius > 40)
    rgb = np.where(is_ring[..., None], (200, 60, 40), wall).clip(0, 255).astype(np.uint8)
    mask = np.where(is_ring, 250, np.where(radius < 90, 175, 2)).astype(np.uint8)
    return rgb, mask, radius < 36


def test_the_hole_of_a_ring_on_a_plain_wall_stays_open() -> None:
    rgb, mask, hole = ring((180, 185, 190))
    alpha = mask_to_alpha(mask, rgb)
    assert not alpha[hole].any()
    assert (alpha[(mask == 250) & ~grown(hole, 12)] > 204).mean() > 0.95
    assert (mask_to_alpha(mask)[hole] == 255).all()  # without the picture


def test_a_doubtful_part_of_another_colour_and_a_sure_one_of_the_walls_are_no_holes() -> None:
    rgb, mask, hole = ring((180, 185, 190))
    other = rgb.copy()
    other[hole] = (120, 130, 90)
    assert (mask_to_alpha(mask, other)[hole] == 255).all()
    sure = mask.copy()
    sure[mask == 175] = 245
    assert (mask_to_alpha(sure, rgb)[hole] == 255).all()


def test_a_busy_wall_shows_no_holes() -> None:
    rgb, mask, hole = ring((180, 185, 190))
    busy = np.random.default_rng(1).integers(0, 256, rgb.shape, np.uint8)
    assert (mask_to_alpha(mask, busy)[hole] == 255).all()
