"""The heights of the front and the back over the picture's plane."""
from __future__ import annotations
import numpy as np
from trellis2_server.engines.preview import kernels
from trellis2_server.engines.preview.depth import find_balls, find_base
from trellis2_server.engines.preview.pixels import read_pixels
from trellis2_server.engines.preview.relief import find_relief
from trellis2_server.export.cancellation import call

def make(picture, mask, depth=None):
    px = read_pixels(picture, mask)
    balls = find_balls(px.alpha)
    base, sq, decision, outline, shading, turned = find_base(px, balls, depth)
    r, ink, edges = find_relief(px, balls, 1.0)
    r *= 0.3 + 0.7 * decision.depth
    front = np.maximum(base + r, 0.3 * base)
    make.info = decision, outline, shading, turned
    return px, balls, base, r, ink, edges, front, sq
