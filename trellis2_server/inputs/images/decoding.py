"""Decode picture files to upright sRGB pixels of bounded size.

Checks the file's structure and the size in its header before anything is decoded. Accepted formats:
`formats`.

Up to 20 bytes a pixel of the file are in use at a time (WebP; others up to 10). `max_pixels` bounds
them.

Does not know: how the object is found, HTTP.
"""

from __future__ import annotations

import io
import logging
import warnings
from dataclasses import dataclass
from typing import Final

from PIL import Image

from trellis2_server.errors import InputError, ServerError, TooLargeError
from trellis2_server.inputs.images.color_profiles import to_srgb
from trellis2_server.inputs.images.formats import available_formats, format_names
from trellis2_server.inputs.images.pixel_modes import to_8_bit
from trellis2_server.inputs.images.structure import check_structure, is_exif_bounded

#: Maximum of the longer side after decoding, in pixels, as in TRELLIS.2.
MAX_SIZE_PX: Final = 1024
#: Maximum ratio of the longer to the shorter side. At 32, 1024 x 32 pixels remain.
MAX_ASPECT: Final = 32

_ORIENTATION_TAG: Final = 0x0112
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
    """

    image: Image.Image
    has_alpha: bool
    warnings: tuple[str, ...]


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
    _silence_pillow()
    notes: list[str] = []
    try:
        image = _open(data, max_pixels)
        icc_profile: object = image.info.get("icc_profile")
        image.draft(None, (2 * MAX_SIZE_PX, 2 * MAX_SIZE_PX))  # JPEG only: decodes at 1/2, 1/4, 1/8
        image.load()
        _check_size(image.size, max_pixels)  # a GIF frame can be larger than its header says
        has_alpha, image = to_8_bit(_upright(image))
        image = _fit(image)
        if isinstance(icc_profile, bytes) and icc_profile:
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
    return DecodedImage(image, has_alpha, tuple(notes))


def _silence_pillow() -> None:
    """Ignore Pillow's warnings and log records: they concern a client's file, not this code.

    `warnings.catch_warnings` does not work here: it replaces a list shared by all threads.
    """
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    pattern = r"PIL(\.|$)"
    if not any(
        action == "ignore" and module is not None and getattr(module, "pattern", module) == pattern
        for action, _, _, module, _ in warnings.filters
    ):
        warnings.filterwarnings("ignore", module=pattern)


def _open(data: bytes, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=available_formats())
    except Image.UnidentifiedImageError as error:
        raise InputError(f"image: not a {format_names()} file, or a damaged one") from error
    _check_size(image.size, max_pixels)
    return image


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise TooLargeError(
            f"image: {width} x {height} pixels, over the limit of {max_pixels} pixels"
        )
    if min(size) < 1:
        raise InputError("image: it has no pixels")
    if max(size) > MAX_ASPECT * min(size):
        raise InputError(
            f"image: {width} x {height} pixels is too elongated, "
            f"one side may be at most {MAX_ASPECT} times the other"
        )


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
    """Return the EXIF data that Pillow would read, but for TIFF; `b""` if there is none.

    Raises:
        ValueError: it is text that is not hexadecimal.
    """
    exif: object = image.info.get("exif")
    text: object = image.info.get("Raw profile type exif")  # ImageMagick's, in a PNG
    if exif is None and isinstance(text, str):
        return bytes.fromhex("".join(text.split("\n")[3:]))
    return exif if isinstance(exif, bytes) else b""


def _fit(image: Image.Image) -> Image.Image:
    longer = max(image.size)
    if longer <= MAX_SIZE_PX:
        return image
    size = [max(1, round(side * MAX_SIZE_PX / longer)) for side in image.size]
    # Pillow premultiplies RGBA to resize it, so hidden colour does not bleed into edges.
    return image.resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=3.0)
