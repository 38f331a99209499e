"""Model that is drawn: triangles and one material."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image as pillow  # noqa: N813

from trellis2_server.drawing.color import decode_srgb, encode_srgb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from PIL.Image import Image

#: Columns of a texture.
RGB, ALPHA, METALLIC, ROUGHNESS, OCCLUSION = slice(0, 3), 3, 4, 5, 6
#: Only if there is a normal map.
NORMAL = slice(7, 10)


@dataclass(frozen=True, slots=True, eq=False)
class DrawnModel:
    """Triangles and a material, in glTF's frame (Y up, front toward +Z).

    Positions, normals and texture coordinates have faces of their own: a corner of a face has one
    row of each.

    Attributes:
        positions: vertices, float32 [N, 3].
        faces: rows of `positions`, counter-clockwise from outside, int32 [F, 3].
        normals: unit normals, float32 [K, 3]; smooth ones if the file has none.
        normal_faces: rows of `normals`, int32 [F, 3].
        uvs: texture coordinates, float32 [M, 2]; zeros if the file has none.
        uv_faces: rows of `uvs`, int32 [F, 3].
        texture: base colour (sRGB), alpha, metallic, roughness and occlusion, each times its
            factor, and a tangent-space normal map as glTF has it, if there is one: uint8
            [H, W, 7 or 10]; one pixel without a texture.
        is_textured: whether the base colour has a texture.
        alpha_mode: OPAQUE, MASK or BLEND.
        alpha_cutoff: smallest visible alpha if the mode is MASK, 0 to 1.
        double_sided: whether back faces are drawn.
    """

    positions: NDArray[np.float32]
    faces: NDArray[np.int32]
    normals: NDArray[np.float32]
    normal_faces: NDArray[np.int32]
    uvs: NDArray[np.float32]
    uv_faces: NDArray[np.int32]
    texture: NDArray[np.uint8]
    is_textured: bool
    alpha_mode: str
    alpha_cutoff: float
    double_sided: bool


def make_texture(  # noqa: PLR0913, PLR0917 - what a material has
    base_color: Image | None,
    metal_rough: Image | None,
    base_color_factor: Sequence[float],
    metallic_factor: float,
    roughness_factor: float,
    occlusion: Image | None = None,
    occlusion_strength: float = 1.0,
    normals: Image | None = None,
    normal_scale: float = 1.0,
) -> NDArray[np.uint8]:
    """Return the texture of a model, see `DrawnModel`, from glTF's images and factors.

    Args:
        base_color: RGBA, sRGB; None: white.
        metal_rough: roughness in G, metallic in B; enlarged or reduced to the size of the base
            colour if there is one. None: 1.
        base_color_factor: RGBA in linear light.
        metallic_factor: 0 to 1.
        roughness_factor: 0 to 1.
        occlusion: share of the surroundings' light in R, of any size. None: all of it.
        occlusion_strength: 0 for all of the light to 1.
        normals: normal map, of any size. None: there is none.
        normal_scale: of its first two channels.
    """
    images = (base_color, metal_rough, occlusion, normals)
    size = next((image.size for image in images if image is not None), (1, 1))
    texture = np.empty((size[1], size[0], 7 if normals is None else 10), np.uint8)
    pixels = _pixels(base_color, "RGBA", size)
    values = np.arange(256) / 255
    # A table of 256 values for each channel, whatever the size of the texture.
    for channel, factor in enumerate(base_color_factor):
        scaled = values * factor if channel == ALPHA else encode_srgb(decode_srgb(values) * factor)
        table = np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8)
        texture[..., channel] = table[pixels[..., channel]]
    pixels = _pixels(metal_rough, "RGB", size)
    for channel, source, factor in (
        (METALLIC, 2, metallic_factor),
        (ROUGHNESS, 1, roughness_factor),
    ):
        table = np.rint(255 * np.clip(values * factor, 0, 1)).astype(np.uint8)
        texture[..., channel] = table[pixels[..., source]]
    if occlusion is not metal_rough:
        pixels = _pixels(occlusion, "RGB", size)
    table = np.rint(255 * (1 + np.clip(occlusion_strength, 0, 1) * (values - 1))).astype(np.uint8)
    texture[..., OCCLUSION] = table[pixels[..., 0]]
    if normals is not None:
        texture[..., NORMAL] = _pixels(normals, "RGB", size)
        if normal_scale != 1:
            table = np.rint(127.5 + np.clip(normal_scale * 255 * (values - 0.5), -127.5, 127.5))
            tilts = texture[..., NORMAL.start : NORMAL.start + 2]
            tilts[:] = table.astype(np.uint8)[tilts]
    return texture


def decode_image(content: bytes, mode: str, largest_px: int | None = None) -> Image:
    """Return the pixels of a picture file.

    Args:
        content: the file.
        mode: Pillow's mode.
        largest_px: longest edge; a larger picture is reduced by a whole factor. None: any.

    Raises:
        OSError: it cannot be read.
    """
    with pillow.open(io.BytesIO(content)) as opened:
        if largest_px is None or max(opened.size) <= largest_px:
            return opened.convert(mode)
        # A JPEG is decoded smaller, which is much faster, but not below the size.
        opened.draft(None, (largest_px, largest_px))
        return opened.convert(mode).reduce(-(-max(opened.size) // largest_px))


def _pixels(image: Image | None, mode: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    if image is None:
        return np.broadcast_to(np.uint8(255), (size[1], size[0], len(mode)))
    image = image.convert(mode)
    return np.asarray(image if image.size == size else image.resize(size))


@dataclass(frozen=True, slots=True, eq=False)
class Pyramid:
    """A texture in smaller and smaller sizes, so that each sample needs four texels only.

    Attributes:
        texels: those of all levels, row by row, one after the other, uint8 [T, C].
        levels: first texel, width and height of each, int64 [L, 3]; the finest is the first.
    """

    texels: NDArray[np.uint8]
    levels: NDArray[np.int64]


#: Edge of the coarsest level, at least.
_COARSEST_PX: Final = 32


def make_pyramid(texture: NDArray[Any]) -> Pyramid:
    """Return the pyramid of a texture, uint8 [H, W, C]; each texel is the mean of 2 x 2."""
    levels = [texture]
    while min(levels[-1].shape[:2]) >= 2 * _COARSEST_PX:
        fine = levels[-1]
        height, width = (edge // 2 * 2 for edge in fine.shape[:2])
        rows = fine[0:height:2].astype(np.uint16) + fine[1:height:2]
        total = rows[:, 0:width:2] + rows[:, 1:width:2]
        levels.append(((total + 2) // 4).astype(np.uint8))
    sizes = np.array([[0, level.shape[1], level.shape[0]] for level in levels])
    sizes[1:, 0] = np.cumsum(sizes[:-1, 1] * sizes[:-1, 2])
    texels = np.concatenate([level.reshape(-1, texture.shape[2]) for level in levels])
    return Pyramid(np.ascontiguousarray(texels), sizes.astype(np.int64))
