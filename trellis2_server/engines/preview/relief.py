"""What the picture shows inside the outline, as differences in height.

Parts that inner contours separate are bulges of their own; in lightness, dark is deep. Both are
weaker where a change looks like paint.

Does not know: how deep the object is, meshes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from trellis2_server.engines.preview import kernels
from trellis2_server.engines.preview.pixels import blurred, gradient, halved, smoothed
from trellis2_server.export.cancellation import call

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.engines.preview.pixels import Pixels

_Value = TypeVar("_Value", np.float32, np.bool_)

#: How far a bulge reaches from a contour, in pixels, and how high it is.
_PARTS: Final = ((4.0, 0.30), (12.0, 0.20), (36.0, 0.16))
#: Deviation of the Gaussian under a band of lightness, in pixels, and steepest slope of its relief.
_BANDS: Final = ((1.0, 0.40), (2.0, 0.40), (4.0, 0.36), (8.0, 0.24))
#: Differences in lightness below this are noise.
_NOISE_LIGHT: Final = 0.003
#: A band has its full height at this multiple of its standard deviation, within these bounds.
_TYPICAL: Final = 1.6
_FAINTEST, _STRONGEST = 0.02, 0.12
#: Change per pixel from which there is a contour, and at which it has its full strength.
_FAINT_EDGE, _FULL_EDGE = 0.012, 0.05
#: What change in hue counts as a change in lightness, at contours.
_HUE_EDGE: Final = 0.6
#: k of the equation at a full contour, and how much the flow over it is reduced.
_PULL, _CUT = 0.25, 0.9
#: Share of the relief that paint does not have.
_PAINT: Final = 0.85
#: Change of lightness per pixel that is too sharp for shading: from here on, and entirely.
_INK_FROM, _INK_FULL = 0.07, 0.15
#: Local fit of lightness by hue: deviation of its window, in pixels of half the grid; variance of
#: the hue that is noise; share of what it explains that is left out.
_WINDOW, _NOISE_HUE, _EXPLAINED = 5.0, 2e-3, 0.5
#: Distance from the outline at which there is full relief, in pixels.
_FADE_CONTOURS, _FADE = 10.0, 8.0


def find_relief(pixels: Pixels, distance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the relief, float32 [G, G], in pixels of the grid; 0 at the outline.

    Args:
        pixels: the picture.
        distance: to the outline, 0 outside, float32 [G, G].
    """
    inside = pixels.inside
    plain = 1 - np.float32(_PAINT) * find_paint(pixels)
    near = np.clip(distance / np.float32(_FADE_CONTOURS), 0, 1)
    edges = np.clip(1.8 * blurred(find_contours(pixels), 0.7), 0, 1)
    edges = (edges * near * near * (3 - 2 * near) * plain).astype(np.float32)
    out = np.zeros_like(pixels.lightness)
    for length, gain in _PARTS:
        out += np.float32(gain) * find_bulges(edges, inside, length)
    weight = inside.astype(np.float32)
    light = finer = unpainted(pixels)
    core = distance > 2.0  # noqa: PLR2004 (what is beside the outline is mixed with the ground)
    for sigma, slope in _BANDS:
        coarser = blurred(light * weight, sigma) / np.maximum(blurred(weight, sigma), 1e-3)
        band = finer - coarser
        finer = coarser
        typical = _TYPICAL * float(band[core].std()) if core.any() else 0.0
        limit = min(max(typical, _FAINTEST), _STRONGEST)
        band -= np.clip(band, -_NOISE_LIGHT, _NOISE_LIGHT)
        out += plain * np.float32(slope * sigma) * np.tanh(band / np.float32(limit))
    return (out * np.clip(distance / np.float32(_FADE), 0, 1)).astype(np.float32)


def find_paint(pixels: Pixels) -> NDArray[np.float32]:
    """Return how much the changes around a pixel look like paint, 0 to 1, float32 [G, G].

    Shading changes lightness alone, and softly; paint changes the hue, and is sharp.
    """
    steps = (gradient(smoothed(pixels.lightness, 1.0)) ** 2).sum(0)
    colorful = [(gradient(smoothed(each, 1.0)) ** 2).sum(0) for each in pixels.hue]
    by_hue = np.float32(0.25) * blurred(colorful[0] + colorful[1], 2.0)
    by_light = np.float32(0.6) * blurred(steps, 2.0)
    sharp = (np.sqrt(blurred(steps, 1.0)) - _INK_FROM) / (_INK_FULL - _INK_FROM)
    paint = np.maximum(by_hue / (by_hue + by_light + 2e-5), 0.8 * np.clip(sharp, 0, 1))
    return paint.astype(np.float32)


def find_contours(pixels: Pixels) -> NDArray[np.float32]:
    """Return inner contours, one pixel wide: their strength, 0 to 1, float32 [G, G].

    They are where changes of lightness and hue are largest across their own direction, and two
    scales agree.
    """
    layers = [pixels.lightness, *(np.float32(_HUE_EDGE) * each for each in pixels.hue)]
    fine, coarse = (
        np.stack([gradient(smoothed(layer, sigma)) for layer in layers]) for sigma in (1.2, 2.4)
    )
    strength = np.sqrt(np.sqrt((fine**2).sum((0, 1)) * (coarse**2).sum((0, 1))))
    down, right = coarse[:, 0], coarse[:, 1]
    twice = np.arctan2(2 * (right * down).sum(0), (right**2).sum(0) - (down**2).sum(0))
    octant = np.rint(twice * np.float32(2 / np.pi)).astype(np.int8) % 4
    thin = np.zeros_like(strength)
    for k, step in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead = np.roll(strength, (-step[0], -step[1]), (0, 1))
        behind = np.roll(strength, step, (0, 1))
        peak = (octant == k) & (strength >= ahead) & (strength > behind)
        thin[peak] = strength[peak]
    return np.clip((thin - _FAINT_EDGE) / (_FULL_EDGE - _FAINT_EDGE), 0, 1).astype(np.float32)


def find_bulges(
    edges: NDArray[np.float32], inside: NDArray[np.bool_], length: float
) -> NDArray[np.float32]:
    """Return grooves along contours, with bulges between them: √u - 2·length, at most 0.

    -∇·(c∇u) + k·u = 4, where k is 1/length² plus what contours add, and c is small on them. Far
    from all contours, u = 4·length². The outline has no part in it. Solved from coarse to fine.

    Args:
        edges: strength of the contours, 0 to 1, float32 [G, G].
        inside: the mask, [G, G].
        length: how far a contour is felt, in pixels.
    """
    levels = [(edges, inside)]
    while len(levels[-1][0]) > 40 and 2 ** len(levels) < length:  # noqa: PLR2004
        levels.append((_most(levels[-1][0]), _most(levels[-1][1])))
    far = np.float32(4 * length**2)
    u = np.full(levels[-1][0].shape, far, np.float32)
    for k, (strength, mask) in reversed(list(enumerate(levels))):
        if u.shape != strength.shape:
            wide = np.repeat(np.repeat(u, 2, 0), 2, 1)
            u = np.full(strength.shape, far, np.float32)
            u[: len(wide), : len(wide)] = wide[: len(u), : len(u)]
        spacing = float(2**k)
        pull = (1 / length**2 + _PULL / spacing * strength).astype(np.float32)
        conductance = (1 - _CUT * strength).astype(np.float32)
        solve = kernels.load("parts").solve_parts
        call(solve, mask.view(np.uint8), conductance, pull, spacing, 12, u)
    # A little less than that, so that rounding is no relief.
    bulges = np.sqrt(np.maximum(u, 0)) - np.float32(1.9999 * length)
    return np.asarray(np.minimum(bulges, 0), np.float32)


def unpainted(pixels: Pixels) -> NDArray[np.float32]:
    """Return the lightness without some of what the hue around a pixel explains, float32 [G, G].

    A local linear fit, after K. He, J. Sun and X. Tang, "Guided image filtering", 2010.
    """
    weight = halved(pixels.inside.astype(np.float32))
    norm = np.maximum(blurred(weight, _WINDOW), np.float32(1e-3)).astype(np.float32)

    def mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.divide(blurred(values * weight, _WINDOW), norm, dtype=np.float32)

    light, first, second = (halved(each) for each in (pixels.lightness, *pixels.hue))
    means = mean(light), mean(first), mean(second)
    xx = mean(first * first) - means[1] ** 2 + np.float32(_NOISE_HUE)
    yy = mean(second * second) - means[2] ** 2 + np.float32(_NOISE_HUE)
    xy = mean(first * second) - means[1] * means[2]
    xl = mean(first * light) - means[1] * means[0]
    yl = mean(second * light) - means[2] * means[0]
    area = np.maximum(xx * yy - xy * xy, np.float32(_NOISE_HUE**2))
    slopes = (yy * xl - xy * yl) / area, (xx * yl - xy * xl) / area
    out = pixels.lightness.copy()
    n = 2 * len(weight)
    for slope, centre, hue in zip(slopes, means[1:], pixels.hue, strict=True):
        wide = [np.repeat(np.repeat(each, 2, 0), 2, 1) for each in (slope, centre)]
        out[:n, :n] -= np.float32(_EXPLAINED) * wide[0] * (hue[:n, :n] - wide[1])
    return out


def _most(values: NDArray[_Value]) -> NDArray[_Value]:
    """Return maxima of 2 by 2; an odd last row or column is left out."""
    n = len(values) // 2 * 2
    rows = np.maximum(values[:n:2, :n], values[1:n:2, :n])
    return np.ascontiguousarray(np.maximum(rows[:, ::2], rows[:, 1::2]))
