"""How deep the object is: round by its own width, flat, or a solid of revolution.

Does not know: relief, meshes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from trellis2_server.engines.preview import kernels
from trellis2_server.engines.preview.pixels import blurred, gradient
from trellis2_server.export.cancellation import call

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.engines.preview.pixels import Pixels

#: Half the thickness of a flat object, share of the longer side of its box.
_PLATE: Final = 0.022
#: Steps of diffusion, each of a quarter of a square pixel, that smooth the creases of the balls.
_STEPS: Final = 40
#: Holes below this share of the object's area do not divide its balls.
_HOLE: Final = 0.004
#: Width of the rounded rim around such a hole, share of the ball's radius.
_RIM: Final = 0.12
#: Radius by which the ends of a solid of revolution are rounded, share of its width.
_ROUNDED: Final = 0.04


@dataclass(frozen=True, slots=True, eq=False)
class Balls:
    """The union of the largest balls inside the outline; arrays float32 [G, G], in pixels.

    Attributes:
        distance: to the outline, 0 outside.
        squared: square of the height over the picture's plane, negative outside.
        radius: of the ball that is highest.
    """

    distance: NDArray[np.float32]
    squared: NDArray[np.float32]
    radius: NDArray[np.float32]


def find_balls(alpha: NDArray[np.float32]) -> Balls:
    """Return the balls of a mask; small holes do not divide them.

    Args:
        alpha: float32 [G, G], inside from 0.5; its frame is empty.
    """
    found = _balls(alpha)
    filled = alpha.copy()
    hole = max(int(_HOLE * (alpha >= 0.5).sum()), 1)  # noqa: PLR2004
    seen = np.zeros(alpha.shape, np.uint8)
    call(kernels.load("mask").drop_specks, filled, seen, 0, hole)
    if (filled == alpha).all():
        return found
    whole = _balls(filled)
    # Around such a hole, the surface is rounded as far as it is wide.
    rim = np.clip(found.distance / np.maximum(_RIM * whole.radius, 1.0), 0, 1)
    edge = 1 - (1 - rim) ** 2
    squared = np.where(found.distance > 0, np.maximum(whole.squared * edge, found.squared), found.squared)
    radius = np.where(found.distance > 0, np.maximum(whole.radius, found.radius), found.radius)
    return Balls(found.distance, squared.astype(np.float32), radius.astype(np.float32))


def _balls(alpha: NDArray[np.float32]) -> Balls:
    distance, squared, radius = (np.empty(alpha.shape, np.float32) for _ in range(3))
    call(kernels.load("balls").inflate_balls, alpha, distance, squared, radius)
    return Balls(distance, squared, radius)


@dataclass(frozen=True, slots=True)
class Outline:
    """What the outline says; each 0 to 1.

    Attributes:
        symmetry: share of the object that its mirror image about a vertical axis covers.
        axis: column of that axis, in pixels.
        convexity: share of the object in the union of its rows' and columns' spans.
        boxiness: share of the object in its box.
        intervals: share of the rows that are one piece.
        aspect: height over width of the box.
    """

    symmetry: float
    axis: float
    convexity: float
    boxiness: float
    intervals: float
    aspect: float


def measure_outline(inside: NDArray[np.bool_]) -> Outline:
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    part = inside[top:bottom, left:right]
    height, width = part.shape
    symmetry, axis = _mirror(part)
    area = int(part.sum())
    spans = _spans(part) + _spans(part.T)
    changes = (np.diff(part.astype(np.int8), axis=1, prepend=0) == 1).sum(1)
    return Outline(
        symmetry=symmetry,
        axis=left + axis,
        convexity=2 * area / spans,
        boxiness=area / part.size,
        intervals=float((changes[part.any(1)] == 1).mean()),
        aspect=height / width,
    )


def _spans(part: NDArray[np.bool_]) -> int:
    some = part.any(1)
    first = part.argmax(1)
    last = part.shape[1] - part[:, ::-1].argmax(1)
    return int((last - first)[some].sum())


def _mirror(part: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the largest overlap of a mask and its mirror image, and the axis."""
    width = part.shape[1]
    best = 0.0, width / 2
    mirrored = part[:, ::-1]
    for shift in range(-(width // 12), width // 12 + 1):
        a = part[:, max(shift, 0) : width + min(shift, 0)]
        b = mirrored[:, max(-shift, 0) : width + min(-shift, 0)]
        common = int((a & b).sum())
        overlap = common / max(2 * int(part.sum()) - common, 1)
        if overlap > best[0] + 1e-9:
            best = overlap, (width + shift) / 2
    return best


@dataclass(frozen=True, slots=True)
class Shading:
    """What lightness and colour say.

    Attributes:
        contrast: how much there is to see: standard deviation of colour and lightness.
        amount: standard deviation of the lightness that the normals explain.
        share: share of the slow changes of lightness that they explain, 0 to 1.
    """

    contrast: float
    amount: float
    share: float


def measure_shading(pixels: Pixels, height: NDArray[np.float32], distance) -> Shading:
    """Fit lightness by three lights on the surface, by its changes away from sharp edges."""
    inside = distance > 3.0
    if inside.sum() < 200:
        return Shading(0.0, 0.0, 0.0)
    light = pixels.lightness
    spread = [float(light[inside].std()), *(0.7 * float(h[inside].std()) for h in pixels.hue)]
    contrast = float(np.sqrt(np.square(spread).sum()))
    fine = gradient(blurred(light, 1.0))
    hue = sum((gradient(blurred(h, 1.0)) ** 2).sum(0) for h in pixels.hue)
    sharp = np.sqrt((fine**2).sum(0) + hue)
    near = blurred((sharp > 0.02).astype(np.float32), 2.0) > 0.02
    smooth = (inside & ~near).astype(np.float32)
    sigma = max(float(np.sqrt(inside.sum())) / 40.0, 3.0)
    norm = blurred(smooth, sigma)
    slow = np.stack([blurred(f * smooth, sigma) for f in fine]) / np.maximum(norm, 1e-3)
    down, right = gradient(height)
    n = np.stack([-right, -down, np.ones_like(down)])
    n /= np.sqrt((n**2).sum(0))
    normals = [gradient(blurred(c, sigma / 2)) for c in n]
    use = inside & (norm > 0.15)
    if use.sum() < 100:
        return Shading(contrast, 0.0, 0.0)
    step = np.flatnonzero(use.ravel())[::5]
    a = np.stack([g.reshape(2, -1)[:, step].ravel() for g in normals], 1).astype(np.float64)
    b = slow.reshape(2, -1)[:, step].ravel().astype(np.float64)
    w = np.tile(norm.ravel()[step], 2)
    lights = np.linalg.lstsq((a.T * w) @ a + 1e-9 * np.eye(3), (a.T * w) @ b, rcond=None)[0]
    left = b - a @ lights
    total = float((w * b * b).sum())
    share = 1 - float((w * left * left).sum()) / max(total, 1e-12)
    amount = float((np.tensordot(lights, n, 1))[inside].std())
    return Shading(contrast, amount, max(share, 0.0) if total > 1e-12 else 0.0)


def revolve(inside: NDArray[np.bool_], core: Turned) -> NDArray[np.float32]:
    """Return the heights of the solid that the outline makes turning about a vertical axis."""
    width = core.width
    x = np.arange(inside.shape[1]) + 0.5 - core.axis
    squared = np.maximum(width[:, None] ** 2 - x[None] ** 2, 0) * inside
    # Distance to the end of a column, for the rounding of the ends.
    run = np.where(inside, 1e6, 0).astype(np.float32)
    for i in range(1, len(run)):
        np.minimum(run[i], run[i - 1] + 1, out=run[i])
    run[0] = np.minimum(run[0], 1)
    for i in range(len(run) - 2, -1, -1):
        np.minimum(run[i], run[i + 1] + 1, out=run[i])
    run[-1] = np.minimum(run[-1], 1)
    reach = max(_ROUNDED * 2 * float(width.max()), 1.0)
    end = np.clip((run - 0.5) / reach, 0, 1)
    return np.sqrt(squared * (1 - (1 - end) ** 2)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Decision:
    """How deep the object is made.

    Attributes:
        mode: `flat`, `round`, `revolution`, or `given` where the request says it.
        depth: 0, flat, to 1, as deep as wide.
    """

    mode: Literal["flat", "round", "revolution", "given"]
    depth: float


def _rise(value: float, low: float, high: float) -> float:
    t = min(max((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3 - 2 * t)


def decide(outline: Outline, shading: Shading, turned: Shading | None, depth: float | None):
    if depth is not None:
        return Decision("given", depth)
    regular = max(_rise(outline.symmetry, 0.94, 0.98), _rise(outline.boxiness, 0.94, 0.98))
    compact = _rise(outline.convexity, 0.9, 0.96)
    painted = _rise(shading.contrast, 0.03, 0.06)
    seen = max(s.amount * s.share**0.5 for s in (shading, turned or shading))
    flat = regular * compact * painted * (1 - _rise(seen, 0.008, 0.024))
    made = 1.0 - _rise(flat, 0.3, 0.7)
    if made < 0.5:
        return Decision("flat", made)
    return Decision("round" if turned is None else "revolution", made)


@dataclass(frozen=True, slots=True, eq=False)
class Turned:
    """The part of an object that may be a solid of revolution about a vertical axis.

    Attributes:
        axis: column, in pixels.
        width: half the width at each row, in pixels, float32 [G].
        share: of the object, 0 to 1.
    """

    axis: float
    width: NDArray[np.float32]
    share: float


def find_turned(inside: NDArray[np.bool_]) -> Turned:
    """Find the axis about which the most of the object is symmetric, without gaps."""
    columns = np.flatnonzero(inside.any(0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    middle, reach = (left + right) / 2, (right - left) / 4
    n = inside.shape[1]
    # Length of the run to each side of each border between pixels, and of each pixel.
    ahead = np.zeros((len(inside), n + 1), np.int32)
    behind = np.zeros((len(inside), n + 1), np.int32)
    for j in range(n):
        behind[:, j + 1] = np.where(inside[:, j], behind[:, j] + 1, 0)
        ahead[:, n - 1 - j] = np.where(inside[:, n - 1 - j], ahead[:, n - j] + 1, 0)
    best, at = 0, round(middle)
    for border in range(int(middle - reach), int(middle + reach) + 1):
        area = 2 * int(np.minimum(ahead[:, border], behind[:, border]).sum())
        area -= abs(border - round(middle)) // 4
        if area > best:
            best, at = area, border
    width = np.minimum(ahead[:, at], behind[:, at]).astype(np.float32)
    return Turned(float(at), width, 2 * float(width.sum()) / max(int(inside.sum()), 1))


def find_base(pixels: Pixels, balls: Balls, depth: float | None):
    inside = pixels.inside
    squared = balls.squared.copy()
    call(kernels.load("balls").diffuse, squared, inside.view(np.uint8), _STEPS)
    round_ = np.sqrt(np.maximum(squared, 0)) * inside
    outline = measure_outline(inside)
    shading = measure_shading(pixels, round_, balls.distance)
    turned = None
    core = find_turned(inside)
    if core.share > 0.7 and (outline.boxiness < 0.93 or outline.aspect > 1.5):
        whole = np.maximum(revolve(inside, core), round_)
        turned = measure_shading(pixels, whole, balls.distance)
        least = shading.share - 0.2 if core.share > 0.94 else max(shading.share + 0.1, 0.4)
        if turned.share < least:
            turned = None
    info["turned"] = core.share, turned
    if turned is not None:
        round_ = whole
    decision = decide(outline, shading, turned, depth)
    # broad and irregular: less deep than wide
    box = max(np.ptp(np.flatnonzero(inside.any(k))) + 1 for k in (0, 1))
    if turned is None:
        limit = box * (0.2 + 0.6 * _rise(outline.symmetry, 0.85, 0.95))
        round_ = limit * np.tanh(round_ / limit)
    plate = max(_PLATE * box, 1.0)
    rim = np.clip(balls.distance / plate, 0, 1)
    flat = np.minimum(plate * np.sqrt(1 - (1 - rim) ** 2), round_)
    base = flat + decision.depth * (round_ - flat)
    return base.astype(np.float32), squared, decision, outline, shading, turned

info = {}
