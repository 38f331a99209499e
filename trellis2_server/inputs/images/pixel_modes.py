"""Convert any Pillow image to an 8-bit mode and detect transparency.

Does not know: colour profiles, files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, cast

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

#: "unsigned": mode I with values of 32 bits. "signed": mode L with values below 0. "short": mode I
#: with values of 16 signed bits.
SampleKind = Literal["usual", "unsigned", "signed", "short"]

_STRIP_PIXELS: Final = 1_048_576
#: Values that are white in one or the other program.
WHITES: Final = (1.0, 255.0, 65535.0, 4294967295.0)
_SIGNED_WHITES: Final[Mapping[SampleKind, tuple[float, ...]]] = {
    "signed": (127.0,),
    "short": (32767.0,),
}
#: Values that may lie over white: rounding, and what resampling adds.
_TOLERANCE: Final = 1.05
#: Share of white under which the highest value would make the picture dark.
_DARK_SHARE, _DARK_UNIT_SHARE = 0.26, 1 / 16
#: Negative values over this share of white are no noise.
_BELOW_SHARE: Final = 0.1
#: Values that are looked at, and their lowest and highest ones, percent.
MAX_RANGE_SAMPLES, _PERCENTILES = 1_000_000, (0.5, 99.5)
#: The value over black that decides what white is: few are highlights, few are black.
_BRIGHT_PERCENTILE: Final = 95


def to_8_bit(image: Image.Image, kind: SampleKind = "usual") -> tuple[bool, Image.Image]:
    """Convert a picture to mode L, RGB, CMYK, LAB or RGBA.

    Args:
        image: of any mode.
        kind: of the values of mode I or L, which Pillow does not tell.

    Returns:
        Whether at least one pixel is transparent (the mode is RGBA then), and the picture.
    """
    if image.mode[0] in "IF" or kind == "signed":  # I;16 and its byte orders, I, F
        image = _deep_to_8_bit(image, kind)
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


def _deep_to_8_bit(image: Image.Image, kind: SampleKind) -> Image.Image:
    """Scale 16-bit, 32-bit and float grey to mode L, or LA with a declared transparent value.

    Pillow's own conversion clips at 255.
    """
    transparent: object = image.info.get("transparency")
    black, white = 0.0, 65535.0
    if not image.mode.startswith("I;16"):  # TIFF does not declare the range
        step = max(image.width * image.height // MAX_RANGE_SAMPLES, 1)
        sample = np.concatenate([values.ravel()[::step] for _, values in _strips(image, kind)])
        black, white = find_range(sample, kind)
    grey = Image.new("L", image.size)
    alpha = Image.new("L", image.size) if isinstance(transparent, int) else None
    for top, values in _strips(image, kind):
        with np.errstate(all="ignore"):  # not every value is finite
            scaled = (values - np.float32(black)) / np.float32(white - black)
        scaled = np.nan_to_num(np.where(np.isfinite(values), scaled, 0.0))
        scaled = (np.clip(scaled, 0, 1) * 255 + 0.5).astype(np.uint8)
        grey.paste(Image.fromarray(scaled), (0, top))
        if alpha is not None:
            opaque = (values != transparent).astype(np.uint8) * 255
            alpha.paste(Image.fromarray(opaque), (0, top))
    if alpha is not None:
        grey.putalpha(alpha)
    return grey


def find_range(sample: NDArray[np.float32], kind: SampleKind = "usual") -> tuple[float, float]:
    """Return the values of black and white of a picture that does not declare them.

    White is the smallest usual value that fits; where that would make the picture dark, as with
    12 of 16 bits, its own highest value. A few values beyond it, such as highlights, are clipped.
    Black is 0. A picture that reaches far below it has its own lowest and highest values.

    Args:
        sample: float32 [N], some of its values.
        kind: of the values.
    """
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 1.0
    low, high = (float(np.percentile(sample, each)) for each in _PERCENTILES)
    if low < -_BELOW_SHARE * abs(high):
        return low, high if high > low else low + 1
    if high <= 0:  # a small object on black
        high = float(sample.max())
    bright = sample[sample > 0]
    usual = float(np.percentile(bright, _BRIGHT_PERCENTILE)) if bright.size else 0.0
    whites = _SIGNED_WHITES.get(kind, WHITES)
    white = next((w for w in whites if usual <= _TOLERANCE * w), high)
    if usual < white * (_DARK_SHARE if white > 1 else _DARK_UNIT_SHARE):
        white = high
    return 0.0, white if white > 0 else 1.0


def _strips(image: Image.Image, kind: SampleKind) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the values in strips, float32 [H, W], each with its top row.

    Their copies would take 20 bytes a pixel for the whole picture.
    """
    width, height = image.size
    rows = max(_STRIP_PIXELS // width, 1)
    for top in range(0, height, rows):
        strip = np.asarray(image.crop((0, top, width, min(top + rows, height))))
        if kind in {"unsigned", "signed"}:
            strip = strip.view(np.uint32 if kind == "unsigned" else np.int8)
        yield top, strip.astype(np.float32)
