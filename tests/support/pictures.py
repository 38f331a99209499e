"""Pictures drawn for tests, and stand-ins for background models."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from trellis2_server.errors import EngineError, InputError

if TYPE_CHECKING:
    from collections.abc import Generator

    from numpy.typing import NDArray


def vase(width: int = 200, height: int = 160) -> Image.Image:
    """A soft-edged, two-coloured object on transparency, off centre and without symmetry."""
    scale = 4
    big = Image.new("RGBA", (width * scale, height * scale), (0, 0, 0, 0))
    draw = ImageDraw.Draw(big)
    left, top, right, bottom = (
        round(f * s * scale)
        for f, s in zip((0.2, 0.1, 0.6, 0.8), (width, height, width, height), strict=True)
    )
    draw.ellipse((left, top, right, bottom), fill=(200, 60, 40, 255))
    draw.rectangle(
        ((left + right) // 2, (top + bottom) // 2, right, bottom), fill=(30, 90, 180, 255)
    )
    return big.resize((width, height), Image.Resampling.BOX)


def photograph(width: int = 320, height: int = 240, seed: int = 0) -> Image.Image:
    """The vase before a lit, slightly noisy wall."""
    y, x = np.mgrid[0:height, 0:width]
    wall = 150 + 40 * y / height + 10 * x / width
    noise = np.random.default_rng(seed).normal(0, 2, (height, width, 3))
    back = Image.fromarray(np.clip(wall[..., None] + noise, 0, 255).astype(np.uint8))
    front = vase(width, height)
    back.paste(front, (0, 0), front)
    return back


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Encode a picture as a file of one of Pillow's formats."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Encode a PNG chunk with a valid checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_that_declares(width: int, height: int) -> bytes:
    """A PNG whose header declares more pixels than it has."""
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + png_chunk(b"IEND", b"")
    )


def bounding_box(alpha: np.ndarray[Any, Any]) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of the pixels with alpha over 204."""
    rows, columns = np.nonzero(alpha > 204)
    return int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1


@contextmanager
def allow_input_error(beginning: str = "image: ") -> Generator[None]:
    """Accept an `InputError` whose message has that beginning."""
    try:
        yield
    except InputError as error:
        message = str(error)
    else:
        return
    assert message.startswith(beginning)


class ColorSession:
    """A background model by colour: grey pixels are background.

    Args:
        veil: Mask value of the background; None for 0.
    """

    def __init__(self, veil: int | None = None) -> None:
        self.veil = veil

    def mask(self, rgb: NDArray[np.uint8], check: object) -> NDArray[np.uint8]:
        del check
        red, green, blue = np.moveaxis(rgb.astype(int), 2, 0)
        mask = ((abs(red - green) > 15) | (abs(green - blue) > 15)).astype(np.uint8) * 255
        if self.veil is not None:
            mask[mask == 0] = self.veil
        return mask

    def close(self) -> None: ...


def no_session(name: str) -> ColorSession:
    """Fail to open a background model."""
    raise EngineError(f"no {name} here")
