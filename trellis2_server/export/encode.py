"""Encode textures as image files, and choose the material that uses them.

Does not know: meshes, glTF files.
"""

from __future__ import annotations

import contextvars
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from trellis2_server.errors import ExportError, MissingPackageError
from trellis2_server.export.cancellation import CheckedStream, call
from trellis2_server.export.kernels import encode as kernels
from trellis2_server.export.material import Image, Material

if TYPE_CHECKING:
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from trellis2_server.export.bake import Maps
    from trellis2_server.export.material import GltfAlphaMode
    from trellis2_server.request_fields import AlphaMode, TextureFormat

#: Always with 4:4:4 chroma: subsampling bleeds colours and mixes the metallic-roughness channels.
_JPEG_QUALITY: Final = 92
_WEBP_QUALITY: Final = 94
#: Of normal maps, in whose smooth parts the eye sees errors as ripples.
_NORMAL_QUALITY: Final = 97

Format = Literal["png", "jpeg", "webp"]


def encode(pixels: NDArray[np.uint8], file_format: Format, quality: int | None = None) -> Image:
    """Encode pixels as an image file.

    Args:
        pixels: uint8 [H, W, 3 or 4], row 0 at the top. JPEG has no fourth channel: it is ignored.
        file_format: PNG is lossless, JPEG and WebP are not.
        quality: of JPEG and WebP; None: that of colours.

    Raises:
        ExportError: the encoder failed.
        MissingPackageError: Pillow is not installed.
    """
    try:
        from PIL import Image as pillow  # noqa: N813
    except ImportError as error:
        raise MissingPackageError("Textures need Pillow: run `pip install pillow`.") from error
    options = {
        "jpeg": {"quality": quality or _JPEG_QUALITY, "subsampling": "4:4:4"},
        "png": {"compress_level": 1},
        "webp": {
            "quality": quality or _WEBP_QUALITY,
            "method": 0,
            "exact": True,
            "alpha_quality": 100,
        },
    }[file_format]
    stream, pixels = CheckedStream(), np.ascontiguousarray(pixels)
    if file_format == "jpeg" and pixels.shape[2] == 4:  # noqa: PLR2004
        # In Pillow's own layout, which is not copied: that would take longer than the encoder.
        image = pillow.frombuffer("RGBX", pixels.shape[1::-1], pixels, "raw", "RGBX", 0, 1)
    else:
        image = pillow.fromarray(pixels)
    try:
        image.save(stream, file_format, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ExportError(f"A texture could not be encoded as {file_format}.") from error
    return Image(f"image/{file_format}", stream.getvalue())


def encode_maps(
    maps: Maps,
    alpha_mode: AlphaMode,
    texture_format: TextureFormat,
) -> Material:
    """Return a material with the baked maps: images, or factors for constant channels.

    Occlusion shares its image with metallic and roughness, which then are never factors.

    Args:
        maps: baked textures.
        alpha_mode: "auto" is chosen by the alpha of the covered texels.
        texture_format: "auto" and "jpeg" become PNG for a base colour with alpha, which JPEG has
            not, and which every program reads; "auto" is JPEG for all others.

    Raises:
        ExportError: an encoder failed.
        MissingPackageError: Pillow is not installed.
    """
    counts = np.zeros((3, 256), np.int64)
    call(kernels.count_values, maps.base_color, maps.metal_rough, maps.covered, counts)
    if alpha_mode == "auto":
        alpha_mode = _choose_alpha_mode(counts[0])
    base_format: Format = "jpeg" if texture_format == "auto" else texture_format
    base_color = maps.base_color
    if alpha_mode == "OPAQUE":
        base_color = base_color if base_format == "jpeg" else base_color[..., :3]
    elif base_format == "jpeg":
        base_format = "png"
    roughness, metallic = _constant(counts[1]), _constant(counts[2])
    linear_format: Format = "jpeg" if texture_format == "auto" else texture_format
    with ThreadPoolExecutor(3, thread_name_prefix="encode") as pool:

        def start(*arguments: Any) -> Future[Image]:
            return pool.submit(contextvars.copy_context().run, encode, *arguments)

        color = start(base_color, base_format)
        normals = maps.normals
        bumps = None if normals is None else start(normals, linear_format, _NORMAL_QUALITY)
        if roughness is not None and metallic is not None and not maps.has_occlusion:
            material = Material(metallic=metallic, roughness=roughness)
        else:
            linear = start(maps.metal_rough, linear_format)
            material = Material(metal_rough=linear.result(), has_occlusion=maps.has_occlusion)
        return replace(
            material,
            base_color=color.result(),
            alpha_mode=alpha_mode,
            normals=bumps.result() if bumps else None,
        )


def _choose_alpha_mode(count: NDArray[np.int64]) -> GltfAlphaMode:
    """Choose the alpha mode for a histogram of alpha, int64 [256]."""
    total = int(count.sum())
    clear, between = int(count[:26].sum()), int(count[26:230].sum())
    # A few texels below 230 are rounding errors or the edge of a voxel, not transparency.
    if clear + between <= 0.002 * total:
        return "OPAQUE"
    return "MASK" if between <= 0.15 * (clear + between) else "BLEND"


def _constant(count: NDArray[np.int64]) -> float | None:
    """Return the common value of all texels, 0 … 1, with a tolerance of 2 / 255; None: they vary.

    Args:
        count: histogram of the values, int64 [256].
    """
    present = np.flatnonzero(count)
    if present.size == 0:
        return None
    if int(present[-1] - present[0]) > 2:  # noqa: PLR2004
        return None
    return round(float((present * count[present]).sum() / count.sum()) / 255.0, 4)
