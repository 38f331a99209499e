"""What the picture shows inside the outline, as differences in height.

Does not know: how deep the object is, meshes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.engines.preview import kernels
from trellis2_server.engines.preview.pixels import blurred, gradient
from trellis2_server.export.cancellation import call

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.engines.preview.depth import Balls
    from trellis2_server.engines.preview.pixels import Pixels

PARTS = ((4.0, 0.30), (12.0, 0.20), (36.0, 0.16))
BANDS = ((1.0, 0.2), (2.0, 0.2), (4.0, 0.18), (8.0, 0.12))
EDGE0, EDGE1 = 0.012, 0.05
PULL = 0.25


def paint(pixels: Pixels) -> NDArray[np.float32]:
    """Return how much the change around a pixel looks like paint, 0 to 1, float32 [G, G]."""
    hue = np.stack([blurred(h, 1.0) for h in pixels.hue])
    light = blurred(pixels.lightness, 1.0)
    chroma = sum((gradient(h) ** 2).sum(0) for h in hue) * 0.3
    steps = (gradient(light) ** 2).sum(0)
    c, s = blurred(chroma, 2.0), blurred(steps, 2.0)
    by_hue = c / (c + 0.6 * s + 2e-5)
    # no shading is as sharp and as strong as ink
    strong = np.clip((np.sqrt(blurred(steps, 1.0)) - 0.07) / 0.08, 0, 1)
    return np.maximum(by_hue, 0.8 * strong).astype(np.float32)


def contours(pixels: Pixels) -> NDArray[np.float32]:
    """Return the strength of inner contours, 0 to 1, thin, float32 [G, G]."""
    scales = []
    for sigma in (1.2, 2.4):
        light = gradient(blurred(pixels.lightness, sigma))
        hue = [gradient(blurred(h, sigma)) * 0.6 for h in pixels.hue]
        scales.append(np.stack([light, *hue]))
    fine, coarse = (np.sqrt((s**2).sum((0, 1))) for s in scales)
    both = np.sqrt(fine * coarse)
    # Thinned: the strongest across its own direction.
    g = scales[1]
    xx, yy, xy = (g[:, 1] ** 2).sum(0), (g[:, 0] ** 2).sum(0), (g[:, 0] * g[:, 1]).sum(0)
    angle = 0.5 * np.arctan2(2 * xy, xx - yy)
    octant = np.rint(angle / (np.pi / 4)).astype(int) % 4
    out = np.zeros_like(both)
    for k, (di, dj) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead = np.roll(both, (-di, -dj), (0, 1))
        behind = np.roll(both, (di, dj), (0, 1))
        peak = (octant == k) & (both >= ahead) & (both > behind)
        out[peak] = both[peak]
    return np.clip((out - EDGE0) / (EDGE1 - EDGE0), 0, 1).astype(np.float32)


def bulges(edges, inside, length):
    """sqrt(u) - 2 length <= 0."""
    levels = [(edges, inside, 1.0)]
    while len(levels[-1][0]) > 40 and levels[-1][2] < length / 2:
        e, m, s = levels[-1]
        n = len(e) // 2 * 2
        e = e[:n, :n].reshape(n // 2, 2, n // 2, 2)
        m = m[:n, :n].reshape(n // 2, 2, n // 2, 2)
        levels.append((np.ascontiguousarray(e.max((1, 3))), np.ascontiguousarray(m.max((1, 3))), 2 * s))
    u = None
    for e, m, s in reversed(levels):
        if u is None:
            u = np.full(e.shape, 4 * length**2, np.float32)
        else:
            up = np.repeat(np.repeat(u, 2, 0), 2, 1)
            u = np.full(e.shape, 4 * length**2, np.float32)
            u[: up.shape[0], : up.shape[1]] = up[: u.shape[0], : u.shape[1]]
        cut = 1 - 0.9 * e
        pull = (1 / length**2 + PULL * e / s).astype(np.float32)
        call(kernels.load("parts").solve_parts, m.view(np.uint8), cut.astype(np.float32), pull, s, 12, u)
    return np.sqrt(np.maximum(u, 0)) - np.float32(2 * length)


def find_relief(pixels: Pixels, balls: Balls, strength: float):
    inside = pixels.inside
    ink = paint(pixels)
    room = np.clip(balls.distance / 10.0, 0, 1)
    fade = room * room * (3 - 2 * room)
    edges = np.clip(1.8 * blurred(contours(pixels), 0.7), 0, 1) * fade * (1 - 0.85 * ink)
    out = np.zeros_like(pixels.lightness)
    for length, gain in PARTS:
        out += gain * bulges(edges.astype(np.float32), inside, length)
    weight = inside.astype(np.float32)
    soft = 1 - 0.85 * ink
    previous = pixels.lightness
    for sigma, slope in BANDS:
        norm = np.maximum(blurred(weight, sigma), 1e-3)
        smooth = blurred(pixels.lightness * weight, sigma) / norm
        band = previous - smooth
        previous = smooth
        cored = np.sign(band) * np.maximum(abs(band) - 0.003, 0)
        typical = 1.6 * float(band[balls.distance > 2].std()) if (balls.distance > 2).any() else 1.0
        out += soft * slope * sigma * 2 * np.tanh(cored / min(max(typical, 0.02), 0.12))
    reach = np.clip(balls.distance / 8.0, 0, 1)
    return (out * reach * strength).astype(np.float32), ink, edges
