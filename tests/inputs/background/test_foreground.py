from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
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
