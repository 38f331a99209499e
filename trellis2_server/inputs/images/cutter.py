"""`Cutter`: picture file → cut-out, with TRELLIS.2's own preprocessing.

Scales the longer side to at most 1024 pixels, removes the background, and crops to a square
that the object's box touches. Whether a picture is a cut-out already: `transparency`.

Does not know: HTTP, jobs, engines, in which process a picture is decoded or an object found.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from trellis2_server.errors import EngineError, MissingPackageError
from trellis2_server.inputs.background import BackgroundModel
from trellis2_server.inputs.background.objects import LocalFinder
from trellis2_server.inputs.images.cutout import Cutout
from trellis2_server.inputs.images.decoding import decode_image
from trellis2_server.inputs.images.framing import crop_to_object
from trellis2_server.inputs.images.transparency import (
    OPAQUE_ALPHA,
    TRANSLUCENT,
    Box,
    find_box,
    flatten,
    is_cut_out,
    search_box,
    stretch_alpha,
)
from trellis2_server.reports import no_check

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from trellis2_server.inputs.background import FetchState
    from trellis2_server.inputs.background.objects import ObjectFinder
    from trellis2_server.inputs.images.cutout import Background
    from trellis2_server.inputs.images.decoding import DecodedImage
    from trellis2_server.reports import Check
    from trellis2_server.request_fields import RemoveBackground

logger = logging.getLogger(__name__)


class Decode(Protocol):
    """Decodes a picture file; see `decoding.decode_image`. Thread-safe."""

    def __call__(self, data: bytes, *, max_pixels: int, check: Check) -> DecodedImage:
        """Return the first frame; the check ends the call by raising."""
        ...


def decode_here(data: bytes, *, max_pixels: int, check: Check) -> DecodedImage:
    """Decode a picture file in this process; the check is called before."""
    check()
    return decode_image(data, max_pixels=max_pixels)


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
        decode: decodes picture files; by default in this process.
        finder: finds objects without `model` and `remover`; by default in this process.
    """

    def __init__(  # noqa: PLR0913 - the parts of one story
        self,
        *,
        background: Literal["auto", "rembg", "grabcut", "none", "upstream"] = "auto",
        model: BackgroundModel | None = None,
        remover: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
        max_image_pixels: int = 64_000_000,
        decode: Decode = decode_here,
        finder: ObjectFinder | None = None,
    ) -> None:
        self._background = background
        self._model = model or BackgroundModel()
        self._remover = remover
        self._max_pixels = max_image_pixels
        self._decode = decode
        self._finder = finder or LocalFinder()

    def cut_out(
        self,
        data: bytes,
        *,
        remove_background: RemoveBackground = True,
        wait: bool = True,
        check: Check = no_check,
    ) -> Cutout:
        """Cut out the object of a picture file.

        A picture is a cut-out if its transparency looks like one. What is faint as a whole is made
        opaque first.

        Decodes only the first frame of an animation.

        Args:
            data: a file of one of the accepted formats (`images.formats`).
            remove_background: True: find the object in a picture that is no cut-out. "always":
                also in what is visible of a cut-out. False: the whole frame is the object.
            wait: whether to wait for a background model that is loading. A download can take
                minutes.
            check: called again and again, as far as what runs allows. An exception that it raises
                ends the call and what runs for it.

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
            alpha = stretch_alpha(rgba[..., 3])
            if alpha is not None:
                rgba[..., 3] = alpha
                warnings.append(TRANSLUCENT)
        is_cutout = decoded.has_alpha and is_cut_out(rgba[..., 3])
        box: Box | None = None
        if remove_background is False:
            background: Background = "none"
        elif is_cutout and (remove_background is True or self._background == "none"):
            background = "alpha"
        elif self._background == "none":
            background = "none"
        else:
            background, rgba = self._remove_background(
                rgba, warnings, wait=wait, check=check, is_cutout=is_cutout
            )
        if background == "alpha":
            box, warning = find_box(rgba)
            warnings += [warning] if warning else []
        elif background == "none":
            box = Box(0, 0, *rgba.shape[:2])
            if not rgba[..., 3].any():  # only what it hides is left of such a picture
                rgba[..., 3] = 255
        for warning in warnings:
            logger.warning("Picture cut out with a warning", extra={"warning": warning})
        return Cutout(crop_to_object(rgba, background, box), background, tuple(warnings))

    def prefetch(self) -> None:
        """Begin to fetch the background model in the background, without loading it."""
        self._model.prefetch()

    def model_state(self) -> FetchState | None:
        """Return how far the background model is; None: nothing was done for it."""
        return self._model.state()

    def close(self) -> None:
        """Free the background model; pictures that need it fail from now on."""
        self._model.close()

    def _remove_background(
        self,
        rgba: NDArray[np.uint8],
        warnings: list[str],
        *,
        wait: bool,
        check: Check,
        is_cutout: bool,
    ) -> tuple[Background, NDArray[np.uint8]]:
        """Find the object in what is visible; return how, and its picture, uint8 [H, W, 4].

        What is transparent stays so. A cut-out in which nothing is found is its own object.
        """
        if rgba[..., 3].min() == 255:  # noqa: PLR2004 - opaque
            rgb = np.ascontiguousarray(rgba[..., :3])
            return self._find_object(rgb, warnings, wait=wait, check=check)
        box = search_box(rgba[..., 3])
        seen = rgba[box.rows, box.columns]
        background, found = self._find_object(flatten(seen), warnings, wait=wait, check=check)
        is_faint = seen[..., 3] < 255  # noqa: PLR2004 - their colours are mixed with another
        found[is_faint, :3] = seen[is_faint, :3]
        found[..., 3] = np.minimum(found[..., 3], seen[..., 3])
        if is_cutout and not (found[..., 3] > OPAQUE_ALPHA).any():
            warnings.append(
                "image: no background was found to remove; the picture's transparency was used"
            )
            return "alpha", rgba
        removed = np.zeros_like(rgba)
        removed[box.rows, box.columns] = found
        return background, removed

    def _find_object(
        self, rgb: NDArray[np.uint8], warnings: list[str], *, wait: bool, check: Check
    ) -> tuple[Background, NDArray[np.uint8]]:
        """Find the object; return how, and its picture, uint8 [H, W, 4]."""
        if self._background == "grabcut":
            return "grabcut", self._finder.find_by_color(rgb, check)
        if self._background == "upstream" and self._remover is not None:
            alpha = self._remover(rgb)
            return "upstream", self._finder.apply_outline(rgb, alpha, "alpha", check)
        try:
            mask = self._model.mask(rgb, wait=wait, check=check)
        except EngineError as error:
            if self._background == "rembg":
                raise
            reason = str(error)
        else:
            return "rembg", self._finder.apply_outline(rgb, mask, "mask", check)
        try:
            rgba = self._finder.find_by_color(rgb, check)
        except MissingPackageError as error:
            raise MissingPackageError(f"{reason}; {error}") from error
        warnings.append(f"the background was removed with GrabCut, which is less exact: {reason}")
        return "grabcut", rgba
