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

from trellis2_server.digests import md5
from trellis2_server.inputs.images.views import sheet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from trellis2_server.request_fields import Side

#: How the object was found.
Background = Literal["alpha", "rembg", "grabcut", "none", "upstream"]


def _no_warnings() -> tuple[str, ...]:
    return ()


def _no_views() -> tuple[View, ...]:
    return ()


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One of several pictures of an object, as the model sees it.

    Attributes:
        rgba: as in `Cutout`, but for where the object is in it.
        side: what side of the object it shows; None: unknown.
    """

    rgba: NDArray[np.uint8]
    side: Side | None = None

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """The object on black, as TRELLIS.2 sees it: uint8 [S, S, 3], a new array each time."""
        return _on_black(self.rgba)

    def png(self) -> bytes:
        """Encode the picture, alpha included, as a PNG file."""
        return _png(self.rgba)


@dataclass(frozen=True, slots=True, eq=False)
class Cutout:
    """Square picture of an object on a transparent background, or several of one size.

    Attributes:
        rgba: uint8 [S, S, 4], sRGB, straight alpha, read-only; 16 <= S <= 1024. The object's box
            touches two opposite sides of the frame and is centred between the other two: that of
            the pixels with alpha over 204, of a translucent object that of what is visible, or the
            whole picture. Colour under alpha 0 is 0.
        background: how the object was found.
        warnings: sentences for the job and the log.
        views: all pictures, the first one too, if there are several; see `views.square_alike` for
            where the object is in them. Empty: there is one.
        image_hash: MD5 of the size and bytes of `rgb`, 32 hex digits; of several pictures, the MD5
            of those of all of them and of their sides.
        key: the same of `rgba`. Cut-outs with equal `image_hash` can differ in alpha.
    """

    rgba: NDArray[np.uint8]
    background: Background
    warnings: tuple[str, ...] = field(default_factory=_no_warnings)
    views: tuple[View, ...] = field(default_factory=_no_views)
    image_hash: str = field(init=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        for rgba in (self.rgba, *(view.rgba for view in self.views)):
            rgba.setflags(write=False)
        object.__setattr__(self, "image_hash", _digest(self.rgb, self.views, "rgb"))
        object.__setattr__(self, "key", _digest(self.rgba, self.views, "rgba"))

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """The object on black, as TRELLIS.2 sees it: uint8 [S, S, 3], a new array each time."""
        return _on_black(self.rgba)

    def png(self) -> bytes:
        """Encode the cut-out, or all pictures side by side, alpha included, as a PNG file."""
        squares = [view.rgba for view in self.views]
        return _png(sheet(squares) if squares else self.rgba)


def _on_black(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # Pillow's "RGBa" is c * a / 255, rounded, in C.
    premultiplied = Image.fromarray(rgba).convert("RGBa")
    return np.ascontiguousarray(np.asarray(premultiplied)[..., :3])


def _png(rgba: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgba).save(file, "PNG", compress_level=3)
    return file.getvalue()


def _digest(
    picture: NDArray[np.uint8], views: Iterable[View], channels: Literal["rgb", "rgba"]
) -> str:
    parts = [f"{view.side} {_md5(getattr(view, channels))}" for view in views]
    return md5("\n".join(parts).encode()) if parts else _md5(picture)


def _md5(array: NDArray[np.uint8]) -> str:
    digest = hashlib.md5(repr(array.shape).encode(), usedforsecurity=False)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
