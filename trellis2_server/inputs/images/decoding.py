"""Decode picture files to upright sRGB pixels of bounded size.

Checks the file's structure and the size in its header before anything is decoded. Accepted formats:
`formats`; what is decoded of a file: `loading`, `png_chunks`.

Up to 20 bytes a pixel of the file are in use at a time (WebP; others up to 10). `max_pixels` bounds
them.

Does not know: how the object is found, HTTP.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image

from trellis2_server.errors import InputError, ServerError, TooLargeError
from trellis2_server.inputs.images.color_profiles import DAMAGED_PROFILE, to_srgb
from trellis2_server.inputs.images.loading import MAX_REDUCED_PIXELS, MAX_SIZE_PX, load_picture
from trellis2_server.inputs.images.pixel_modes import SampleKind, to_8_bit
from trellis2_server.inputs.images.png_chunks import clean_png
from trellis2_server.inputs.images.structure import check_structure, is_exif_bounded

_ORIENTATION_TAG: Final = 0x0112
_BITS_TAG, _SAMPLE_FORMAT_TAG = 258, 339
#: EXIF 2.32, tag Orientation: the operation that turns the stored pixels upright.
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage:
    """First frame of a picture file.

    Attributes:
        image: mode RGBA, sRGB, upright, longer side at most 1024 pixels.
        has_alpha: whether a pixel in the file is transparent.
        warnings: sentences for the job and the log.
        pixels: width times height, before scaling; of a JPEG of which a fraction is decoded, of
            that fraction.
    """

    image: Image.Image
    has_alpha: bool
    warnings: tuple[str, ...]
    pixels: int = 0


def decode_image(data: bytes, *, max_pixels: int) -> DecodedImage:
    """Decode a picture file.

    The order of the steps makes the result independent of how the file stores the pixels: a
    palette or another lossless format gives the same pixels, bit for bit.

    Args:
        data: the file.
        max_pixels: limit for width times height, before scaling.

    Raises:
        InputError: the file is empty, damaged, of another format or too elongated.
        TooLargeError: the picture exceeds `max_pixels` or the available memory, or its file has
            too many parts (`structure`).
    """
    if not data:
        raise InputError("image: empty")
    check_structure(data)
    _prepare_pillow()
    notes: list[str] = []
    try:
        image, icc_profile = _load(data, max_pixels, notes)
        pixels = image.width * image.height
        has_alpha, image = _to_8_bit(image)
        image = _fit(image)
        if icc_profile:
            alpha = image.getchannel("A") if has_alpha else None
            image = to_srgb(image, icc_profile, notes)
            if alpha is not None:
                image.putalpha(alpha)
        image = image.convert("RGBA")
    except (ServerError, ImportError):
        raise
    except Image.DecompressionBombError as error:
        raise TooLargeError(f"image: over the limit of {max_pixels} pixels") from error
    except MemoryError as error:
        raise TooLargeError("image: decoding it takes more memory than is available") from error
    except Exception as error:  # Pillow's plugins raise any exception on a broken file
        raise InputError("image: the file is damaged or cut short") from error
    image.info = {}
    return DecodedImage(image, has_alpha, tuple(notes), pixels)


def _load(data: bytes, max_pixels: int, notes: list[str]) -> tuple[Image.Image, bytes | None]:
    """Return a picture with its pixels loaded, and its colour profile."""
    png = clean_png(data)
    image = load_picture(png.content, max_pixels, notes)
    if png.is_profile_damaged:
        notes.append(DAMAGED_PROFILE)
    if png.transparent is not None and "transparency" in image.info:
        image.info["transparency"] = png.transparent
    icc_profile: object = png.icc_profile or image.info.get("icc_profile")
    return image, icc_profile if isinstance(icc_profile, bytes) else None


def _to_8_bit(image: Image.Image) -> tuple[bool, Image.Image]:
    """Return whether a picture has transparency, and the picture, upright and of 8 bits."""
    is_bmp, kind = image.format == "BMP", _sample_kind(image)
    has_alpha, image = to_8_bit(_upright(image), kind)
    if is_bmp and has_alpha and not image.getchannel("A").getbbox():
        return False, image.convert("RGB")  # a channel that is not in use, as browsers take it
    return has_alpha, image


def _prepare_pillow() -> None:
    """Ignore Pillow's warnings and log records: they concern a client's file, not this code.

    Pillow's own limit of pixels counts those of a JPEG before it is reduced.

    `warnings.catch_warnings` does not work here: it replaces a list shared by all threads.
    """
    Image.MAX_IMAGE_PIXELS = MAX_REDUCED_PIXELS // 2  # twice as many are an error
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    pattern = r"PIL(\.|$)"
    if not any(
        action == "ignore" and module is not None and getattr(module, "pattern", module) == pattern
        for action, _, _, module, _ in warnings.filters
    ):
        warnings.filterwarnings("ignore", module=pattern)


def _sample_kind(image: Image.Image) -> SampleKind:
    """Return how the values of a TIFF differ from what its mode says."""
    tags: Any = getattr(image, "tag_v2", {})
    layout = image.mode, tags.get(_BITS_TAG), tags.get(_SAMPLE_FORMAT_TAG, (1,))
    kinds: dict[object, SampleKind] = {
        ("I", (32,), (1,)): "unsigned",
        ("L", (8,), (2,)): "signed",
        ("I", (16,), (2,)): "short",
    }
    return kinds.get(layout, "usual")


def _upright(image: Image.Image) -> Image.Image:
    try:
        if not is_exif_bounded(_exif(image)):
            return image
        orientation: object = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # noqa: BLE001 - broken EXIF; the pixels are fine
        return image
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _exif(image: Image.Image) -> bytes:
    """Return the EXIF data that Pillow would read, but for TIFF; `b""` if there is none."""
    exif: object = image.info.get("exif")
    return exif if isinstance(exif, bytes) else b""


def _fit(image: Image.Image) -> Image.Image:
    longer = max(image.size)
    if longer <= MAX_SIZE_PX:
        return image
    size = [max(1, round(side * MAX_SIZE_PX / longer)) for side in image.size]
    # Pillow premultiplies RGBA to resize it, so hidden colour does not bleed into edges.
    return image.resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=3.0)
