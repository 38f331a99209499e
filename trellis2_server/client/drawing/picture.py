"""Drawing a model as an array of pixels, or as a PNG thumbnail."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from trellis2_server.client.drawing.camera import axes_of, frame_of, project
from trellis2_server.client.drawing.glb import load_glb
from trellis2_server.client.drawing.rasterizer import interpolate, rasterize
from trellis2_server.client.drawing.shading import shade

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.client.drawing.camera import Frame, View
    from trellis2_server.client.drawing.model import DrawnModel
    from trellis2_server.client.drawing.shading import Shading

#: A little from above and from the side.
THUMBNAIL_VIEW: Final = (32.0, 18.0)
THUMBNAIL_SIZE_PX: Final = 512
#: Samples along an edge of a pixel.
SAMPLES: Final = 2


def draw_model(
    model: DrawnModel,
    *,
    size_px: int = THUMBNAIL_SIZE_PX,
    view: View = "front",
    shading: Shading = "lit",
    frame: Frame | None = None,
) -> NDArray[np.uint8]:
    """Draw a model; return RGBA with straight alpha (coverage), uint8 [size_px, size_px, 4].

    Args:
        model: see `load_glb`.
        size_px: edge of the picture, pixels.
        view: name in `VIEWS`, or azimuth and elevation in degrees.
        shading: `unlit` (base colour), `lit` or `clay` (lit, grey).
        frame: part of the view plane to show; None: the model with a small margin.
    """
    axes = axes_of(view)
    n = size_px * SAMPLES
    points = project(model.positions, axes, frame or frame_of(model.positions, axes), n)
    owner = rasterize(points, model.faces, n, cull=not model.double_sided)
    sample = np.flatnonzero(owner >= 0)
    color, normal = interpolate(model, points, model.faces[owner[sample]], sample, n)
    if model.double_sided:
        normal[normal @ axes[2] < 0] *= -1
    if model.alpha_mode == "MASK" and shading != "clay":
        visible = color[:, 3] >= 255 * model.alpha_cutoff
        sample, color, normal = sample[visible], color[visible], normal[visible]
    stacked = np.zeros((n * n, 4), np.float32)
    stacked[sample, :3] = shade(color[:, :3], normal, axes, shading)
    stacked[sample, 3] = 1
    pixels = stacked.reshape(size_px, SAMPLES, size_px, SAMPLES, 4).mean((1, 3))
    alpha = pixels[..., 3:]
    straight = pixels[..., :3] / np.maximum(alpha, 1e-6)
    return np.rint(np.concatenate([straight, alpha * 255], -1)).astype(np.uint8)


def draw(
    glb: bytes,
    *,
    size_px: int = THUMBNAIL_SIZE_PX,
    view: View = "front",
    shading: Shading = "lit",
) -> NDArray[np.uint8]:
    """Draw a GLB; see `draw_model`.

    Raises:
        DrawingError: the GLB cannot be drawn.
    """
    return draw_model(load_glb(glb), size_px=size_px, view=view, shading=shading)


def draw_thumbnail(glb: bytes, *, size_px: int = THUMBNAIL_SIZE_PX) -> bytes:
    """Draw a GLB from a little above and the side, on a light background; return a PNG.

    Raises:
        DrawingError: the GLB cannot be drawn.
    """
    model = load_glb(glb)
    shading = "lit" if model.is_textured else "clay"
    frame = frame_of(model.positions, axes_of(THUMBNAIL_VIEW))
    frame = (frame[0], frame[1], frame[2] * 1.12)
    picture = draw_model(model, size_px=size_px, view=THUMBNAIL_VIEW, shading=shading, frame=frame)
    alpha = picture[..., 3:] / np.float32(255)
    y, x = np.mgrid[0:size_px, 0:size_px] / size_px - 0.5
    ground = 246 - 44 * np.clip(np.hypot(x, y) / 0.7, 0, 1) ** 2
    shown = np.rint(picture[..., :3] * alpha + ground[..., None] * (1 - alpha)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(shown).save(file, "PNG")
    return file.getvalue()
