"""`Cutter`: picture file → cut-out, with TRELLIS.2's own preprocessing.

Scales the longer side to at most 1024 pixels, removes the background, and crops to a square
that the object's box touches.

Does not know: HTTP, jobs, engines.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from trellis2_server.errors import EngineError, MissingPackageError
from trellis2_server.inputs.background import BackgroundModel
from trellis2_server.inputs.background.foreground import estimate_foreground
from trellis2_server.inputs.background.grabcut import grabcut_alpha
from trellis2_server.inputs.background.masks import mask_to_alpha
from trellis2_server.inputs.images.cutout import Cutout
from trellis2_server.inputs.images.decoding import decode_image
from trellis2_server.inputs.images.framing import crop_to_object

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from PIL import Image

    from trellis2_server.inputs.images.cutout import Background
    from trellis2_server.inputs.images.decoding import DecodedImage

logger = logging.getLogger(__name__)


class Decode(Protocol):
    """Decodes picture files; see `decoding.decode_image`."""

    def __call__(self, data: bytes, *, max_pixels: int, check: Callable[[], None]) -> DecodedImage:
        """Decode a file; `check` is called now and then, and what it raises ends the call."""
        ...


def _decode_here(data: bytes, *, max_pixels: int, check: Callable[[], None]) -> DecodedImage:
    check()
    return decode_image(data, max_pixels=max_pixels)


def _no_check() -> None:
    pass


class Cutter:
    """Cuts objects out of pictures. One per process; thread-safe.

    Args:
        background: background removal for pictures without transparency. "auto": `model`, or
            GrabCut with a warning if the model is not available; "rembg": `model` or an error;
            "grabcut"; "none": the whole frame is the object; "upstream": `remover`.
        model: the background model of "auto" and "rembg"; None for rembg's default one.
        remover: background removal of "upstream": RGB uint8 [H, W, 3] → alpha uint8 [H, W].
        max_image_pixels: limit for width times height in the file's header. Pillow's own limit
            is about 179 million.
        decode: decodes pictures, see `Decode`; None: in this process.
    """

    def __init__(
        self,
        *,
        background: Literal["auto", "rembg", "grabcut", "none", "upstream"] = "auto",
        model: BackgroundModel | None = None,
        remover: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
        max_image_pixels: int = 64_000_000,
        decode: Decode | None = None,
    ) -> None:
        self._background = background
        self._model = model or BackgroundModel()
        self._remover = remover
        self._max_pixels = max_image_pixels
        self._decode = decode or _decode_here

    def cut_out(
        self,
        data: bytes,
        *,
        remove_background: bool = True,
        wait: bool = True,
        check: Callable[[], None] = _no_check,
    ) -> Cutout:
        """Cut out the object of a picture file.

        If a pixel has alpha under 255, the picture's alpha is the object, regardless of
        `remove_background` and the configuration: clients send `remove_background: false`
        together with such pictures. Otherwise, `remove_background=False` makes the whole frame
        the object.

        Decodes only the first frame of an animation.

        Args:
            data: a file of one of the accepted formats (`images.formats`).
            remove_background: whether to find the object in a picture without transparency.
            wait: whether to wait for a background model that is loading. A download can take
                minutes.
            check: called now and then; what it raises ends the call.

        Raises:
            ModelPending: the picture needs a model that is loading, and `wait` is false. Call
                again later.
            InputError: the file is not a picture, is damaged, or shows no object.
            TooLargeError: the header declares more pixels than the limit.
            MissingPackageError: `rembg` is required but not installed, or neither `rembg` nor
                OpenCV is.
            EngineError: `rembg` is required, and its model is not available or failed.
        """
        decoded = self._decode(data, max_pixels=self._max_pixels, check=check)
        warnings = [*decoded.warnings]
        rgba = np.array(decoded.image)  # a copy: Pillow's buffer is read-only
        if decoded.has_alpha:
            background: Background = "alpha"
        elif not remove_background or self._background == "none":
            background = "none"
        else:
            rgb = np.ascontiguousarray(rgba[..., :3])
            background, alpha = self._find_object(decoded.image, rgb, warnings, wait=wait)
            rgba[..., :3] = estimate_foreground(rgb, alpha)
            rgba[..., 3] = alpha
        for warning in warnings:
            logger.warning("Picture cut out with a warning", extra={"warning": warning})
        return Cutout(crop_to_object(rgba, background), background, tuple(warnings))

    def _find_object(
        self, picture: Image.Image, rgb: NDArray[np.uint8], warnings: list[str], *, wait: bool
    ) -> tuple[Background, NDArray[np.uint8]]:
        """Find the object; return how, and its alpha, uint8 [H, W]."""
        if self._background == "grabcut":
            return "grabcut", grabcut_alpha(rgb)
        if self._background == "upstream" and self._remover is not None:
            return "upstream", self._remover(rgb)
        try:
            return "rembg", mask_to_alpha(self._model.mask(picture.convert("RGB"), wait=wait))
        except EngineError as error:
            if self._background == "rembg":
                raise
            reason = str(error)
        try:
            alpha = grabcut_alpha(rgb)
        except MissingPackageError as error:
            raise MissingPackageError(f"{reason}; {error}") from error
        warnings.append(f"the background was removed with GrabCut, which is less exact: {reason}")
        return "grabcut", alpha
