from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.support.pictures import encode, photograph
from trellis2_server.inputs.background import BackgroundModel
from trellis2_server.inputs.background.foreground import estimate_foreground
from trellis2_server.inputs.images import Cutter

if TYPE_CHECKING:
    from numpy.typing import NDArray


def test_a_soft_edge_does_not_carry_the_background() -> None:
    image = np.full((200, 200, 3), (0, 255, 0), np.uint8)
    alpha = np.clip((np.arange(200) - 80) / 12, 0, 1)[None, :, None] * np.ones((200, 1, 1))
    mixed = (image * (1 - alpha) + np.array([200, 30, 60]) * alpha).astype(np.uint8)

    class Soft:
        def mask(self, rgb: NDArray[np.uint8], check: object) -> NDArray[np.uint8]:
            del check
            assert rgb.shape == (200, 200, 3)
            return (alpha[..., 0] * 255).astype(np.uint8)

        def close(self) -> None: ...

    cutout = Cutter(model=BackgroundModel(open_session=lambda _: Soft())).cut_out(
        encode(Image.fromarray(mixed))
    )
    soft = (cutout.rgba[..., 3] > 100) & (cutout.rgba[..., 3] < 250)
    assert soft.sum() > 100
    assert np.abs(cutout.rgba[soft][:, :3].astype(int) - (200, 30, 60)).mean() < 8


def test_opaque_and_transparent_pixels_keep_their_colour() -> None:
    rgb = np.asarray(photograph())
    alpha = np.zeros(rgb.shape[:2], np.uint8)
    alpha[:, 100:] = 255
    assert estimate_foreground(rgb, alpha) is rgb
    alpha[:, 100:110] = 128
    estimated = estimate_foreground(rgb, alpha)
    hard = alpha != 128
    assert np.array_equal(estimated[hard], rgb[hard])


def window_means(values: NDArray[np.floating], radius: int) -> NDArray[np.floating]:
    """Mean over the square around each pixel; the picture's edge is repeated outside."""
    size = 2 * radius + 1
    padded = np.pad(values, [(radius, radius), (radius, radius), (0, 0)], mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(0, 1))
    return windows.mean(axis=(3, 4))


def blur_fusion(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.floating]:
    """Forte's algorithm 1 with squared weights, then the exact mix where the object dominates."""
    image, weight = rgb.astype(float), (alpha / 255.0)[..., None]
    front = back = image
    for radius in (45, 4):
        mean_front = window_means(front * weight**2, radius)
        front = mean_front / (window_means(weight**2, radius) + 1e-6)
        mean_back = window_means(back * (1 - weight) ** 2, radius)
        back = mean_back / (window_means((1 - weight) ** 2, radius) + 1e-6)
        mixed = weight * front + (1 - weight) * back
        front = np.clip(front + weight * (image - mixed), 0, 255)
    exact = np.clip((image - (1 - weight) * back) / np.maximum(weight, 0.3), 0, 255)
    share = np.clip((weight - 0.3) / 0.7, 0, 1)
    return front * (1 - share) + exact * share


@pytest.mark.parametrize("seed", range(3))
def test_the_estimate_is_that_of_blur_fusion(seed: int) -> None:
    random = np.random.default_rng(seed)
    rgb = random.integers(0, 256, (13, 17, 3)).astype(np.uint8)
    # Whole blocks: somewhere neither the object nor the background is near.
    alpha = np.kron(random.choice([0, 40, 76, 77, 128, 254, 255], (4, 5)), np.ones((4, 4), int))
    alpha = alpha[:13, :17].astype(np.uint8)
    soft = (alpha > 0) & (alpha < 255)
    estimated = estimate_foreground(rgb, alpha)
    assert np.array_equal(estimated[~soft], rgb[~soft])
    np.testing.assert_allclose(
        estimated[soft].astype(float), blur_fusion(rgb, alpha)[soft], atol=0.51
    )


@pytest.mark.parametrize("alpha", [1, 254])
def test_a_single_soft_pixel_is_estimated(alpha: int) -> None:
    rgb = np.full((9, 9, 3), 200, np.uint8)
    mask = np.zeros((9, 9), np.uint8)
    mask[:, 5:] = 255
    mask[4, 4] = alpha
    rgb[4, 4] = 10
    estimated = estimate_foreground(rgb, mask)
    assert (estimated[4, 4] != 10).any()
