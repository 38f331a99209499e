"""How deep the object is: round by its own width, flat, or a solid of revolution.

Does not know: relief, meshes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from trellis2_server.engines.preview import kernels
from trellis2_server.engines.preview.outline import find_core, measure_outline
from trellis2_server.engines.preview.shading import find_changes, measure_shading, measure_turning
from trellis2_server.export.cancellation import call

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.engines.preview.outline import Core, Outline
    from trellis2_server.engines.preview.pixels import Pixels
    from trellis2_server.engines.preview.shading import Shading

#: flat: a plate. round: as deep as its parts are wide. revolution: round, turned about an axis.
Form = Literal["flat", "round", "revolution"]

#: Half the thickness of a flat object, share of the longer side of its box.
_PLATE: Final = 0.022
#: Steps of diffusion, each with a variance of a quarter, that smooth the creases of the balls.
_STEPS: Final = 40
#: Radius by which the ends of a solid of revolution are rounded, share of its width.
_ROUNDED: Final = 0.04
#: Holes below this share of the object's area do not divide its balls.
_HOLE: Final = 0.004
#: Width of the rounded rim around such a hole, share of the ball's radius.
_RIM: Final = 0.12


@dataclass(frozen=True, slots=True, eq=False)
class Balls:
    """The union of the largest balls inside the outline; float32 [G, G], in pixels.

    Attributes:
        distance: to the outline, 0 outside.
        squared: square of the height over the picture's plane, negative outside.
        radius: of the ball that is highest.
    """

    distance: NDArray[np.float32]
    squared: NDArray[np.float32]
    radius: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """The object without relief.

    Attributes:
        height: float32 [G, G], in pixels of the grid.
        form: what suits the object; not used where the request gives a depth.
        depth: 0, flat, to 1, as deep as wide.
    """

    height: NDArray[np.float32]
    form: Form
    depth: float


def find_balls(alpha: NDArray[np.float32]) -> Balls:
    """Return the balls of a mask; small holes do not divide them.

    Args:
        alpha: float32 [G, G], inside from 0.5; its frame is empty.
    """
    found = _balls(alpha)
    filled, seen = alpha.copy(), np.zeros(alpha.shape, np.uint8)
    hole = int(_HOLE * int((found.distance > 0).sum())) + 1
    call(kernels.load("mask").drop_specks, filled, seen, 0, hole)
    if (filled == alpha).all():
        return found
    whole = _balls(filled)
    inside = found.distance > 0
    rim = np.clip(found.distance / np.maximum(_RIM * whole.radius, 1.0), 0, 1)
    squared = np.maximum(whole.squared * (1 - (1 - rim) ** 2), found.squared)
    return Balls(
        distance=found.distance,
        squared=np.where(inside, squared, found.squared).astype(np.float32),
        radius=np.where(inside, whole.radius, found.radius).astype(np.float32),
    )


def find_base(pixels: Pixels, balls: Balls, depth: float | None) -> Base:
    """Make the object's height without relief.

    Args:
        pixels: the picture.
        balls: inside its outline.
        depth: 0, flat, to 1, as deep as wide; None: what suits the object.
    """
    inside = pixels.inside
    squared = balls.squared.copy()
    call(kernels.load("balls").diffuse, squared, inside.view(np.uint8), _STEPS)
    height = np.sqrt(np.maximum(squared, 0)) * inside
    outline, core = measure_outline(inside), find_core(inside)
    changes = find_changes(pixels, balls.distance)
    shading = measure_shading(changes, height)
    form: Form = "round"
    turning = 0.0
    if may_turn(outline, core):
        turning = _rise(measure_turning(changes, core.axis, core.width), 0.3, 0.42)
        turned = np.maximum(revolve(inside, core), height)
        alike = float(height.sum()) / max(float(turned.sum()), 1e-6)
        shading_turned = measure_shading(changes, turned)
        if turning > 0.5 or fits_turned(outline, core, shading, shading_turned, alike):  # noqa: PLR2004
            form, height = "revolution", turned
            shading = max(shading, shading_turned, key=lambda each: each.evidence)
    if form == "round":
        # What is irregular and broad is seldom as deep as wide.
        regular = max(_rise(outline.symmetry, 0.85, 0.95), _rise(outline.convexity, 0.84, 0.95))
        limit = outline.longer_px * (0.2 + 0.3 * regular)
        height = limit * np.tanh(height / limit)
    chosen = 1.0 - _rise(flatness(outline, shading) * (1 - turning), 0.3, 0.7)
    if chosen < 0.5:  # noqa: PLR2004
        form = "flat"
    chosen = chosen if depth is None else depth
    plate = max(_PLATE * outline.longer_px, 1.0)
    rim = np.clip(balls.distance / plate, 0, 1)
    flat = np.minimum(plate * np.sqrt(1 - (1 - rim) ** 2), height)
    return Base((flat + chosen * (height - flat)).astype(np.float32), form, chosen)


def flatness(outline: Outline, shading: Shading) -> float:
    """Return how much an object looks like a flat one with a painting, 0 to 1.

    Its outline is regular and without bays, there is something on it, and nothing that looks like
    shading.
    """
    regular = max(_rise(outline.symmetry, 0.94, 0.98), _rise(outline.boxiness, 0.94, 0.98))
    compact = _rise(outline.convexity, 0.97, 0.995)
    painted = _rise(shading.contrast, 0.018, 0.035)
    return regular * compact * painted * (1 - _rise(shading.evidence, 0.004, 0.014))


def may_turn(outline: Outline, core: Core) -> bool:
    """Return whether an outline may be that of a solid of revolution: most of it, but no box."""
    return core.share > 0.7 and (outline.boxiness < 0.93 or outline.aspect > 1.5)  # noqa: PLR2004


def fits_turned(
    outline: Outline, core: Core, shading: Shading, turned: Shading, alike: float
) -> bool:
    """Return whether shading agrees with a solid of revolution.

    Args:
        outline: of the object.
        core: of the object.
        shading: of the union of balls.
        turned: of the solid of revolution.
        alike: volume of the former over that of the latter. The less alike they are, the better
            shading has to agree.
    """
    if core.share < 0.94 or outline.symmetry < 0.95:  # noqa: PLR2004
        return turned.share >= max(shading.share + 0.1, 0.4)
    return turned.share >= shading.share - 0.1 - 0.25 * _rise(alike, 0.8, 0.95)


def revolve(inside: NDArray[np.bool_], core: Core) -> NDArray[np.float32]:
    """Return the heights of the solid that a core makes turning about its axis, float32 [G, G]."""
    width = core.width
    # Rows are whole pixels wide: smoothed, except where the outline has a step.
    for _ in range(6):
        mean = width.copy()
        mean[1:-1] = 0.25 * width[:-2] + 0.5 * width[1:-1] + 0.25 * width[2:]
        width = np.where(abs(mean - core.width) < 1, mean, width)
    x = np.arange(inside.shape[1]) + 0.5 - core.axis
    squared = np.maximum(width[:, None] ** 2 - x**2, 0) * inside
    # Distance to the nearer end of the pixel's column.
    above, below = np.zeros_like(squared), np.zeros_like(squared)
    for i in range(1, len(inside)):
        above[i] = (above[i - 1] + 1) * inside[i]
        below[-1 - i] = (below[-i] + 1) * inside[-1 - i]
    reach = max(2 * _ROUNDED * float(width.max()), 1.0)
    end = np.clip((np.minimum(above, below) - 0.5) / reach, 0, 1)
    return np.sqrt(squared * (1 - (1 - end) ** 2)).astype(np.float32)


def _balls(alpha: NDArray[np.float32]) -> Balls:
    distance, squared, radius = (np.empty(alpha.shape, np.float32) for _ in range(3))
    call(kernels.load("balls").inflate_balls, alpha, distance, squared, radius)
    return Balls(distance, squared, radius)


def _rise(value: float, low: float, high: float) -> float:
    """Return 0 below `low` and 1 above `high`, smoothly between."""
    t = min(max((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3 - 2 * t)
