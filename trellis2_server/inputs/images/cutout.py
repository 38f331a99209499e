"""`Cutout`: the object of a picture as the model sees it, and its hashes.

Does not know: how the object was found, files other than PNG.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: How the object was found.
Background = Literal["alpha", "rembg", "grabcut", "none", "upstream"]


def _no_warnings() -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True, eq=False)
class Cutout:
    """Square picture of an object on a transparent background.

    Attributes:
        rgba: uint8 [S, S, 4], sRGB, straight alpha, read-only; 16 <= S <= 1024. The object's box
            touches two opposite sides of the frame and is centred between the other two: that of
            the pixels with alpha over 204, of a translucent object that of what is visible, or the
            whole picture. Colour under alpha 0 is 0.
        background: how the object was found.
        warnings: sentences for the job and the log.
        image_hash: MD5 of the size and bytes of `rgb`, 32 hex digits.
        key: MD5 of the size and bytes of `rgba`. Cut-outs with equal `image_hash` can differ in
            alpha.
    """

    rgba: NDArray[np.uint8]
    background: Background
    warnings: tuple[str, ...] = field(default_factory=_no_warnings)
    image_hash: str = field(init=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.rgba.setflags(write=False)
        object.__setattr__(self, "image_hash", _md5(self.rgb))
        object.__setattr__(self, "key", _md5(self.rgba))

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """The object on black, as TRELLIS.2 sees it: uint8 [S, S, 3], a new array each time."""
        # Pillow's "RGBa" is c * a / 255, rounded, in C.
        premultiplied = Image.fromarray(self.rgba).convert("RGBa")
        return np.ascontiguousarray(np.asarray(premultiplied)[..., :3])

    def png(self) -> bytes:
        """Encode the cut-out, alpha included, as a PNG file."""
        file = io.BytesIO()
        Image.fromarray(self.rgba).save(file, "PNG", compress_level=3)
        return file.getvalue()


def _md5(array: NDArray[np.uint8]) -> str:
    digest = hashlib.md5(repr(array.shape).encode(), usedforsecurity=False)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
