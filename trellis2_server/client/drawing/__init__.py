"""Pictures of a GLB, drawn without a GPU.

The projection is orthographic. Back faces are culled unless the material is double-sided. Each
pixel is the mean of 2 x 2 samples. Three lights are fixed to the camera.

Not supported: transparency other than a mask, several materials, compressed geometry,
reflections.
"""

from importlib import import_module

from trellis2_server.client.errors import DrawingError

try:
    for package in ("numpy", "PIL"):
        import_module(package)
except ImportError as error:
    raise DrawingError(
        "drawing a model requires NumPy and Pillow: pip install numpy pillow"
    ) from error

from trellis2_server.client.drawing.camera import MARGIN, VIEWS, Frame, View, axes_of
from trellis2_server.client.drawing.glb import load_glb
from trellis2_server.client.drawing.model import DrawnModel
from trellis2_server.client.drawing.picture import draw, draw_model, draw_thumbnail
from trellis2_server.client.drawing.shading import Shading

__all__ = [
    "MARGIN",
    "VIEWS",
    "DrawnModel",
    "Frame",
    "Shading",
    "View",
    "axes_of",
    "draw",
    "draw_model",
    "draw_thumbnail",
    "load_glb",
]
