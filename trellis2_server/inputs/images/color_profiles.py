"""Convert pictures from their embedded ICC profile to sRGB."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from PIL import Image, ImageCms

if TYPE_CHECKING:
    from numpy.typing import NDArray

DAMAGED_PROFILE: Final = "image: its colour profile is damaged and was ignored"
#: By which 8-bit values of a linear profile may differ from the curve of sRGB.
_TOLERANCE: Final = 2
#: IEC 61966-2-1: end of the linear piece, its slope, and the power of the rest.
_LINEAR_END, _SLOPE, _OFFSET, _POWER = 0.0031308, 12.92, 0.055, 1 / 2.4


def encode_srgb(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return linear light from 0 to 1 as sRGB, float32 of any shape."""
    curved = np.float32(1 + _OFFSET) * light ** np.float32(_POWER) - np.float32(_OFFSET)
    return np.where(light <= _LINEAR_END, light * np.float32(_SLOPE), curved)


def linear_matrix(icc_profile: bytes) -> NDArray[np.float32] | None:
    """Return the matrix from a profile of linear light to that of sRGB, float32 [3, 3].

    In 8 bits, linear light has too few dark values for `to_srgb`.

    Args:
        icc_profile: of a picture.

    Returns:
        Columns are the profile's red, green and blue; None: its values are not linear.
    """
    levels = np.arange(256, dtype=np.uint8)
    ramp = Image.fromarray(np.repeat(levels[None, :, None], 3, axis=2))
    expected = 255 * encode_srgb((levels / 255).astype(np.float32))
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        converted = cast(
            "Image.Image", ImageCms.profileToProfile(ramp, profile, srgb, outputMode="RGB")
        )
        # XYZ of each colour, as rows.
        own, standard = (
            np.array([each.red_colorant[0], each.green_colorant[0], each.blue_colorant[0]])
            for each in (cast("Any", profile).profile, cast("Any", srgb).profile)
        )
        if np.abs(np.asarray(converted)[0] - expected[:, None]).max() > _TOLERANCE:
            return None
        return np.linalg.solve(standard.T, own.T).astype(np.float32)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, np.linalg.LinAlgError):
        return None


def to_srgb(image: Image.Image, icc_profile: bytes, warnings: list[str]) -> Image.Image:
    """Convert a picture of mode L, RGB, RGBA, CMYK or LAB to sRGB, mode RGB.

    A profile that is damaged or belongs to another colour space is ignored.

    Args:
        image: not changed.
        icc_profile: the embedded profile.
        warnings: receives a sentence if the profile is damaged.
    """
    plain = image.convert("RGB")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
        if ImageCms.getProfileDescription(profile).strip().lower().startswith("srgb"):
            return plain  # unchanged: lcms would shift some values by one
        space: str = cast("Any", profile).profile.xcolor_space.strip()
        if space == "GRAY" and image.mode == "L":
            source = image
        elif space == "RGB" and image.mode in {"L", "RGB", "RGBA"}:
            source = plain
        elif space == image.mode:  # CMYK, LAB
            source = image
        else:
            return plain  # the profile does not fit the pixels
        srgb = ImageCms.createProfile("sRGB")
        return cast(
            "Image.Image", ImageCms.profileToProfile(source, profile, srgb, outputMode="RGB")
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        warnings.append(DAMAGED_PROFILE)
        return plain
