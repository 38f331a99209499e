"""Pictures in, cut-outs out: upload → bounded RGBA → object → what the model sees, and its hash.

The steps are TRELLIS.2's own preprocessing: the longer side to at most 1024 pixels, the
background off, a square crop that the object's box touches, the object on black.

What this module does not know: HTTP, jobs, engines. It imports OpenCV when a picture
first needs it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import importlib
import io
import json
import logging
import time
import warnings
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import numpy as np
from PIL import Image, ImageCms

from trellis2_server.errors import (
    EngineError,
    InputError,
    MissingPackageError,
    ServerError,
    TooLargeError,
)
from trellis2_server.inputs.background_model import BackgroundModel, open_rembg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from trellis2_server.inputs.background_model import Session

    Floats = NDArray[np.floating[Any]]

logger = logging.getLogger(__name__)

Background = Literal["alpha", "rembg", "grabcut", "none", "upstream"]

#: Longer side of what is cut out, in pixels: TRELLIS.2's.
MAX_SIZE_PX: Final = 1024
#: A pixel belongs to the object's box above this alpha: TRELLIS.2's 0.8 * 255.
OPAQUE_ALPHA: Final = 204
#: An object whose box is smaller than this on its longer side is none.
MIN_OBJECT_PX: Final = 16
#: Longer side over shorter side of a picture; at 32, 1024 x 32 pixels are left of it.
MAX_ASPECT: Final = 32

#: Pillow's names. A multi-picture JPEG of a phone is JPEG here, an APNG is PNG.
FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_SPOKEN_FORMATS: Final = "PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF"

_ORIENTATION_TAG: Final = 0x0112
#: EXIF 2.32, tag Orientation: what brings the stored rows and columns upright.
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")
_WHITE_SPACE: Final = b" \t\r\n\f\v"
#: Characters that are decoded in one go, in about a millisecond.
_PIECE: Final = 262_144
#: Of JSON's longest escape.
_ESCAPE_LENGTH: Final = 6
_OPENCV_INSTALL: Final = "pip install opencv-python-headless"


def _no_warnings() -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True, eq=False)
class Cutout:
    """What the model sees.

    Attributes:
        rgba: uint8 [S, S, 4], sRGB, straight alpha, read-only; the box of the pixels with
            alpha over 204 touches two opposite sides of the frame and is centred between
            the others; 16 <= S <= 1024. Colour under alpha 0 is 0.
        background: how the object was found.
        warnings: sentences for the job and the log.
        image_hash: MD5 of `rgb` and its size, 32 hex digits.
        key: the same over `rgba`. Two cut-outs of one `image_hash` may differ in alpha.
    """

    rgba: NDArray[np.uint8]
    background: Background
    warnings: tuple[str, ...] = field(default_factory=_no_warnings)
    image_hash: str = field(init=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.rgba.setflags(write=False)
        object.__setattr__(self, "image_hash", _digest(self.rgb))
        object.__setattr__(self, "key", _digest(self.rgba))

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """The object on black, as TRELLIS.2 sees it: uint8 [S, S, 3], made anew each time."""
        # Pillow's "RGBa" is c * a / 255, rounded, in C.
        premultiplied = Image.fromarray(self.rgba).convert("RGBa")
        return np.ascontiguousarray(np.asarray(premultiplied)[..., :3])

    def png(self) -> bytes:
        """The cut-out, alpha included, as a PNG file."""
        file = io.BytesIO()
        Image.fromarray(self.rgba).save(file, "PNG", compress_level=3)
        return file.getvalue()


def decode_base64(text: str | memoryview, *, max_bytes: int, name: str = "image") -> bytes:
    """The bytes behind the base64 of a request's `image`, or of another field.

    A `data:…;base64,` prefix, white space, the URL-safe alphabet and missing padding are
    taken as they come. It is done piece by piece, between which other threads run.

    Args:
        text: a string, or the inside of one as JSON writes it, with its escapes.
        max_bytes: of what comes out.
        name: of the field.

    Raises:
        InputError: nothing is there, or it is no base64.
        TooLargeError: more than `max_bytes` would come out; they are not decoded.
    """
    parts: list[bytes] = []
    size, digits, is_padded = 0, b"", False
    try:
        for piece in _pieces(text, name):
            digits += piece.translate(_URL_SAFE, _WHITE_SPACE)
            if is_padded and digits.strip(b"="):
                raise InputError(f"{name}: not base64")
            stripped = digits.rstrip(b"=")
            is_padded = is_padded or len(stripped) < len(digits)
            whole = len(stripped) if is_padded else len(stripped) // 4 * 4
            size += len(stripped[:whole])
            if size * 3 // 4 > max_bytes:
                raise TooLargeError(f"{name}: over the limit of {max_bytes} bytes")
            parts.append(_from_digits(stripped[:whole]))
            digits = stripped[whole:]
        parts.append(_from_digits(digits))
    except UnicodeEncodeError as error:
        raise InputError(f"{name}: not base64, it has characters outside ASCII") from error
    except binascii.Error as error:
        raise InputError(f"{name}: not base64") from error
    if (size + len(digits)) * 3 // 4 > max_bytes:
        raise TooLargeError(f"{name}: over the limit of {max_bytes} bytes")
    if not size and not digits:
        raise InputError(f"{name}: empty")
    return b"".join(parts)


def _from_digits(digits: bytes) -> bytes:
    return base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)


def _pieces(text: str | memoryview, name: str) -> Iterator[bytes]:
    """The characters after the prefix, without escapes, some at a time."""
    at = 0
    while at < len(text):
        part = text[at : at + _PIECE]
        piece = part.encode("ascii") if isinstance(part, str) else bytes(part)
        length = len(piece)
        if isinstance(part, memoryview) and b"\\" in piece:
            if at + length < len(text):  # not through the midst of an escape
                last = piece.rfind(b"\\", length - _ESCAPE_LENGTH + 1)
                length = last if last > 0 else length
            piece = _without_escapes(piece[:length], name)
        if not at:
            piece = piece[_prefix_length(piece, name) :]
        at += length
        yield piece


def _without_escapes(piece: bytes, name: str) -> bytes:
    try:
        text: str = json.loads(b'"%b"' % piece, strict=False)
    except ValueError as error:
        raise InputError(f"{name}: not base64") from error
    return text.encode("ascii")


def _prefix_length(piece: bytes, name: str) -> int:
    if piece[:64].lstrip()[:5].lower() != b"data:":
        return 0
    length = piece.find(b",", 0, 1024) + 1
    if not length or not piece[: length - 1].rstrip().lower().endswith(b"base64"):
        raise InputError(f"{name}: the data: prefix does not end in ';base64,'")
    return length


class Cutter:
    """Cuts objects out of pictures; one for the process, called from any thread.

    Args:
        background: what is done to a picture without transparency. "auto": `rembg`, and
            GrabCut with a warning where no background model can be had; "rembg": `rembg` or
            an error; "grabcut"; "none": the whole frame is the object; "upstream": `remover`.
        background_model: a model name of `rembg`.
        max_image_pixels: width times height in the file's header. Pillow itself opens
            nothing over about 179 million.
        offline: a model that is not on this machine is not downloaded.
        download_timeout_s: for how long the pictures that need the model wait for it to be
            loaded, downloaded if need be, counted from the first. The download goes on after
            that, and its model is used once it is there.
        remover: RGB uint8 [H, W, 3] → alpha uint8 [H, W], of "upstream".
        clock: monotonic seconds.
        open_session: loads a background model by name; made to be replaced in tests.
    """

    def __init__(  # noqa: PLR0913 - one argument per setting
        self,
        *,
        background: Literal["auto", "rembg", "grabcut", "none", "upstream"] = "auto",
        background_model: str = "isnet-general-use",
        max_image_pixels: int = 64_000_000,
        offline: bool = False,
        download_timeout_s: float = 120,
        remover: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        open_session: Callable[[str], Session] | None = None,
    ) -> None:
        self._background = background
        self._remover = remover
        self._max_pixels = max_image_pixels
        self._model = BackgroundModel(
            background_model,
            open_session or partial(open_rembg, offline=offline),
            timeout_s=download_timeout_s,
            clock=clock,
        )

    def cut_out(self, data: bytes, *, remove_background: bool = True, wait: bool = True) -> Cutout:
        """The object in an image file.

        A picture with a pixel under alpha 255 is cut out already: its alpha is the object,
        whatever `remove_background` and the configuration say (clients send
        `remove_background: false` along with just such pictures). Without one,
        `remove_background=False` means that the whole frame is the object.

        Only the first frame of an animation is ever decoded.

        Args:
            data: PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF.
            remove_background: whether to look for the object where no alpha shows it.
            wait: whether to wait for a background model that is being loaded; downloading it
                can take minutes.

        Raises:
            ModelPending: not `wait`, and the picture needs such a model: call again later.
            InputError: no image, a broken one, or no object in it.
            TooLargeError: more pixels than the limit; found in the header, before decoding.
            MissingPackageError: `rembg` is asked for and not installed, or neither it nor
                OpenCV is.
            EngineError: `rembg` is asked for, and its model cannot be had or failed.
        """
        notes: list[str] = []
        picture = _decode(data, max_pixels=self._max_pixels, notes=notes)
        rgba = np.array(picture)  # a copy: Pillow's buffer is read-only
        if picture.info["has_alpha"]:
            background: Background = "alpha"
        elif not remove_background or self._background == "none":
            background = "none"
        else:
            rgb = np.ascontiguousarray(rgba[..., :3])
            background, alpha = self._find_object(picture, rgb, notes, wait=wait)
            rgba[..., :3] = _foreground(rgb, alpha)
            rgba[..., 3] = alpha
        for note in notes:
            logger.warning("Picture cut out with a warning", extra={"warning": note})
        return Cutout(_frame(rgba, background), background, tuple(notes))

    def _find_object(
        self, picture: Image.Image, rgb: NDArray[np.uint8], notes: list[str], *, wait: bool
    ) -> tuple[Background, NDArray[np.uint8]]:
        """How the object was found, and its alpha, uint8 [H, W]."""
        if self._background == "grabcut":
            return "grabcut", _grabcut(rgb)
        if self._background == "upstream" and self._remover is not None:
            return "upstream", self._remover(rgb)
        try:
            return "rembg", _tidied(self._model.mask(picture.convert("RGB"), wait=wait))
        except EngineError as error:
            if self._background == "rembg":
                raise
            why = str(error)
        try:
            alpha = _grabcut(rgb)
        except MissingPackageError as error:
            raise MissingPackageError(f"{why}; {error}") from error
        notes.append(f"the background was removed with GrabCut, which is less exact: {why}")
        return "grabcut", alpha


def _foreign(name: str) -> Any:
    """A package whose types differ between versions, or that may not be there."""
    return importlib.import_module(name)


# ---- decoding ----------------------------------------------------------------------------


def _decode(data: bytes, *, max_pixels: int, notes: list[str]) -> Image.Image:
    """First frame, upright, sRGB, mode RGBA, longer side <= 1024; `info` says `has_alpha`.

    The order is such that a picture that is stored in another way (palette, losslessly in
    another format) comes out bit for bit the same.
    """
    if not data:
        raise InputError("image: empty")
    _silence_pillow()
    try:
        image = _open(data, max_pixels)
        icc_profile: object = image.info.get("icc_profile")
        image.draft(None, (2 * MAX_SIZE_PX, 2 * MAX_SIZE_PX))  # JPEG only: decodes at 1/2, 1/4, 1/8
        image.load()
        _check_size(image.size, max_pixels)  # a GIF frame can be larger than its header says
        has_alpha, image = _plain(_upright(image))
        image = _fit(image)
        if isinstance(icc_profile, bytes) and icc_profile:
            alpha = image.getchannel("A") if has_alpha else None
            image = _to_srgb(image, icc_profile, notes)
            if alpha is not None:
                image.putalpha(alpha)
        image = image.convert("RGBA")
    except (ServerError, ImportError):
        raise
    except Image.DecompressionBombError as error:
        raise TooLargeError(f"image: over the limit of {max_pixels} pixels") from error
    except MemoryError as error:
        raise TooLargeError("image: decoding it takes more memory than there is") from error
    except Exception as error:  # Pillow's plugins let anything out of a broken file
        raise InputError("image: the file is damaged or cut short") from error
    image.info = {"has_alpha": has_alpha}
    return image


def _silence_pillow() -> None:
    """Ignore what Pillow warns of and logs: it is about a client's file, not about this code.

    `warnings.catch_warnings` is no way here: it swaps a list that all threads share.
    """
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    pattern = r"PIL(\.|$)"
    if not any(
        action == "ignore" and module is not None and getattr(module, "pattern", module) == pattern
        for action, _, _, module, _ in warnings.filters
    ):
        warnings.filterwarnings("ignore", module=pattern)


def _open(data: bytes, max_pixels: int) -> Image.Image:
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]  # AVIF came with Pillow 11.3
    try:
        image = Image.open(io.BytesIO(data), formats=known)
    except Image.UnidentifiedImageError as error:
        raise InputError(f"image: not a {_SPOKEN_FORMATS} file, or a damaged one") from error
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
            f"one side may be {MAX_ASPECT} times the other"
        )


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation: object = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # noqa: BLE001 - broken EXIF; the pixels are fine
        return image
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _plain(image: Image.Image) -> tuple[bool, Image.Image]:
    """Whether a pixel is transparent, and the picture in mode L, RGB, CMYK, LAB or RGBA."""
    if image.mode[0] in "IF":  # I;16 and its byte orders, I, F
        image = _deepest_to_8_bit(image)
    if "transparency" in image.info or image.mode[-1] in "Aa":
        if image.mode == "La":
            image = image.convert("LA")
        image = image.convert("RGBA")
        lowest = cast("tuple[int, int]", image.getchannel("A").getextrema())[0]
        if lowest < 255:  # noqa: PLR2004 - opaque
            return True, image
        return False, image.convert("RGB")
    if image.mode not in {"L", "RGB", "CMYK", "LAB"}:
        image = image.convert("RGB")
    return False, image


def _deepest_to_8_bit(image: Image.Image) -> Image.Image:
    """Mode L, or LA where one value is declared transparent. Pillow would clip at 255."""
    values = np.nan_to_num(np.asarray(image).astype(np.float32), posinf=0.0, neginf=0.0)
    if image.mode.startswith("I;16"):
        white = 65535.0
    else:  # a TIFF does not say; take the smallest usual range that holds it
        highest = float(values.max())
        white = next((w for w in (1.0, 255.0, 65535.0) if highest <= w), highest)
    grey = Image.fromarray((np.clip(values / white, 0, 1) * 255 + 0.5).astype(np.uint8))
    transparent: object = image.info.get("transparency")
    if isinstance(transparent, int):
        opaque = (values != transparent).astype(np.uint8) * 255
        grey.putalpha(Image.fromarray(opaque))
    return grey


def _fit(image: Image.Image) -> Image.Image:
    longer = max(image.size)
    if longer <= MAX_SIZE_PX:
        return image
    size = [max(1, round(side * MAX_SIZE_PX / longer)) for side in image.size]
    # Pillow resizes RGBA premultiplied, so that no hidden colour bleeds into an edge.
    return image.resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=3.0)


def _to_srgb(image: Image.Image, icc_profile: bytes, notes: list[str]) -> Image.Image:
    """Mode RGB, from mode L, RGB, RGBA, CMYK or LAB."""
    plain = image.convert("RGB")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
        if ImageCms.getProfileDescription(profile).strip().lower().startswith("srgb"):
            return plain  # as it is; lcms would be off by one here and there
        space: str = cast("Any", profile).profile.xcolor_space.strip()
        if space == "GRAY" and image.mode == "L":
            source = image
        elif space == "RGB" and image.mode in {"L", "RGB", "RGBA"}:
            source = plain
        elif space == image.mode:  # CMYK, LAB
            source = image
        else:
            return plain  # a profile of another picture
        srgb = ImageCms.createProfile("sRGB")
        return cast(
            "Image.Image", ImageCms.profileToProfile(source, profile, srgb, outputMode="RGB")
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        notes.append("image: its colour profile is damaged and was ignored")
        return plain


# ---- framing -----------------------------------------------------------------------------


def _frame(rgba: NDArray[np.uint8], background: Background) -> NDArray[np.uint8]:
    """The square around the object's box, [S, S, 4]; outside the picture it is empty."""
    solid = rgba[..., 3] > OPAQUE_ALPHA
    rows = np.flatnonzero(solid.any(axis=1))
    columns = np.flatnonzero(solid.any(axis=0))
    if not len(rows):
        where = {
            "alpha": "everything in it is transparent",
            "none": "it is empty",
        }.get(background, "nothing is left after the background was removed")
        raise InputError(f"image: no object was found, {where}")
    top, left = int(rows[0]), int(columns[0])
    height, width = int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left
    side = max(height, width)
    if side < MIN_OBJECT_PX:
        raise InputError(
            f"image: no object was found, only {width} x {height} pixels are left; "
            f"{MIN_OBJECT_PX} are the least"
        )
    top -= (side - height) // 2
    left -= (side - width) // 2
    square = np.zeros((side, side, 4), np.uint8)
    y0, x0 = max(top, 0), max(left, 0)
    part = rgba[y0 : top + side, x0 : left + side]
    square[y0 - top :, x0 - left :][: part.shape[0], : part.shape[1]] = part
    # Hidden colour differs between formats, the object does not. (A mask takes ten times as long.)
    square.view(np.uint32)[..., 0] *= square[..., 3] > 0
    return square


def _digest(array: NDArray[np.uint8]) -> str:
    digest = hashlib.md5(repr(array.shape).encode(), usedforsecurity=False)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _foreground(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The object's own colour at its soft edge, where the picture shows a mix.

    Blur-fusion, two passes: M. Forte, "Approximate Fast Foreground Colour Estimation",
    ICIP 2021. Pixels of alpha 0 and 255 keep theirs.
    """
    soft = (alpha > 0) & (alpha < 255)  # noqa: PLR2004 - opaque
    if not soft.any():
        return rgb
    ndimage = _foreign("scipy.ndimage")

    def blurred(values: Floats, radius: int) -> Floats:
        for axis in (0, 1):
            values = ndimage.uniform_filter1d(values, 2 * radius + 1, axis=axis, mode="nearest")
        return values

    image = rgb.astype(np.float32)
    weight = (alpha.astype(np.float32) / 255)[..., None]
    front: Floats = image
    back: Floats = image
    # Squared, unlike the paper: what is nearly all object says more about its colour.
    is_front, is_back = weight**2, (1 - weight) ** 2
    for radius in (45, 4):
        front = blurred(front * is_front, radius) / (blurred(is_front, radius) + 1e-6)
        back = blurred(back * is_back, radius) / (blurred(is_back, radius) + 1e-6)
        front = front + weight * (image - weight * front - (1 - weight) * back)
        front = np.clip(front, 0, 255)
    # Where there is enough object in the mix, what is left without the background is exact.
    exact = np.clip((image - (1 - weight) * back) / np.maximum(weight, 0.3), 0, 255)
    front += np.clip((weight - 0.3) / 0.7, 0, 1) * (exact - front)
    result = rgb.copy()
    result[soft] = (front[soft] + 0.5).astype(np.uint8)
    return result


def _tidied(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A model's mask without its doubts: soft at the edge, solid inside, empty outside.

    Models leave specks in the background and a grain where they were not sure of the
    object. A hole stays one where the model is sure of it.
    """
    ndimage = _foreign("scipy.ndimage")
    share = mask.astype(np.float32) / 255
    square = np.ones((3, 3), bool)
    level = ndimage.gaussian_filter(share, 1.0)
    sure = _main_parts(level > 0.75, least=1 / 300)  # noqa: PLR2004
    # What the model half believes counts only beside what it believes.
    solid = (level > 0.45) & ndimage.binary_dilation(sure, square, iterations=4)  # noqa: PLR2004
    holes, count = ndimage.label(~solid)
    if count:
        doubt = np.bincount(holes.ravel(), share.ravel()) / np.maximum(
            np.bincount(holes.ravel()), 1
        )
        doubtful = doubt > 0.15  # noqa: PLR2004
        doubtful[0] = False
        doubtful[holes[[0, -1], :]] = False  # what reaches the frame is no hole
        doubtful[holes[:, [0, -1]]] = False
        solid |= doubtful[holes]
    inside = ndimage.binary_erosion(solid, square, iterations=7, border_value=1)
    around = ndimage.binary_dilation(solid, square, iterations=3)
    # From "nearly empty" to "nearly full": no veil, no see-through rim.
    alpha = np.clip((share - 0.05) / 0.9, 0, 1) * around
    alpha[inside] = 1
    return (alpha * 255 + 0.5).astype(np.uint8)


def _main_parts(mask: NDArray[np.bool_], least: float = 1 / 50) -> NDArray[np.bool_]:
    """The mask without parts smaller than `least` times the largest one."""
    ndimage = _foreign("scipy.ndimage")
    labels, count = ndimage.label(mask, np.ones((3, 3), bool))
    if not count:
        return mask
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    return cast("NDArray[np.bool_]", (areas >= areas.max() * least)[labels])


# ---- GrabCut -----------------------------------------------------------------------------


def _grabcut(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The object's alpha, uint8 [H, W], from colour alone: for a plain background.

    Rother, Kolmogorov, Blake, "GrabCut", SIGGRAPH 2004, on a copy of at most 512 pixels,
    begun from how far each pixel is from the background that the frame's border predicts.

    Raises:
        MissingPackageError: OpenCV is not installed.
    """
    try:
        cv2 = _foreign("cv2")
    except ImportError as error:
        raise MissingPackageError(f"OpenCV is not installed ({_OPENCV_INSTALL})") from error
    height, width = rgb.shape[:2]
    scale = min(1.0, 512 / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    marks = _border_marks(lab)
    if not (marks & 1).any():
        return np.zeros((height, width), np.uint8)
    cv2.setRNGSeed(1)  # GrabCut draws from this thread's generator; equal pictures, equal hashes
    models = np.zeros((1, 65)), np.zeros((1, 65))
    bgr = np.ascontiguousarray(small[..., ::-1])
    cv2.grabCut(bgr, marks, (0, 0, 0, 0), models[0], models[1], 3, cv2.GC_INIT_WITH_MASK)
    mask = ~_main_parts(~_main_parts((marks & 1).astype(bool)), least=1 / 2000)
    return _refined(rgb, mask)


def _border_marks(lab: NDArray[np.float32]) -> NDArray[np.uint8]:
    """GrabCut's marks (0 back, 1 front, 2 likely back, 3 likely front), uint8 [H, W].

    The background is a quadratic surface in each channel of L*a*b*, so that a lit wall and
    a vignette fit it, fitted to the border with what stands out of it left away.
    """
    height, width = lab.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    ring = np.zeros((height, width), bool)
    depth = max(2, round(0.03 * max(height, width)))
    ring[:depth], ring[-depth:], ring[:, :depth], ring[:, -depth:] = True, True, True, True
    basis, colours = terms[ring], lab[ring]
    keep = np.ones(len(basis), bool)
    surface = np.zeros((6, 3), np.float32)
    spread = 1.0
    for _ in range(6):
        surface = np.linalg.lstsq(basis[keep], colours[keep], rcond=None)[0]
        apart = np.linalg.norm(colours - basis @ surface, axis=1)
        spread = max(1.0, float(np.median(apart)))
        keep = apart <= 2.5 * spread
    apart = np.linalg.norm(lab - terms @ surface, axis=2)
    near, far = 2.5 * spread, max(6.0, 3 * spread)
    marks = np.where(apart > far, 3, 2).astype(np.uint8)
    # What lies flat on a plain wall, the gap between two legs too, is background for sure.
    on_surface = apart <= min(near, 2.5)
    flat = _foreign("scipy.ndimage").binary_opening(on_surface, np.ones((5, 5), bool))
    marks[flat | (ring & (apart <= near))] = 0
    if not (marks == 0).any():
        marks[ring] = 0
    return marks


def _refined(rgb: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A small mask brought to the picture's size, its edge drawn to the picture's edges.

    He, Sun, Tang, "Guided Image Filtering", ECCV 2010, the picture's grey as the guide.
    """
    cv2 = _foreign("cv2")
    height, width = rgb.shape[:2]
    coarse = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    radius = max(2, round(max(height, width) / 256))
    coarse = cv2.GaussianBlur(coarse, (0, 0), radius / 2)
    guide = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255

    def mean(values: Floats) -> Floats:
        return cv2.blur(values, (2 * radius + 1, 2 * radius + 1))

    mean_guide, mean_mask = mean(guide), mean(coarse)
    slope = (mean(guide * coarse) - mean_guide * mean_mask) / (
        mean(guide * guide) - mean_guide * mean_guide + 1e-3
    )
    offset = mean_mask - slope * mean_guide
    fine = mean(slope) * guide + mean(offset)
    alpha = np.clip((fine - 0.25) * 2, 0, 1)
    return (alpha * 255 + 0.5).astype(np.uint8)
