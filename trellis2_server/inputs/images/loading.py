"""Load the pixels of a picture with Pillow, for files that browsers show and Pillow refuses.

Of a large JPEG, a fraction is decoded. Of a JPEG that is cut short, what is there. Of an animation,
the first frame that shows something.

Does not know: colours, transparency but whether something is visible.
"""

from __future__ import annotations

import io
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.foreign_files import describe_file, is_heif
from trellis2_server.inputs.images.deep_colors import show_samples
from trellis2_server.inputs.images.formats import HEIF_INSTALL, available_formats, format_names
from trellis2_server.inputs.images.jpeg_segments import START_OF_SCAN, read_segments
from trellis2_server.inputs.images.tiff_directory import (
    describe_samples,
    has_deep_planes,
    has_swapped_grey,
)
from trellis2_server.inputs.images.tiff_samples import picture_size, read_tiff_samples
from trellis2_server.inputs.images.transparency import VISIBLE_ALPHA

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

#: Maximum of the longer side after decoding, in pixels, as in TRELLIS.2.
MAX_SIZE_PX: Final = 1024
_SAVE_AS: Final = "save it as PNG, or with 8 bits"
#: Maximum ratio of the longer to the shorter side. At 32, 1024 x 32 pixels remain.
MAX_ASPECT: Final = 32
#: Maximum width times height of a JPEG of which a fraction is decoded.
MAX_REDUCED_PIXELS: Final = 200_000_000

CUT_SHORT: Final = "image: the end of the file is missing; fine details may be, too"

_JPEG: Final = {"JPEG", "MPO"}
_END_OF_IMAGE: Final = b"\xff\xd9"
#: Rows of the largest block of a JPEG.
_BLOCK_ROWS: Final = 32
#: Share of a JPEG's rows that must be there.
_MIN_ROWS: Final = 2 / 3
#: Scans of a JPEG of several that must have begun: the first one has all of it, coarsely.
_MIN_SCANS: Final = 2
#: Rows that are compared at a time.
_STRIP_ROWS: Final = 64

_ANIMATED: Final = {"GIF", "PNG", "WEBP", "AVIF"}
#: Frames of an animation that are looked at, all of them within the limit of pixels.
_MAX_FRAMES: Final = 16
#: Share of the most visible pixels of a frame that makes a frame good enough.
_SHOWN_SHARE: Final = 0.8
_THUMBNAIL_PX: Final = 256


def load_picture(data: bytes, max_pixels: int, notes: list[str]) -> Image.Image:
    """Return a picture with its pixels loaded.

    Args:
        data: the file.
        max_pixels: limit for width times height, as it is decoded.
        notes: receives sentences for the job.

    Raises:
        InputError: the file is of another format, too elongated, or has too little of its pixels.
        TooLargeError: the picture exceeds `max_pixels`.
        OSError, ValueError, …: any of Pillow's errors, for a damaged file.
    """
    image = _open(data, max_pixels, notes)
    if image.format in _JPEG:
        return _load_jpeg(image, data, max_pixels, notes)
    image.load()
    check_size(image.size, max_pixels)  # a GIF frame can be larger than its header says
    if image.format in _ANIMATED:
        image = _choose_frame(image, lambda: _open(data, max_pixels), max_pixels)
    return image


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Check the measures of a picture.

    Raises:
        InputError: it is too elongated, or has no pixels.
        TooLargeError: it exceeds `max_pixels`.
    """
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


def _open(data: bytes, max_pixels: int, notes: list[str] | None = None) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=available_formats())
    except Image.UnidentifiedImageError as error:
        image = _read_samples(data, max_pixels, notes)
        if image is None:
            raise InputError(f"image: {_explain(data)}") from error
        return image
    if image.format == "TIFF" and (has_deep_planes(data) or has_swapped_grey(data)):
        # Pillow takes each byte for a pixel, or bytes in the wrong order.
        image = _read_samples(data, max_pixels, notes)
        if image is None:
            samples = describe_samples(data)
            how = "in planes" if has_deep_planes(data) else "packed in big endian"
            raise InputError(
                f"image: a TIFF file of {samples}, {how}, which cannot be read; {_SAVE_AS}"
            )
        return image
    # Browsers take the orientation from EXIF alone; Pillow takes it from here, too.
    image.info.pop("xmp", None)
    if image.format in _JPEG:
        _reduce(image, max_pixels)
    check_size(image.size, max_pixels)
    return image


def _read_samples(data: bytes, max_pixels: int, notes: list[str] | None) -> Image.Image | None:
    """Return the picture of a TIFF whose samples Pillow does not read; None: nor does this."""
    size = picture_size(data)
    if size is None:
        return None
    check_size(size, max_pixels)
    samples = read_tiff_samples(data)
    return None if samples is None else show_samples(samples, [] if notes is None else notes)


def _reduce(image: Image.Image, max_pixels: int) -> None:
    """Have a JPEG decoded at 1/2, 1/4 or 1/8 where that leaves at least 2048 pixels.

    Those are pixels of the shorter side, as long as the picture is within the limit.
    """
    width, height = image.size
    sides = 2 * MAX_SIZE_PX, 2 * MAX_SIZE_PX
    if width * height > max_pixels:
        check_size(image.size, max(max_pixels, MAX_REDUCED_PIXELS))
        longer = max(width, height)
        sides = (
            max(sides[0] * width // longer, 1),
            max(sides[1] * height // longer, 1),
        )
    image.draft(None, sides)


def _explain(data: bytes) -> str:
    """Say why Pillow does not know a file."""
    if is_heif(data) and "HEIF" not in available_formats():
        return f"a HEIC picture; this server lacks the package that reads it ({HEIF_INSTALL})"
    what = describe_file(data)
    samples = describe_samples(data)
    if samples is not None:
        return f"a TIFF file of {samples}, which cannot be read, or a damaged one; {_SAVE_AS}"
    known = f"not a {format_names()} file"
    if is_heif(data) or what == "an AVIF picture":
        return f"{what} of a kind that cannot be read, or a damaged one"
    return f"{known} but {what}" if what else f"{known}, or a damaged one"


# ---- JPEG ---------------------------------------------------------------------------------------


def _load_jpeg(image: Image.Image, data: bytes, max_pixels: int, notes: list[str]) -> Image.Image:
    try:
        image.load()
    except OSError:
        *segments, end = read_segments(data)
        if end.is_there:
            raise
        scans = sum(segment.marker == START_OF_SCAN for segment in segments)
        if scans < _MIN_SCANS:
            return _load_rows(data, max_pixels, notes)
        # libjpeg fills in what is missing, which is finer than what is there.
        cut = next((segment.start for segment in segments if not segment.is_there), len(data))
        image = _open(data[:cut] + _END_OF_IMAGE, max_pixels)
        image.load()
        notes.append(CUT_SHORT)
    return image


def _load_rows(data: bytes, max_pixels: int, notes: list[str]) -> Image.Image:
    """Return the rows of a JPEG that are there."""
    image: Any = _open(data, max_pixels)
    # Decoded into, row by row; no picture has a row of noise.
    bands = len(image.getbands())
    noise = np.random.default_rng(0).integers(0, 256, (image.width, bands), np.uint8)
    noise = noise if bands > 1 else noise[:, 0]
    marked = Image.fromarray(np.broadcast_to(noise, (image.height, *noise.shape)), image.mode)
    image.im = marked.im
    with suppress(OSError):
        image.load()
    rows = _count_rows(marked, noise)
    if rows >= marked.height - _BLOCK_ROWS:  # libjpeg keeps the last ones back
        whole = _open(data + _END_OF_IMAGE, max_pixels)
        whole.load()
        notes.append(CUT_SHORT)
        return whole
    if rows < _MIN_ROWS * marked.height:
        raise InputError(
            f"image: the file is damaged or cut short, {rows} of {marked.height} rows are left"
        )
    lost = round(100 * (1 - rows / marked.height))
    notes.append(f"image: the end of the file is missing, and the lower {max(lost, 1)} % with it")
    left = marked.crop((0, 0, marked.width, rows))
    left.info = image.info
    return left


def _count_rows(marked: Image.Image, noise: NDArray[np.uint8]) -> int:
    """Return the number of rows down to the last one that is not the noise."""
    for bottom in range(marked.height, 0, -_STRIP_ROWS):
        top = max(bottom - _STRIP_ROWS, 0)
        strip = np.asarray(marked.crop((0, top, marked.width, bottom)))
        decoded = np.flatnonzero((strip != noise).reshape(len(strip), -1).any(axis=1))
        if len(decoded):
            return top + int(decoded[-1]) + 1
    return 0


# ---- animations ---------------------------------------------------------------------------------


def _choose_frame(
    first: Image.Image, reopen: Callable[[], Image.Image], max_pixels: int
) -> Image.Image:
    """Return the first frame that shows about as much as any of the first ones.

    Animations begin with empty frames, or with one that later ones complete.
    """
    shown = [_share_shown(first)]
    if shown[0] == 1 or not getattr(first, "is_animated", False):
        return first
    pixels = first.width * first.height
    with suppress(Exception):  # damage behind the first frame; the end of the file
        frame = reopen()
        for index in range(1, min(_MAX_FRAMES, max_pixels // pixels)):
            frame.seek(index)
            check_size(frame.size, max_pixels)
            frame.load()
            shown.append(_share_shown(frame))
    best = next(index for index, share in enumerate(shown) if share >= _SHOWN_SHARE * max(shown))
    if best == 0:
        return first
    frame = reopen()
    frame.seek(best)
    frame.load()
    return frame


def _share_shown(frame: Image.Image) -> float:
    """Return the share of visible pixels; 0 for a frame of a single colour."""
    size = min(frame.width, _THUMBNAIL_PX), min(frame.height, _THUMBNAIL_PX)
    pixels = np.asarray(frame.resize(size, Image.Resampling.NEAREST).convert("RGBA"))
    is_visible = pixels[..., 3] >= VISIBLE_ALPHA
    colors = pixels[is_visible]
    if not len(colors) or (is_visible.all() and (colors == colors[0]).all()):
        return 0.0
    return float(is_visible.mean())
