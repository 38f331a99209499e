"""Convert any Pillow image to an 8-bit mode and detect transparency.

Does not know: colour profiles, files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_STRIP_PIXELS: Final = 1_048_576


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
        if image.mode != "RGBA":  # `convert` would copy it
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
    transparent: object = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        white = 65535.0
    else:  # TIFF does not declare the range: take the smallest usual one that fits
        highest = max(float(values.max()) for _, values in _strips(image))
        white = next((w for w in (1.0, 255.0, 65535.0) if highest <= w), highest)
    grey = Image.new("L", image.size)
    alpha = Image.new("L", image.size) if isinstance(transparent, int) else None
    for top, values in _strips(image):
        scaled = (np.clip(values / white, 0, 1) * 255 + 0.5).astype(np.uint8)
        grey.paste(Image.fromarray(scaled), (0, top))
        if alpha is not None:
            opaque = (values != transparent).astype(np.uint8) * 255
            alpha.paste(Image.fromarray(opaque), (0, top))
    if alpha is not None:
        grey.putalpha(alpha)
    return grey


def _strips(image: Image.Image) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the values in strips, float32 [H, W], 0 for what is not finite, each with its top row.

    Their copies would take 20 bytes a pixel for the whole picture.
    """
    width, height = image.size
    rows = max(_STRIP_PIXELS // width, 1)
    for top in range(0, height, rows):
        strip = np.asarray(image.crop((0, top, width, min(top + rows, height))))
        yield top, np.nan_to_num(strip.astype(np.float32), posinf=0.0, neginf=0.0)
