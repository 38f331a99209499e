"""Painted discs, drawn as pictures: flat objects of which the back should have another texture.

Does not know: engines, models, what is measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bench.preview_shapes import SIZE_PX

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[Any]


def _checkerboard(draw: ImageDraw.ImageDraw, size: int) -> None:
    step = size // 8
    for i in range(8):
        for j in range(8):
            if (i + j) % 2:
                box = (i * step, j * step, (i + 1) * step - 1, (j + 1) * step - 1)
                draw.rectangle(box, fill=(40, 40, 45))


def _text(draw: ImageDraw.ImageDraw, size: int) -> None:
    font = ImageFont.load_default(size / 6)
    for row, line in enumerate(("FIGURE", "of eight", "2 x 4 = 8")):
        draw.text((size / 2, size * (0.3 + 0.2 * row)), line, (20, 30, 90), font, anchor="mm")


def _flag(draw: ImageDraw.ImageDraw, size: int) -> None:
    for i, color in enumerate(((0, 80, 160), (250, 250, 250), (200, 30, 40))):
        draw.rectangle((i * size // 3, 0, (i + 1) * size // 3, size), fill=color)
    draw.ellipse((size * 0.4, size * 0.4, size * 0.6, size * 0.6), fill=(250, 200, 40))


#: What is painted on flat discs; "plain" is what the others are compared with.
DISCS: Final[dict[str, Callable[[ImageDraw.ImageDraw, int], None]]] = {
    "plain": lambda *_: None,
    "checkerboard": _checkerboard,
    "text": _text,
    "flag": _flag,
}


def disc(name: str) -> Array:
    """Return a picture of a flat painted disc, unlit, RGBA uint8 [S, S, 4]."""
    size = 2 * SIZE_PX
    image = Image.new("RGB", (size, size), (225, 220, 205))
    DISCS[name](ImageDraw.Draw(image), size)
    mask = Image.new("L", (size, size))
    ImageDraw.Draw(mask).ellipse(
        (size // 12, size // 12, size - size // 12, size - size // 12), 255
    )
    image.putalpha(mask)
    return cv2.resize(np.asarray(image), (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_AREA)
