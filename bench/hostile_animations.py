"""Large JPEGs, of which a fraction is decoded, and animations without a frame that shows much.

Does not know: how they are sent, what the server makes of them.
"""

from __future__ import annotations

import struct
import zlib
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from bench.hostile_pictures import chunk, encode, gif, noise, png

if TYPE_CHECKING:
    from collections.abc import Callable

#: Edge of a square just under the limit of 200 million pixels for a JPEG.
REDUCED_EDGE_PX: Final = 14_100
_TRANSPARENT: Final = b"!\xf9\x04\x09\0\0\0\0"  # colour 0 is transparent; the frame is cleared


def jpeg_reduced(mode: str = "RGB", *, is_progressive: bool = False) -> bytes:
    """JPEG of one colour at the limit of those that are decoded at a fraction."""
    flat = Image.new(mode, (REDUCED_EDGE_PX, REDUCED_EDGE_PX))
    return encode(flat, "JPEG", progressive=is_progressive, quality=1, subsampling=2)


def jpeg_reduced_noise(*, is_progressive: bool = False) -> bytes:
    """JPEG of noise, at the limit of a row's bytes."""
    image = noise(64).resize((REDUCED_EDGE_PX, REDUCED_EDGE_PX), Image.Resampling.NEAREST)
    return encode(image, "JPEG", progressive=is_progressive, quality=1)


def jpeg_reduced_cut(*, is_progressive: bool = False) -> bytes:
    """The first three quarters of a JPEG that is decoded at a fraction."""
    content = jpeg_reduced_noise(is_progressive=is_progressive)
    return content[: len(content) * 3 // 4]


def gif_transparent_frames(frames: int = 35_000, edge_px: int = 64) -> bytes:
    """Frames of which none shows anything."""
    flat = encode(Image.new("P", (edge_px, edge_px)), "GIF")
    frame = flat[flat.index(b",\0\0\0\0") : -1]
    return gif(edge_px, edge_px, (_TRANSPARENT + frame) * frames)


def png_transparent_frames(frames: int = 14, edge_px: int = 1990) -> bytes:
    """PNG of frames of which none shows anything."""
    data = zlib.compress(bytes(edge_px * (1 + edge_px * 4)), 9)
    place = struct.pack(">IIIIHHBB", edge_px, edge_px, 0, 0, 1, 100, 1, 1)
    parts = [chunk(b"acTL", struct.pack(">II", frames, 0))]
    parts += [chunk(b"fcTL", struct.pack(">I", 0) + place), chunk(b"IDAT", data)]
    for number in range(1, 2 * frames - 2, 2):
        parts.append(chunk(b"fcTL", struct.pack(">I", number) + place))
        parts.append(chunk(b"fdAT", struct.pack(">I", number + 1) + data))
    return png(edge_px, edge_px, (8, 6, 0), *parts)


def _animation(kind: str, frames: int, edge_px: int, **options: object) -> bytes:
    """Return an animation whose frames have one pixel each that is nearly transparent."""
    images: list[Image.Image] = []
    for number in range(frames):
        pixels = np.zeros((edge_px, edge_px, 4), np.uint8)
        pixels[number % edge_px, number // edge_px] = (number % 256, 9, 9, 5)
        images.append(Image.fromarray(pixels))
    return encode(images[0], kind, save_all=True, append_images=images[1:], **options)


def webp_transparent_frames() -> bytes:
    """WebP of thousands of frames of which none shows anything."""
    return _animation("WEBP", 2000, 64, lossless=True, method=0, quality=0)


def webp_large_transparent_frames() -> bytes:
    """The same with as many pixels as sixteen frames may have."""
    return _animation("WEBP", 20, 1990, lossless=True, method=0, quality=0)


def avif_transparent_frames() -> bytes:
    """AVIF of frames of which none shows anything."""
    return _animation("AVIF", 20, 1024, speed=10, quality=1)


#: Name → the function that makes the file.
ANIMATIONS: Final[dict[str, Callable[[], bytes]]] = {
    "jpeg-reduced": jpeg_reduced,
    "jpeg-reduced-progressive": partial(jpeg_reduced, is_progressive=True),
    "jpeg-reduced-cmyk": partial(jpeg_reduced, "CMYK", is_progressive=True),
    "jpeg-reduced-noise": jpeg_reduced_noise,
    "jpeg-reduced-cut": jpeg_reduced_cut,
    "jpeg-reduced-progressive-cut": partial(jpeg_reduced_cut, is_progressive=True),
    "gif-transparent-frames": gif_transparent_frames,
    "gif-large-transparent-frames": partial(gif_transparent_frames, 100, 1990),
    "png-transparent-frames": png_transparent_frames,
    "webp-transparent-frames": webp_transparent_frames,
    "webp-large-transparent-frames": webp_large_transparent_frames,
    "avif-transparent-frames": avif_transparent_frames,
}
