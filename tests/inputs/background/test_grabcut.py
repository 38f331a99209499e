from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.pictures import allow_input_error, encode, photograph, vase
from trellis2_server.inputs.background.grabcut import _initial_marks, _upsample, grabcut_alpha
from trellis2_server.inputs.images import Cutter

needs_opencv = pytest.mark.skipif(
    not importlib.util.find_spec("cv2"), reason="OpenCV is not installed"
)


@needs_opencv
def test_grabcut_finds_the_object_before_a_wall_with_the_same_result_each_time() -> None:
    cutter = Cutter(background="grabcut")
    cutout = cutter.cut_out(encode(photograph()))
    assert cutout.background == "grabcut"
    assert cutout.warnings == ()
    want = Cutter().cut_out(encode(vase(320, 240)))
    side = min(cutout.rgba.shape[0], want.rgba.shape[0])
    assert abs(cutout.rgba.shape[0] - want.rgba.shape[0]) <= 6
    found, true = (c.rgba[:side, :side, 3] > 127 for c in (cutout, want))
    assert (found & true).sum() / (found | true).sum() > 0.95
    with ThreadPoolExecutor(3) as threads:
        again = list(threads.map(cutter.cut_out, [encode(photograph())] * 6))
    assert {c.key for c in again} == {cutout.key}


@needs_opencv
@pytest.mark.parametrize("size", [(16, 16), (17, 300), (300, 17), (40, 40)])
def test_grabcut_on_a_flat_or_noisy_picture_raises_at_most_an_input_error(
    size: tuple[int, int],
) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    cutter = Cutter(background="grabcut")
    for image in (Image.new("RGB", size, (9, 99, 200)), Image.fromarray(noise)):
        with allow_input_error("image: no object was found"):
            assert cutter.cut_out(encode(image)).background == "grabcut"


def quadratic_wall(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A wall in L*a*b* whose light is any quadratic function of the place."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    return (terms @ random.uniform(-30, 30, (6, 3))).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_a_wall_in_any_light_is_background_and_what_differs_is_not(seed: int) -> None:
    random = np.random.default_rng(seed)
    height, width = random.integers(64, 80, 2)
    lab = quadratic_wall(random, height, width)
    direction = random.normal(size=3)
    direction /= np.linalg.norm(direction)
    expected = np.zeros((height, width), np.uint8)
    # On either side of the distances of certain background (2.5) and of likely object (6).
    for at, (distance, mark) in enumerate([(2.4, 0), (2.6, 2), (5.9, 2), (6.1, 3), (60, 3)]):
        rows, columns = slice(10, 20), slice(6 + 11 * at, 12 + 11 * at)
        lab[rows, columns] += np.float32(distance) * direction
        expected[rows, columns] = mark
    np.testing.assert_array_equal(_initial_marks(lab), expected)


def test_the_wall_between_two_legs_is_background_if_there_is_enough_of_it() -> None:
    lab = np.zeros((60, 60, 3), np.float32)
    lab[15:45, 15:45, 0] = 50
    lab[20:25, 18:23] = 0  # five by five
    lab[30:34, 18:40] = 0  # four in height
    marks = _initial_marks(lab)
    assert (marks[20:25, 18:23] == 0).all()
    assert (marks[30:34, 18:40] == 2).all()


def test_an_object_at_the_border_does_not_change_the_wall() -> None:
    random = np.random.default_rng(3)
    lab = quadratic_wall(random, 50, 80)
    lab[35:, 20:35, 1] += 40
    expected = np.zeros((50, 80), np.uint8)
    expected[35:, 20:35] = 3
    np.testing.assert_array_equal(_initial_marks(lab), expected)


@pytest.mark.parametrize(("size", "depth"), [((40, 60), 2), ((60, 90), 3), ((200, 60), 6)])
def test_the_frame_is_background_unless_it_differs_from_the_wall(
    size: tuple[int, int], depth: int
) -> None:
    """A grain of half a percent, which is too fine for flat regions, over the whole wall."""
    height, width = size
    lab = np.zeros((height, width, 3), np.float32)
    lab[::2, :, 0] = 6.5
    lab[::3, ::5, 0] = 40
    marks = _initial_marks(lab)
    inner = np.zeros((height, width), bool)
    inner[depth:-depth, depth:-depth] = True
    grain = lab[..., 0] > 30
    # The wall is at 3.25, in between, and both are within 2.5 times that.
    assert (marks[~inner & ~grain] == 0).all()
    assert (marks[inner & ~grain] == 2).all()
    assert (marks[grain] == 3).all()


def test_noise_of_the_wall_widens_what_counts_as_wall() -> None:
    random = np.random.default_rng(0)
    lab = random.normal(0, 3, (60, 60, 3)).astype(np.float32)
    deviation = np.median(np.linalg.norm(lab, axis=2))
    for factor, mark in ((2.7, 2), (3.4, 3)):
        lab[20:40, 20:40] = (factor * deviation, 0, 0)
        marks = _initial_marks(lab)
        assert (marks[22:38, 22:38] == mark).all(), factor


@needs_opencv
@pytest.mark.parametrize("size", [(90, 64), (70, 300)], ids=["high", "wide"])
def test_marks_and_edges_are_those_that_were_recorded(
    ndarrays_regression: Any, size: tuple[int, int]
) -> None:
    """If a change of them is meant, `--force-regen` records them again."""
    height, width = size
    random = np.random.default_rng(height)
    lab = quadratic_wall(random, height, width)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    lab += random.normal(0, 1.3, lab.shape)
    ring = abs(np.hypot(x * 1.3, y * 1.6) - 0.7)
    lab += (np.clip(1 - 3 * ring, 0, 1) * 25)[..., None]
    rgb = np.clip(lab * 2 + 120, 0, 255).astype(np.uint8)
    mask = ring[::3, ::2] < 0.2
    ndarrays_regression.check(
        {"marks": _initial_marks(lab.astype(np.float32)), "alpha": _upsample(rgb, mask)},
        tolerances={"alpha": {"atol": 2}},  # versions of OpenCV round in their own ways
    )


@needs_opencv
@pytest.mark.parametrize("size", [(64, 48), (48, 64), (700, 90), (90, 700)])
def test_an_object_is_found_where_it_is_at_any_size(size: tuple[int, int]) -> None:
    width, height = size
    rgb = np.full((height, width, 3), (90, 120, 200), np.uint8)
    rows, columns = slice(height // 4, height // 2), slice(width // 3, width // 2)
    rgb[rows, columns] = (200, 60, 20)
    alpha = grabcut_alpha(rgb)
    assert alpha.shape == (height, width)
    wanted = np.zeros((height, width), bool)
    wanted[rows, columns] = True
    found = alpha > 127
    assert (found & wanted).sum() / (found | wanted).sum() > 0.9


@needs_opencv
def test_a_picture_of_the_wall_alone_has_no_object() -> None:
    alpha = grabcut_alpha(np.full((30, 50, 3), 128, np.uint8))
    assert alpha.shape == (30, 50)
    assert not alpha.any()


@needs_opencv
def test_a_shadow_of_the_object_is_no_object() -> None:
    """The initial marks take it for one; the colours of both decide."""
    y, x = np.mgrid[0:120, 0:160]
    shadow = np.exp(-(((x - 80) / 40) ** 2 + ((y - 85) / 12) ** 2))
    rgb = np.repeat((210 - 25 * shadow)[..., None], 3, axis=2)
    rgb += np.random.default_rng(0).normal(0, 1, rgb.shape)
    rgb = np.clip(rgb, 0, 255).astype(np.uint8)
    rgb[30:80, 60:100] = (200, 40, 30)
    alpha = grabcut_alpha(rgb)
    assert (alpha[34:76, 64:96] == 255).all()
    assert (alpha[88:] < 128).all()


@needs_opencv
def test_a_speck_is_no_object_and_a_hole_of_a_speck_is_none() -> None:
    rgb = np.full((200, 200, 3), 180, np.uint8)
    rgb[60:160, 60:160] = (200, 40, 30)
    rgb[100, 100] = 180
    rgb[20:23, 20:23] = (200, 40, 30)
    alpha = grabcut_alpha(rgb)
    assert (alpha[70:150, 70:150] > 127).all()
    assert not alpha[:50, :50].any()


@needs_opencv
def test_a_coarse_mask_is_fitted_to_the_edges_of_the_picture() -> None:
    """Each of its pixels is four by four of the picture's."""
    rgb = np.full((160, 160, 3), 40, np.uint8)
    rgb[:, 81:] = 220
    mask = np.zeros((40, 40), bool)
    mask[:, 20:] = True  # from pixel 80 on
    alpha = _upsample(rgb, mask)
    assert alpha.shape == (160, 160)
    assert alpha.dtype == np.uint8
    assert (np.diff(alpha.astype(int), axis=1) >= 0).all()
    assert (alpha[:, :77] == 0).all()
    assert (alpha[:, 85:] == 255).all()
    # The step is where the picture's is: a pixel beside that of the mask.
    assert (alpha[:, 80] < 100).all()
    assert (alpha[:, 81] > 155).all()


@needs_opencv
@pytest.mark.parametrize(("size", "radius"), [((60, 80), 2), ((100, 1024), 4)])
def test_without_edges_a_mask_has_a_soft_symmetric_edge(size: tuple[int, int], radius: int) -> None:
    height, width = size
    rgb = np.full((height, width, 3), 99, np.uint8)
    mask = np.zeros((height, width), bool)
    mask[:, width // 2 :] = True
    row = _upsample(rgb, mask)[height // 2].astype(int)
    np.testing.assert_allclose(row + row[::-1], 255, atol=1)
    soft = int(((row > 0) & (row < 255)).sum())
    assert 1.5 * radius <= soft <= 3 * radius + 1


def test_certain_background_is_near_the_wall_however_noisy_its_frame_is() -> None:
    """The frame is 1.5 above and below the wall, so that 3.75 would still be near it."""
    lab = np.zeros((64, 64, 3), np.float32)
    frame = np.ones((64, 64), bool)
    frame[2:-2, 2:-2] = False
    lab[frame, 0] = 1.5 * (-1) ** np.add(*np.nonzero(frame))
    lab[12:24, 12:24, 1] = 2.4
    lab[36:48, 36:48, 1] = 3.0
    marks = _initial_marks(lab)
    assert (marks[12:24, 12:24] == 0).all()
    assert (marks[37:47, 37:47] == 2).all()
