"""Pictures of a model, drawn without a GPU: for the server's and the client's thumbnails.

The projection is orthographic. Back faces are culled unless the material is double-sided. The
lights are fixed to the camera. Surfaces that a material makes transparent show what is behind them.

    picture     a model as pixels or as a PNG, a turntable as a WebP
    glb         reading a model
    rasterizer, interpolation   the loops, in NumPy; a caller may pass faster ones, see `Loops`

NumPy and Pillow are all that this package needs: the client uses it where the server is not
installed.

Not supported: several materials, compressed geometry, shadows.

Does not know: the server, the client.
"""

from trellis2_server.drawing.camera import MARGIN, VIEWS, Frame, View, axes_of
from trellis2_server.drawing.errors import DrawingError
from trellis2_server.drawing.glb import load_glb
from trellis2_server.drawing.loops import NUMPY_LOOPS, Loops
from trellis2_server.drawing.model import DrawnModel, make_texture
from trellis2_server.drawing.picture import (
    FRAMES,
    TEXTURE_PX,
    draw,
    draw_model,
    draw_thumbnail,
    draw_turntable,
)
from trellis2_server.drawing.shading import Shading

__all__ = [
    "FRAMES",
    "MARGIN",
    "NUMPY_LOOPS",
    "TEXTURE_PX",
    "VIEWS",
    "DrawingError",
    "DrawnModel",
    "Frame",
    "Loops",
    "Shading",
    "View",
    "axes_of",
    "draw",
    "draw_model",
    "draw_thumbnail",
    "draw_turntable",
    "load_glb",
    "make_texture",
]
