"""What lightness and colours say about a surface: whether they show that it is curved.

Does not know: what is decided by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.engines.preview.pixels import blurred, gradient, halved, smoothed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.engines.preview.pixels import Pixels

#: Pixels of half the grid beside the outline that are left out.
_RIM_PX: Final = 3.0
#: Change of lightness and hue per pixel above which it is an edge, not shading.
_EDGE: Final = 0.04
#: Fewest pixels of half the grid that say anything.
_FEWEST: Final = 50


@dataclass(frozen=True, slots=True)
class Shading:
    """How lightness fits a surface.

    Attributes:
        contrast: standard deviation of lightness and hue.
        amount: standard deviation of the lightness that the surface's normals explain.
        share: share of the slow changes of lightness that they explain, 0 to 1.
    """

    contrast: float
    amount: float
    share: float

    @property
    def evidence(self) -> float:
        """The amount, less where it explains little."""
        return self.amount * self.share**0.5


def measure_shading(
    pixels: Pixels, height: NDArray[np.float32], distance: NDArray[np.float32]
) -> Shading:
    """Fit lightness by distant lights: lightness is linear in the normal.

    Changes of lightness are compared with changes of the normals, both smoothed, where no edge is
    near: so paint does not count as long as it is in one colour.

    Args:
        pixels: the picture.
        height: of the surface, float32 [G, G], in pixels.
        distance: to the outline, float32 [G, G], in pixels.
    """
    light, height = halved(pixels.lightness), np.float32(0.5) * halved(height)
    hue = [halved(each) for each in pixels.hue]
    inside = halved(distance) > _RIM_PX
    if inside.sum() < _FEWEST:
        return Shading(0.0, 0.0, 0.0)
    spread = [float(light[inside].std()), *(0.7 * float(each[inside].std()) for each in hue)]
    contrast = float(np.hypot(spread[0], np.hypot(spread[1], spread[2])))
    changes = gradient(smoothed(light, 0.7))
    colorful = sum((gradient(smoothed(each, 0.7)) ** 2).sum(0) for each in hue)
    is_edge = (changes**2).sum(0) + colorful > _EDGE**2
    smooth = (inside & (blurred(is_edge.astype(np.float32), 1.5) < 0.02)).astype(np.float32)  # noqa: PLR2004
    sigma = max(float(np.sqrt(inside.sum())) / 40.0, 2.0)
    weight = blurred(smooth, sigma)
    slow = [blurred(each * smooth, sigma) / np.maximum(weight, 1e-3) for each in changes]
    down, right = gradient(height)
    normals = np.stack([-right, -down, np.ones_like(down)])
    normals /= np.sqrt((normals**2).sum(0))
    used = np.flatnonzero(inside & (weight > 0.15))[::2]  # noqa: PLR2004
    if len(used) < _FEWEST:
        return Shading(contrast, 0.0, 0.0)
    turns = np.stack(
        [gradient(smoothed(each, sigma / 2)).reshape(2, -1)[:, used].ravel() for each in normals], 1
    ).astype(np.float64)
    seen = np.stack([each.ravel()[used] for each in slow]).ravel().astype(np.float64)
    weights = np.tile(weight.ravel()[used], 2).astype(np.float64)
    lights = np.linalg.solve(
        (turns.T * weights) @ turns + 1e-9 * np.eye(3), (turns.T * weights) @ seen
    )
    total = float((weights * seen**2).sum())
    left = float((weights * (seen - turns @ lights) ** 2).sum())
    amount = float(np.tensordot(lights, normals, 1)[inside].std())
    return Shading(contrast, amount, min(max(1 - left / max(total, 1e-12), 0.0), 1.0))
