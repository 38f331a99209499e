"""The contents of a GLB, as the writers of other formats need them.

Does not know: the other formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trellis2_server.export.cancellation import CheckedStream
from trellis2_server.inputs.meshes import Glb, read_scene

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image as Picture


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """All parts of a GLB as one mesh with one material.

    Attributes:
        positions: float32 [N, 3], Y up.
        uv: float32 [N, 2], as in glTF; None: no texture.
        faces: int32 [F, 3].
        base_color: RGBA, sRGB; None: no texture.
        metal_rough: RGB, linear, roughness in G and metallic in B; None: no texture.
    """

    positions: NDArray[np.float32]
    uv: NDArray[np.float32] | None
    faces: NDArray[np.int32]
    base_color: Picture | None
    metal_rough: Picture | None

    def vertex_colors(self) -> NDArray[np.uint8] | None:
        """Return the base colour at each vertex, uint8 [N, 4], sRGB; None: no texture."""
        if self.base_color is None or self.uv is None:
            return None
        pixels = np.asarray(self.base_color)
        size = np.array([pixels.shape[1], pixels.shape[0]])
        x, y = np.clip((self.uv * size).astype(np.int64), 0, size - 1).T
        return pixels[y, x]


def read_model(glb: bytes) -> Model:
    """Read a GLB.

    Args:
        glb: uncompressed, with one material.

    Raises:
        InputError: it cannot be read.
    """
    from PIL import Image

    scene, file = read_scene(glb, is_own=True), Glb(glb)
    positions, faces = scene.merge()
    uvs = [part.uv for part in scene.parts if part.uv is not None]

    def picture(role: str, mode: str) -> Picture | None:
        texture = file.item("materials", 0)["pbrMetallicRoughness"].get(role)
        if texture is None:
            return None
        item = file.item("textures", texture["index"])
        webp = item.get("extensions", {}).get("EXT_texture_webp", item)
        content = file.view(file.item("images", webp["source"])["bufferView"])
        with Image.open(CheckedStream(content)) as image:
            return image.convert(mode)

    return Model(
        positions.astype(np.float32),
        np.concatenate(uvs) if len(uvs) == len(scene.parts) else None,
        faces,
        picture("baseColorTexture", "RGBA"),
        picture("metallicRoughnessTexture", "RGB"),
    )
