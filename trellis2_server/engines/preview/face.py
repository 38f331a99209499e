"""Finding a face in a picture: two dark spots beside each other in a part that is its own mirror.

No model is needed, and people, animals and figures are treated alike. Two spots count only if they
are among the darkest ones of their size, so that objects with many spots, such as keys or scales,
have no face.

Does not know: meshes, what is done about a face.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Array = NDArray[Any]

#: Edge of the picture that is searched.
_SIZE_PX: Final = 192
#: Radii of spots, pixels of that picture.
_RADII_PX: Final = (1.3, 1.9, 2.8, 4.0, 5.7, 8.0)
#: Least alpha of the object.
_OPAQUE: Final = 0.5
#: Least share of the object around a spot, and within the box around a face.
_SURROUNDED: Final = 0.97
_COVERED: Final = 0.8
#: How much darker a spot is than what is around it, of 1.
_LEAST_CONTRAST: Final = 0.035
#: Eyes are among so many of the strongest spots of their radius.
_MAX_RANK: Final = 3
#: Most of the spots of that radius that may be about as strong, and what is about as strong.
_MAX_RIVALS: Final = 0.4
_ABOUT: Final = 0.6
#: Least correlation of a face with its mirror image.
_LEAST_SYMMETRY: Final = 0.55
#: Least and most distance of the eyes, share of the width of the part that they are on.
_LEAST_SHARE: Final = 0.16
_MOST_SHARE: Final = 0.7
#: How far from the middle of that part the face may be, share of its width.
_MOST_ASIDE: Final = 0.25


class Face(NamedTuple):
    """Where a face is, in shares of the picture's edge from its left upper corner.

    Attributes:
        x: middle between the eyes.
        y: the same, downward.
        eyes: distance between the eyes.
    """

    x: float
    y: float
    eyes: float


def find_face(picture: NDArray[np.uint8]) -> Face | None:
    """Return the face in a picture, RGBA uint8 [S, S, 4]; None: there is none."""
    small = (
        Image.fromarray(picture).convert("RGBa").resize((_SIZE_PX, _SIZE_PX), Image.Resampling.BOX)
    )
    values = np.asarray(small, np.float32) / np.float32(255)
    mask = values[..., 3] > _OPAQUE
    if not mask.any():
        return None
    light = values[..., :3] @ np.array([0.3, 0.59, 0.11], np.float32)
    light = np.where(mask, light / np.maximum(values[..., 3], 0.5), 0)
    light = np.where(mask, light, light[mask].mean()).astype(np.float32)
    best = max(_pairs(light, mask), default=None)
    if best is None:
        return None
    _, x, y, eyes = best
    return Face((x + 0.5) / _SIZE_PX, (y + 0.5) / _SIZE_PX, eyes / _SIZE_PX)


def _pairs(light: Array, mask: Array) -> Iterator[tuple[float, float, float, float]]:
    """Yield score, middle x, middle y and distance of pairs of spots that may be eyes."""
    rows = np.flatnonzero(mask.any(1))
    lowest = rows[0] + 0.6 * (rows[-1] - rows[0])
    for radius in _RADII_PX:
        spots = _spots(light, mask, radius)
        for number, (strength, y, x) in enumerate(spots[:_MAX_RANK]):
            for other, v, u in spots[number + 1 : _MAX_RANK]:
                eyes = abs(u - x)
                if not 3.2 * radius <= eyes <= 16 * radius or abs(v - y) > 0.25 * eyes:
                    continue
                if max(strength, other) > 2.5 * min(strength, other):
                    continue
                rivals = sum(each[0] >= _ABOUT * min(strength, other) for each in spots)
                if rivals > max(_MAX_RANK, _MAX_RIVALS * len(spots)):
                    continue
                middle = (x + u) / 2, (y + v) / 2
                if middle[1] > lowest:
                    continue
                if not _is_central(mask, *middle, eyes):
                    continue
                likeness = _symmetry(light, mask, *middle, eyes)
                if likeness >= _LEAST_SYMMETRY:
                    score = likeness * min(strength, other) * np.sqrt(radius)
                    yield float(score), *middle, float(eyes)


def _spots(light: Array, mask: Array, radius: float) -> list[tuple[float, int, int]]:
    """Return strength, y and x of the dark spots of a radius, the strongest first."""
    near = _blurred(light, radius)
    darker = _blurred(light, 2 * radius) - near
    peak = darker > _LEAST_CONTRAST
    for axis in range(2):
        for shift in (-1, 1):
            peak &= darker >= np.roll(darker, shift, axis)
    inside = _blurred(mask.astype(np.float32), 2 * radius) > _SURROUNDED
    yy = np.roll(near, 1, 0) + np.roll(near, -1, 0) - 2 * near
    xx = np.roll(near, 1, 1) + np.roll(near, -1, 1) - 2 * near
    round_enough = np.minimum(yy, xx) > 0.15 * np.maximum(yy, xx)
    y, x = np.nonzero(peak & inside & round_enough)
    strength = darker[y, x]
    order = np.argsort(-strength, kind="stable")
    return [(float(strength[i]), int(y[i]), int(x[i])) for i in order]


def _is_central(mask: Array, x: float, y: float, eyes: float) -> bool:
    """Return whether two eyes are about in the middle of the part that they are on."""
    row = np.flatnonzero(~mask[round(y)])
    left = max((int(each) for each in row[row < x]), default=-1)
    right = min((int(each) for each in row[row > x]), default=mask.shape[1])
    width = right - left - 1
    aside = abs(x - (left + right) / 2)
    return aside <= _MOST_ASIDE * width and _LEAST_SHARE * width <= eyes <= _MOST_SHARE * width


def _symmetry(light: Array, mask: Array, x: float, y: float, eyes: float) -> float:
    """Return the correlation of the face around two eyes with its mirror image, -1 to 1."""
    reach = round(0.95 * eyes)
    top, bottom = round(y - 0.7 * eyes), round(y + 1.3 * eyes)
    left = round(x - reach)
    right = round(2 * x) - left
    if top < 0 or left < 0 or bottom >= len(light) or right >= len(light):
        return -1.0
    window = np.s_[top : bottom + 1, left : right + 1]
    if mask[window].mean() < _COVERED:
        return -1.0
    # Light from one side is no asymmetry of the face.
    values = light[window]
    values = values - _blurred(values, 0.5 * eyes)
    power = float((values * values).mean())
    if power < 0.01**2:
        return -1.0
    return float((values * values[:, ::-1]).mean() / power)


def _blurred(values: Array, radius: float) -> Array:
    """Return values smoothed by a Gaussian of that standard deviation; edges are repeated."""
    reach = max(round(3 * radius), 1)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / radius) ** 2).astype(np.float32)
    weights /= weights.sum()
    for axis in range(2):
        pad = [(reach, reach) if axis == each else (0, 0) for each in range(2)]
        padded = np.pad(values, pad, "edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(weights), axis)
        values = windows @ weights
    return values
