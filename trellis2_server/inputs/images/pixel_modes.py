"""Convert any Pillow image to an 8-bit mode and detect transparency.

Does not know: colour profiles, files.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from PIL import Image


def to_8_bit(image: Image.Image) -> tuple[bool, Image.Image]:
    """Convert a picture to mode L, RGB, CMYK, LAB or RGBA.

    Returns:
        Whether at least one pixel is transparent (the mode is RGBA then), and the picture.
    """
    if image.mode[0] in "IF":  # I;16 and its byte orders, I, F
        image = _deep_to_8_bit(image)
    if "transparency" in image.info or image.mode[-1] in "Aa":
        if image.mode == "La":
            image = image.convert("LA")
        image = image.convert("RGBA")
        lowest = cast("tuple[int, int]", image.getchannel("A").getextrema())[0]
        if lowest < 255:  # noqa: PLR2004 - opaque
            return True, image
        return False, image.convert("RGB")
    if image.mode not in {"L", "RGB", "CMYK", "LAB"}:
        image = image.convert("RGB")
    return False, image


def _deep_to_8_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and float grey to mode L, or LA with a declared transparent value.

    Pillow's own conversion clips at 255.
    """
    values = np.nan_to_num(np.asarray(image).astype(np.float32), posinf=0.0, neginf=0.0)
    if image.mode.startswith("I;16"):
        white = 65535.0
    else:  # TIFF does not declare the range: take the smallest usual one that fits
        highest = float(values.max())
        white = next((w for w in (1.0, 255.0, 65535.0) if highest <= w), highest)
    grey = Image.fromarray((np.clip(values / white, 0, 1) * 255 + 0.5).astype(np.uint8))
    transparent: object = image.info.get("transparency")
    if isinstance(transparent, int):
        opaque = (values != transparent).astype(np.uint8) * 255
        grey.putalpha(Image.fromarray(opaque))
    return grey
