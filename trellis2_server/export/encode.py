"""Textures as the bytes of an image file.

What this module does not know: meshes, glTF.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from trellis2_server.errors import ExportError, MissingPackageError
from trellis2_server.export.glb import Material
from trellis2_server.export.kernels import encode as kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.export.bake import Maps
    from trellis2_server.export.glb import AlphaMode

#: JPEG quality, always with 4:4:4 chroma: anything less bleeds colour and mixes channels.
_JPEG_QUALITY: Final = 92
_WEBP_QUALITY: Final = 94

Format = Literal["png", "jpeg", "webp"]


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded image.

    Attributes:
        mime_type: `image/png`, `image/jpeg` or `image/webp`.
        content: the file's bytes.
    """

    mime_type: str
    content: bytes


def encode(pixels: NDArray[np.uint8], file_format: Format) -> Image:
    """The pixels as an image file.

    Args:
        pixels: uint8 [H, W, 3 or 4], row 0 at the top; JPEG takes 3 channels only.
        file_format: JPEG and WebP lose a little, PNG nothing.

    Raises:
        ExportError: the encoder failed.
        MissingPackageError: Pillow is not installed.
    """
    try:
        from PIL import Image as pillow  # noqa: N813
    except ImportError as error:
        raise MissingPackageError("Textures need Pillow: run `pip install pillow`.") from error
    options = {
        "jpeg": {"quality": _JPEG_QUALITY, "subsampling": "4:4:4"},
        "png": {"compress_level": 1},
        "webp": {"quality": _WEBP_QUALITY, "method": 0, "exact": True, "alpha_quality": 100},
    }[file_format]
    stream = io.BytesIO()
    try:
        pillow.fromarray(np.ascontiguousarray(pixels)).save(stream, file_format, **options)  # pyright: ignore[reportArgumentType]
    except (OSError, ValueError, KeyError) as error:
        raise ExportError(f"A texture could not be encoded as {file_format}.") from error
    return Image(f"image/{file_format}", stream.getvalue())


def encode_maps(
    maps: Maps,
    alpha_mode: Literal["auto", "OPAQUE", "MASK", "BLEND"],
    texture_format: Literal["auto", "png", "jpeg", "webp"],
) -> Material:
    """The painted maps as a material: pictures, or factors where nothing varies.

    Args:
        maps: as painted.
        alpha_mode: "auto" looks at the alpha of the covered texels.
        texture_format: "auto" is JPEG, and WebP for a base colour with alpha; a base colour
            with alpha is never JPEG, but PNG where JPEG was asked for.

    Raises:
        ExportError: an encoder failed.
        MissingPackageError: Pillow is not installed.
    """
    counts = np.zeros((3, 256), np.int64)
    kernels.count_values(maps.base_color, maps.metal_rough, maps.covered, counts)
    if alpha_mode == "auto":
        alpha_mode = _judge_alpha(counts[0])
    base_format: Format = "jpeg" if texture_format == "auto" else texture_format
    base_color = maps.base_color
    if alpha_mode == "OPAQUE":
        base_color = base_color[..., :3]
    elif texture_format == "auto":
        base_format = "webp"
    elif texture_format == "jpeg":
        base_format = "png"
    roughness, metallic = _constant(counts[1]), _constant(counts[2])
    with ThreadPoolExecutor(2, thread_name_prefix="encode") as pool:
        color = pool.submit(encode, base_color, base_format)
        if roughness is not None and metallic is not None:
            return Material(
                color.result(), metallic=metallic, roughness=roughness, alpha_mode=alpha_mode
            )
        linear = pool.submit(
            encode, maps.metal_rough, "jpeg" if texture_format == "auto" else texture_format
        )
        return Material(color.result(), linear.result(), alpha_mode=alpha_mode)


def _judge_alpha(count: NDArray[np.int64]) -> AlphaMode:
    """What a histogram of alpha asks for."""
    total = int(count.sum())
    clear, between = int(count[:26].sum()), int(count[26:230].sum())
    # A few texels below one are rounding or a voxel's edge, not glass.
    if clear + between <= 0.002 * total:
        return "OPAQUE"
    return "MASK" if between <= 0.15 * (clear + between) else "BLEND"


def _constant(count: NDArray[np.int64]) -> float | None:
    """The one value in [0, 1] that all texels have, to two steps of 255; or none."""
    present = np.flatnonzero(count)
    if present.size == 0:
        return None
    if int(present[-1] - present[0]) > 2:  # noqa: PLR2004
        return None
    return round(float((present * count[present]).sum() / count.sum()) / 255.0, 4)
