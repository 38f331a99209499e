"""What lightness and colours say about a surface: whether they show that it is curved.

Does not know: what is decided by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.engines.preview.pixels import blurred, gradient, halved, smoothed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.engines.preview.pixels import Pixels

#: Pixels of half the grid beside the outline that are left out.
_RIM_PX: Final = 3.0
#: Change of lightness and hue per pixel above which it is an edge, not shading.
_EDGE: Final = 0.04
#: Rows of a solid of revolution: up to this share of half their width, of the widest one's.
_FRONT, _NARROW = 0.9, 0.15
#: Share of a neighbourhood that has to be free of edges.
_LEAST_SMOOTH: Final = 0.15
#: Standard deviation of lightness that says nothing: tone curves, compression.
_NOISE: Final = 0.008
#: Fewest pixels of half the grid that say anything.
_FEWEST: Final = 50


@dataclass(frozen=True, slots=True)
class Shading:
    """How lightness fits a surface.

    Attributes:
        contrast: standard deviation of lightness and hue.
        amount: standard deviation of the lightness that the surface's normals explain.
        share: share of the slow changes of lightness that they explain and an even gradient, which
            is on flat things, too, does not; 0 to 1.
    """

    contrast: float
    amount: float
    share: float

    @property
    def evidence(self) -> float:
        """The amount, less where it explains little."""
        return self.amount * self.share**0.5


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """Slow changes of lightness, on half the grid: those that are not beside an edge, smoothed.

    Attributes:
        contrast: standard deviation of lightness and hue.
        light: lightness, float32 [G / 2, G / 2].
        inside: the object without its rim, bool [G / 2, G / 2].
        slow: per pixel downward and to the right, float32 [2, G / 2, G / 2].
        weight: share of what they were smoothed over that is no edge, float32 [G / 2, G / 2].
        sigma: of the smoothing, in pixels of half the grid.
    """

    contrast: float
    light: NDArray[np.float32]
    inside: NDArray[np.bool_]
    slow: NDArray[np.float32]
    weight: NDArray[np.float32]
    sigma: float


def find_changes(pixels: Pixels, distance: NDArray[np.float32]) -> Changes:
    """Find the slow changes of a picture's lightness; paint in one colour has none.

    Args:
        pixels: the picture.
        distance: to the outline, float32 [G, G], in pixels.
    """
    light, hue = halved(pixels.lightness), [halved(each) for each in pixels.hue]
    inside = halved(distance) > _RIM_PX
    if inside.sum() < _FEWEST:
        return Changes(0.0, light, inside, np.zeros((2, *light.shape), np.float32), 0 * light, 1.0)
    spread = [float(light[inside].std()), *(0.7 * float(each[inside].std()) for each in hue)]
    changes = gradient(smoothed(light, 0.7))
    colorful = sum((gradient(smoothed(each, 0.7)) ** 2).sum(0) for each in hue)
    is_edge = (changes**2).sum(0) + colorful > _EDGE**2
    smooth = (inside & (blurred(is_edge.astype(np.float32), 1.5) < 0.02)).astype(np.float32)  # noqa: PLR2004
    sigma = max(float(np.sqrt(inside.sum())) / 40.0, 2.0)
    weight = blurred(smooth, sigma)
    slow = [blurred(each * smooth, sigma) / np.maximum(weight, 1e-3) for each in changes]
    contrast = float(np.hypot(spread[0], np.hypot(spread[1], spread[2])))
    return Changes(contrast, light, inside, np.stack(slow, dtype=np.float32), weight, sigma)


def measure_shading(changes: Changes, height: NDArray[np.float32]) -> Shading:
    """Fit lightness by distant lights: lightness is linear in the normal.

    Changes of lightness are compared with changes of the normals, smoothed alike.

    Args:
        changes: of the picture.
        height: of the surface, float32 [G, G], in pixels.
    """
    down, right = gradient(np.float32(0.5) * halved(height))
    normals = np.stack([-right, -down, np.ones_like(down)])
    normals /= np.sqrt((normals**2).sum(0))
    used = np.flatnonzero(changes.inside & (changes.weight > _LEAST_SMOOTH))[::2]
    if len(used) < _FEWEST:
        return Shading(changes.contrast, 0.0, 0.0)
    turns = [gradient(smoothed(each, changes.sigma / 2)) for each in normals]
    turns = np.stack([each.reshape(2, -1)[:, used].ravel() for each in turns], 1)
    even = np.repeat(np.eye(2), len(used), axis=0)
    seen = changes.slow.reshape(2, -1)[:, used].ravel()
    weights = np.tile(changes.weight.ravel()[used], 2)
    found, left = _fit(np.concatenate([turns, even], 1), seen, weights)
    _, left_even = _fit(even, seen, weights)
    amount = float(np.tensordot(found[:3], normals, 1)[changes.inside].std())
    return Shading(changes.contrast, amount, max(1 - left / max(left_even, 1e-12), 0.0))


def measure_turning(changes: Changes, axis: int, width: NDArray[np.float32]) -> float:
    """Return how much a core is shaded as a solid of revolution is, 0 to 1.

    On such a solid, lightness falls from the axis to both sides as the cosine of the turn does, in
    each row over its own width, whatever colour the row has. A gradient of the light does not, and
    is left out. What is painted on may do so as a whole or between its edges, but not both: the
    result is the geometric mean of the shares that the fall explains, of lightness within the rows
    and of its slow changes.

    Args:
        changes: of the picture.
        axis: column between two pixels.
        width: half the width of the core in each row, in pixels, float32 [G].
    """
    half = np.maximum(0.25 * (width[: len(width) // 2 * 2 : 2] + width[1::2]), 0.5)[:, None]
    widest = float(half.max())
    across = np.broadcast_to(
        np.arange(changes.inside.shape[1]) + 0.5 - 0.5 * axis, changes.inside.shape
    )
    turn = across / half
    used = changes.inside & (abs(turn) < _FRONT) & (half > _NARROW * widest)
    is_smooth = used & (changes.weight > _LEAST_SMOOTH)
    if is_smooth.sum() < _FEWEST:
        return 0.0
    row = np.nonzero(used)[0]
    count = np.maximum(np.bincount(row), 1)

    def within_row(values: NDArray[Any]) -> NDArray[np.float64]:
        return values - (np.bincount(row, values) / count)[row]

    cosine = np.sqrt(np.maximum(1 - turn**2, 1e-6))
    gradients = [within_row(across[used] / widest), within_row(turn[used])]
    lightness = within_row(changes.light[used])
    share = _gain(gradients, within_row(cosine[used]), lightness, np.ones(len(row)), _NOISE)
    across, half = across[is_smooth], np.broadcast_to(half, used.shape)[is_smooth]
    fall = -across / (half**2 * cosine[is_smooth])
    slow = changes.slow[1][is_smooth]
    share_slow = _gain([np.ones(len(fall)), 1 / half], fall, slow, changes.weight[is_smooth])
    return (share * share_slow) ** 0.5


def _gain(
    known: list[NDArray[Any]],
    more: NDArray[Any],
    seen: NDArray[Any],
    weights: NDArray[Any],
    least: float = 0.0,
) -> float:
    """Return the share of what known columns leave that another one explains, by adding to it.

    Of what they leave, a standard deviation of `least` is taken for noise.
    """
    found, left = _fit(np.stack([*known, more], 1), seen, weights)
    _, left_before = _fit(np.stack(known, 1), seen, weights)
    noise = float(weights.sum()) * least**2 + 1e-12
    return max(1 - (left + noise) / (left_before + noise), 0.0) if found[-1] > 0 else 0.0


def _fit(
    columns: NDArray[Any], seen: NDArray[Any], weights: NDArray[Any]
) -> tuple[NDArray[np.float64], float]:
    """Return the factors of columns [N, C] whose sum is nearest to values [N], and what is left."""
    columns, seen, weights = (each.astype(np.float64) for each in (columns, seen, weights))
    weighted = columns.T * weights
    found = np.linalg.solve(weighted @ columns + 1e-9 * np.eye(columns.shape[1]), weighted @ seen)
    return found, float((weights * (seen - columns @ found) ** 2).sum())
