"""Models of files, made by hand."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from trellis2_server.export.formats.model import Model
from trellis2_server.export.material import Image as EncodedImage
from trellis2_server.export.material import Material

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image


def encoded(picture: Image.Image) -> EncodedImage:
    """A picture as an image of a material."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return EncodedImage("image/png", file.getvalue())


def model(
    positions: NDArray[Any],
    faces: NDArray[Any],
    uv: NDArray[Any] | None = None,
    base_color: Image.Image | None = None,
    metal_rough: Image.Image | None = None,
    **material: Any,
) -> Model:
    """A model with flat faces; `uv` has a row for each position."""
    positions, faces = positions.astype(np.float32), faces.astype(np.int32)
    corners = positions[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    textures = [picture and encoded(picture) for picture in (base_color, metal_rough)]
    return Model(
        positions,
        faces,
        normals.astype(np.float32),
        np.repeat(np.arange(len(faces), dtype=np.int32)[:, None], 3, axis=1),
        None if uv is None else uv.astype(np.float32),
        None if uv is None else faces,
        Material(*textures, **material),
    )
