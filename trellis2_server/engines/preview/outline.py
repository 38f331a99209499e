"""What the outline says about an object: symmetry, gaps, its axis.

Does not know: colours, heights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Outline:
    """Figures of an outline.

    Attributes:
        symmetry: overlap of the object and its mirror image about a vertical axis, 0 to 1.
        convexity: share of the object in the spans of its rows and columns, 0 to 1.
        boxiness: share of the object in its box, 0 to 1.
        aspect: height over width of the box.
        longer_px: the longer side of the box, in pixels.
    """

    symmetry: float
    convexity: float
    boxiness: float
    aspect: float
    longer_px: int


@dataclass(frozen=True, slots=True, eq=False)
class Core:
    """The part of an object around a vertical axis that is symmetric and without gaps.

    Attributes:
        axis: column between two pixels.
        width: half the width in each row, in pixels, float32 [G].
        share: of the object, 0 to 1.
    """

    axis: int
    width: NDArray[np.float32]
    share: float


def measure_outline(inside: NDArray[np.bool_]) -> Outline:
    """Measure a mask [G, G] that is not empty."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    part = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = part.shape
    area = int(part.sum())
    return Outline(
        symmetry=_symmetry(part),
        convexity=2 * area / (_spans(part) + _spans(part.T)),
        boxiness=area / part.size,
        aspect=height / width,
        longer_px=max(height, width),
    )


def find_core(inside: NDArray[np.bool_]) -> Core:
    """Find the largest core, in the middle half of a mask [G, G] that is not empty."""
    columns = np.flatnonzero(inside.any(0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    middle, reach = (left + right) // 2, (right - left) // 4
    rows, n = inside.shape
    # Pixels of the object in a row before and after each border between two columns.
    before = np.zeros((n + 1, rows), np.int32)
    after = np.zeros((n + 1, rows), np.int32)
    for j in range(n):
        before[j + 1] = (before[j] + 1) * inside[:, j]
        after[n - 1 - j] = (after[n - j] + 1) * inside[:, n - 1 - j]
    widths = np.minimum(before, after)[middle - reach : middle + reach + 1]
    # Of equal ones, that in the middle.
    away = abs(np.arange(len(widths)) - reach)
    best = int((4 * widths.sum(1) - np.minimum(away, 3)).argmax())
    width = widths[best].astype(np.float32)
    return Core(middle - reach + best, width, 2 * float(width.sum()) / int(inside.sum()))


def _spans(part: NDArray[np.bool_]) -> int:
    """Return the sum of the distances from each row's first to its last pixel."""
    first = part.argmax(1)
    last = part.shape[1] - part[:, ::-1].argmax(1)
    return int((last - first)[part.any(1)].sum())


def _symmetry(part: NDArray[np.bool_]) -> float:
    """Return the largest intersection over union of a mask and its mirror image."""
    width = part.shape[1]
    area = int(part.sum())
    # Pixels that both have, by the sum of their columns: row by row a correlation.
    spectrum = np.fft.rfft(part.astype(np.float32), 2 * width, axis=1)
    common = np.fft.irfft((spectrum * spectrum).sum(0), 2 * width)
    most = float(common.max())
    return most / (2 * area - most)
