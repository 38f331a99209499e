"""The material of an exported model: encoded textures and factors.

Does not know: meshes, files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

GltfAlphaMode = Literal["OPAQUE", "MASK", "BLEND"]


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded image.

    Attributes:
        mime_type: `image/png`, `image/jpeg` or `image/webp`.
        content: bytes of the file.
    """

    mime_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Material:
    """A glTF material of the metallic-roughness model.

    Attributes:
        base_color: sRGB image; None: only the factor applies.
        metal_rough: linear image, roughness in G and metallic in B; None: only the factors apply.
        color: factor of the base colour, linear RGBA.
        metallic: factor, 0 … 1.
        roughness: factor, 0 … 1.
        alpha_mode: as glTF defines it.
        has_occlusion: whether R of `metal_rough` is the ambient occlusion.
        normals: tangent-space normal map; None: there is none.
    """

    base_color: Image | None = None
    metal_rough: Image | None = None
    color: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    metallic: float = 1.0
    roughness: float = 1.0
    alpha_mode: GltfAlphaMode = "OPAQUE"
    has_occlusion: bool = False
    normals: Image | None = None


#: Material of a model without textures.
NEUTRAL: Final = Material(color=(0.6, 0.6, 0.6, 1.0), metallic=0.0, roughness=0.7)
