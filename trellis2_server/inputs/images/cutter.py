"""`Cutter`: picture files → cut-out, with TRELLIS.2's own preprocessing.

Scales the longer side to at most 1024 pixels, removes the background, and crops to a square
that the object's box touches. Whether a picture is a cut-out already: `transparency`.

Does not know: HTTP, jobs, engines, in which process a picture is decoded or an object found.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Literal, Protocol

import numpy as np

from trellis2_server.errors import EngineError, InputError, MissingPackageError, TooLargeError
from trellis2_server.inputs.background import BackgroundModel
from trellis2_server.inputs.background.objects import LocalFinder
from trellis2_server.inputs.images.cutout import Cutout, View
from trellis2_server.inputs.images.decoding import decode_image
from trellis2_server.inputs.images.framing import crop_to_object, warn_of_few_pixels
from trellis2_server.inputs.images.picture_set import PictureSet
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
from trellis2_server.inputs.images.views import square_alike
from trellis2_server.reports import no_check

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from trellis2_server.inputs.background import FetchState
    from trellis2_server.inputs.background.objects import ObjectFinder
    from trellis2_server.inputs.images.cutout import Background
    from trellis2_server.inputs.images.decoding import DecodedImage
    from trellis2_server.inputs.images.picture_set import Pictures
    from trellis2_server.reports import Check
    from trellis2_server.request_fields import RemoveBackground

logger = logging.getLogger(__name__)

#: Several pictures may have this many times the pixels of one, together.
PIXELS_TOGETHER: Final = 4
#: How messages about a picture begin.
_LABEL: Final = "image"


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
        max_image_pixels: limit for width times height in the file's header; four times as many for
            several pictures together. Pillow's own limit is about 179 million.
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
        data: Pictures,
        *,
        remove_background: RemoveBackground = True,
        wait: bool = True,
        check: Check = no_check,
    ) -> Cutout:
        """Cut out the object of a picture file, or of each of several.

        A picture is a cut-out if its transparency looks like one. What is faint as a whole is made
        opaque first.

        Decodes only the first frame of an animation.

        Args:
            data: a file of one of the accepted formats (`images.formats`), or several. Messages
                about one of several begin with its name.
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
            TooLargeError: the header declares more pixels than the limit, or those of all
                pictures together do.
            MissingPackageError: `rembg` is required but not installed, or neither `rembg` nor
                OpenCV is.
            EngineError: `rembg` is required, and its model is not available or failed.
        """
        if isinstance(data, PictureSet):
            return self._cut_out_each(data, remove_background, wait=wait, check=check)
        decoded = self._decode(data, max_pixels=self._max_pixels, check=check)
        return self._cut_out(decoded, remove_background, wait=wait, check=check)

    def _cut_out_each(
        self,
        pictures: PictureSet,
        remove_background: RemoveBackground,
        *,
        wait: bool,
        check: Check,
    ) -> Cutout:
        """Cut out each picture by itself, and bring the squares to a common scale."""
        cutouts: list[Cutout] = []
        warnings: dict[str, None] = {}
        left = whole = PIXELS_TOGETHER * self._max_pixels
        for index, data in enumerate(pictures.contents):
            label = pictures.label(index)
            limit = min(self._max_pixels, left)
            try:
                decoded = self._decode(data, max_pixels=limit, check=check)
                cutouts.append(self._cut_out(decoded, remove_background, wait=wait, check=check))
            except TooLargeError as error:
                rest = "" if limit == self._max_pixels else f" (all together: {whole} pixels)"
                raise TooLargeError(_labelled(str(error), label) + rest) from error
            except InputError as error:
                raise InputError(_labelled(str(error), label)) from error
            left -= decoded.pixels
            warnings |= dict.fromkeys(_labelled(text, label) for text in cutouts[-1].warnings)
        sides = pictures.sides
        squares = square_alike([cutout.rgba for cutout in cutouts], is_level=all(sides))
        views = tuple(map(View, squares, sides))
        return Cutout(squares[0], cutouts[0].background, tuple(warnings), views)

    def _cut_out(
        self,
        decoded: DecodedImage,
        remove_background: RemoveBackground,
        *,
        wait: bool,
        check: Check,
    ) -> Cutout:
        """Cut out the object of a decoded picture; see `cut_out`."""
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
        square = crop_to_object(rgba, background, box)
        warnings += warn_of_few_pixels(square)
        for warning in warnings:
            logger.warning("Picture cut out with a warning", extra={"warning": warning})
        return Cutout(square, background, tuple(warnings))

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


def _labelled(text: str, label: str) -> str:
    """Return a message about a picture with the picture's name, if it begins with the field's."""
    return label + text.removeprefix(_LABEL) if text.startswith(f"{_LABEL}:") else text
