"""Convert pictures from their embedded ICC profile to sRGB."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final, cast

from PIL import ImageCms

if TYPE_CHECKING:
    from PIL import Image

DAMAGED_PROFILE: Final = "image: its colour profile is damaged and was ignored"


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
