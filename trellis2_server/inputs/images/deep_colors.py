"""Show deep samples of a TIFF as 8-bit sRGB.

A TIFF does not declare what is white, and without a profile, not what its values mean. Values up
to 1, 255 or 65535 are taken as sRGB, as programs write them. Floating point colours that fit none
of these, or go far beyond 1, are taken as linear light, as renderers and HDR programs write it:
white is the value that 99.5 % do not exceed, or 1 if 95 % fit, and the curve of sRGB is applied.

Does not know: files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from trellis2_server.inputs.images.color_profiles import encode_srgb, linear_matrix
from trellis2_server.inputs.images.pixel_modes import MAX_RANGE_SAMPLES, WHITES, find_range

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.inputs.images.tiff_samples import TiffSamples

#: Shown at a time.
_STRIP_PIXELS: Final = 131_072
_WHITE_16: Final = 65535.0
#: EXIF.
_ORIENTATION: Final = 0x0112
#: Values beyond this are no rounding and no ringing of a picture whose white is 1.
_HIGHLIGHT: Final = 1.5
#: Alpha below this has no colour.
_NO_ALPHA: Final = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class _Tone:
    """How values are shown.

    Attributes:
        black: value of black.
        white: value of white.
        alpha_white: value of opaque.
        is_linear: whether the curve of sRGB is to be applied.
        matrix: applied before, float32 [3, 3], or None.
    """

    black: float
    white: float
    alpha_white: float
    is_linear: bool
    matrix: NDArray[np.float32] | None


def show_samples(samples: TiffSamples, notes: list[str]) -> Image.Image:
    """Return a picture of mode L, LA, RGB or RGBA, whose `info` has a profile that is yet to apply.

    Args:
        samples: of a file.
        notes: receives a sentence for the job, if values were taken as linear light.
    """
    colors, alpha = samples.colors, samples.alpha
    height, width, count = colors.shape
    profile = samples.icc_profile
    matrix = linear_matrix(profile) if profile and count > 1 else None
    tone = _find_tone(samples, matrix, notes)
    mode = ("L" if count == 1 else "RGB") + ("" if alpha is None else "A")
    shown = Image.new(mode, (width, height))
    rows = max(_STRIP_PIXELS // width, 1)
    for top in range(0, height, rows):
        part = slice(top, top + rows)
        opacity = None
        if alpha is not None:
            opacity = _from_0_to_1(alpha[part], 0.0, tone.alpha_white)
        strip = _show(colors[part], opacity if samples.is_premultiplied else None, tone)
        if opacity is not None:
            strip = np.concatenate([strip, opacity[..., None]], axis=2)
        pixels = (strip * 255 + 0.5).astype(np.uint8)
        shown.paste(Image.fromarray(pixels[..., 0] if mode == "L" else pixels), (0, top))
    if profile and matrix is None:
        shown.info["icc_profile"] = profile
    if samples.orientation != 1:
        exif = Image.Exif()
        exif[_ORIENTATION] = samples.orientation
        shown.info["exif"] = exif.tobytes()
    return shown


def _find_tone(samples: TiffSamples, matrix: NDArray[np.float32] | None, notes: list[str]) -> _Tone:
    colors, alpha, kind = samples.colors, samples.alpha, samples.colors.dtype
    if kind == np.uint16:
        return _Tone(0.0, _WHITE_16, _WHITE_16, matrix is not None, matrix)
    sample = _sample(colors)
    black, white = find_range(sample, "short" if kind == np.int16 else "usual")
    is_linear = matrix is not None
    if samples.is_float and colors.shape[2] > 1 and not samples.icc_profile:
        highest = float(sample.max(initial=0, where=np.isfinite(sample)))
        is_linear = black == 0 and (white not in WHITES or (white == 1 and highest > _HIGHLIGHT))
        if is_linear:
            notes.append(
                f"image: its values, up to {highest:.4g}, were taken as linear light, with white "
                f"at {white:.4g}"
            )
    alpha_white = 1.0
    if alpha is not None:
        values = _sample(alpha)
        alpha_white = find_range(values[values > 0], "short" if kind == np.int16 else "usual")[1]
    return _Tone(black, white, alpha_white, is_linear, matrix)


def _sample(values: NDArray[Any]) -> NDArray[np.float32]:
    step = math.ceil(max(values.size / MAX_RANGE_SAMPLES, 1) ** 0.5)
    return values[::step, ::step].astype(np.float32).ravel()


def _show(
    values: NDArray[Any], opacity: NDArray[np.float32] | None, tone: _Tone
) -> NDArray[np.float32]:
    """Return colours from 0 to 1, float32 [H, W, C].

    Args:
        values: [H, W, C].
        opacity: float32 [H, W], by which the colours are multiplied; None: they are not.
        tone: of the picture.
    """
    scaled = values.astype(np.float32)
    if opacity is not None:
        scaled /= np.maximum(opacity, np.float32(_NO_ALPHA))[..., None]
    shown = _from_0_to_1(scaled, tone.black, tone.white)
    if tone.matrix is not None:
        shown = np.clip(shown @ tone.matrix.T, 0, 1)
    return encode_srgb(shown) if tone.is_linear else shown


def _from_0_to_1(values: NDArray[Any], black: float, white: float) -> NDArray[np.float32]:
    """Return values between black and white from 0 to 1; what is not finite is 0."""
    with np.errstate(all="ignore"):
        scaled = (values.astype(np.float32) - np.float32(black)) / np.float32(white - black)
    scaled = np.nan_to_num(np.where(np.isfinite(values), scaled, np.float32(0)))
    return np.clip(scaled, 0, 1)
