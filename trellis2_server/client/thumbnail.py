"""Thumbnails of models, which the client draws itself.

They are drawn by `trellis2_server.drawing`, as the server's are: like `request_fields`, it needs
nothing of the server. It needs NumPy and Pillow.
"""

from __future__ import annotations

import io
from importlib import import_module

from trellis2_server.client.errors import DrawingError


def draw_thumbnail(glb: bytes, *, size_px: int = 512) -> bytes:
    """Draw a GLB from a little above and the side, on a light background; return a PNG.

    Raises:
        DrawingError: the GLB cannot be drawn, or a package is missing.
    """
    try:
        for package in ("numpy", "PIL"):
            import_module(package)
    except ImportError as error:
        raise DrawingError(
            "drawing a model requires NumPy and Pillow: pip install numpy pillow"
        ) from error

    from trellis2_server import drawing

    try:
        model = drawing.load_glb(glb, texture_px=drawing.TEXTURE_PX)
    except drawing.DrawingError as error:
        raise DrawingError(str(error)) from error
    return _on_light_ground(drawing.draw_thumbnail(model, size_px=size_px))


def _on_light_ground(content: bytes) -> bytes:
    """Return a PNG without transparency, on a ground that is darker at its corners."""
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(content)) as opened:
        picture = np.asarray(opened)
    size_px = len(picture)
    alpha = picture[..., 3:] / np.float32(255)
    y, x = np.mgrid[0:size_px, 0:size_px] / size_px - 0.5
    ground = 246 - 44 * np.clip(np.hypot(x, y) / 0.7, 0, 1) ** 2
    shown = np.rint(picture[..., :3] * alpha + ground[..., None] * (1 - alpha)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(shown).save(file, "PNG")
    return file.getvalue()
