"""Pack charts into a square texture, row by row, by their outlines.

Does not know: how charts are made.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from trellis2_server.errors import TooLargeError
from trellis2_server.export.cancellation import call
from trellis2_server.export.kernels import packing as kernels
from trellis2_server.export.outlines import chart_rims, outlined_cells, outlines
from trellis2_server.export.parallel import parallel_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from trellis2_server.export.charts import Charts

#: Number of angles, out of a quarter turn, to which a chart may be rotated.
_ANGLES: Final = 24
#: Share of the texture that the first attempt tries to cover.
FIRST_SHARE: Final = 0.86
#: Number of packings that are tried to find the largest scale.
_PACKINGS: Final = 7
#: From this number of charts on, packing is fast first and thorough at the end, with the scale
#: multiplied by one of these factors.
_MANY_CHARTS: Final = 1500
_THOROUGH_FACTORS: Final = (1.025, 1.015)
#: A chart is outlined by its rows only, or by its columns only, if the other outline encloses more
#: cells by this factor.
_WORSE_OUTLINE: Final = 1.12
#: Rows and columns of a chart, on average, above which outlines are not compared at all.
_MAX_ROWS: Final = 16
#: Edge of the texture, texels, and number of packings of a trial.
_TRIAL_PX: Final = 1024
_TRIAL_PACKINGS: Final = 4


class _Packing(NamedTuple):
    """A placement of all charts.

    Attributes:
        scale: cells per unit of length; 0: the charts do not fit.
        placed: int32 [C, 3], position and rotation of each chart.
        box: float64 [C, 2], extent of each chart's box.
    """

    scale: float
    placed: NDArray[np.int32]
    box: NDArray[np.float64]


def pack(
    charts: Charts, twin: NDArray[np.int32], size_px: int, first_share: float = FIRST_SHARE
) -> NDArray[np.float32]:
    """Place the charts in the texture, at a common scale.

    Args:
        charts: flattened.
        twin: int32 [3 F], of the mesh, see `adjacency.twins`.
        size_px: edge of the texture, texels.
        first_share: share of the texture that the first attempt tries to cover.

    Returns:
        float32 [M, 2], texture coordinates of the rows of `charts.flat`, in texels.

    Raises:
        TooLargeError: too many charts for this texture.
    """
    charts = _aligned(charts)
    # Faces without any area cover nothing in a trial.
    scale, placed, box = _fit(charts, twin, size_px, first_share or FIRST_SHARE)
    if scale == 0.0:
        raise _too_many(len(box), size_px)
    uv = np.empty((len(charts.flat), 2), np.float32)
    call(kernels.write_uv, charts.flat, charts.start, box, placed, scale, _gap(size_px), uv)
    return np.clip(uv, 0.0, np.float32(size_px))


def check_chart_count(count: int, size_px: int) -> None:
    """Check whether so many charts could fit, before they are made.

    Args:
        count: number of charts, or a smaller one.
        size_px: edge of the texture, texels.

    Raises:
        TooLargeError: they do not fit, however small they are.
    """
    gap = _gap(size_px)
    # Each takes a texel, and the gaps on its right and below it.
    if count * (1 + gap) ** 2 > (size_px + gap) ** 2:
        raise _too_many(count, size_px)


def _too_many(count: int, size_px: int) -> TooLargeError:
    return TooLargeError(
        f"texture_size: {count} charts do not fit into a texture of {size_px} pixels: ask "
        "for fewer faces or a larger texture"
    )


def covered_share(
    charts: Charts, area: float, twin: NDArray[np.int32], size_px: int, first_share: float
) -> float:
    """Return the share of a small texture that the charts cover when they are packed.

    Args:
        charts: as projected or flattened.
        area: of all charts.
        twin: int32 [3 F], of the mesh, see `adjacency.twins`.
        size_px: edge of the final texture, texels.
        first_share: share of the texture that the first attempt tries to cover.
    """
    size = min(size_px, _TRIAL_PX)
    scale = _fit(_aligned(charts), twin, size, first_share, _TRIAL_PACKINGS, is_trial=True).scale
    return area * scale * scale / (size * size)


def _aligned(charts: Charts) -> Charts:
    """Rotate each chart to its smallest bounding box, with a corner of the box at the origin."""
    flat = charts.flat.copy()
    parallel_for(kernels.align_charts, charts.count, flat, charts.start, _ANGLES, grain=1)
    return replace(charts, flat=flat)


def _gap(size_px: int) -> int:
    """Return the number of free texels around each chart."""
    return 1 if size_px < 2048 else 2  # noqa: PLR2004


def _fit(  # noqa: PLR0913
    charts: Charts,
    twin: NDArray[np.int32],
    size_px: int,
    first_share: float,
    packings: int = _PACKINGS,
    *,
    is_trial: bool = False,
) -> _Packing:
    """Search for the largest scale at which the charts fit.

    Args:
        charts: each with the corner of its box at the origin.
        twin: int32 [3 F], of the mesh, see `adjacency.twins`.
        size_px: edge of the texture, texels.
        first_share: share of the texture that the first attempt tries to cover.
        packings: number of attempts; more if nothing fits.
        is_trial: skips the thorough packing of many charts at the end.
    """
    gap = _gap(size_px)
    edges, owner = chart_rims(charts.uv_faces, charts.chart, twin)
    box = np.zeros((charts.count, 2))
    call(kernels.measure_boxes, charts.flat, charts.start, box)
    order = np.argsort(-box.prod(axis=1), kind="stable").astype(np.int32)
    area = float(charts.face_areas().sum())
    scale = np.sqrt(first_share) * size_px / np.sqrt(max(area, 1e-30))
    scale = min(scale, (size_px - 2 * gap - 2) / max(float(box.max()), 1e-30))

    def attempt(scale: float, *, is_fast: bool) -> tuple[int, NDArray[np.int32]]:
        placed = np.empty((charts.count, 3), np.int32)
        cells = np.ceil(box * scale).astype(np.int64) + 1 + 2 * gap
        if int(cells.max()) > size_px or int(cells.prod(axis=1).min()) <= 0:
            return -1, placed
        if int(cells.sum()) > _MAX_ROWS * (1 + gap) * charts.count + 2 * size_px * size_px:
            # Long needles: they do not fit even if each row of theirs has only its gap.
            rows = int((cells.max(axis=1) - 1).sum()) * (1 + 2 * gap)
            return -(-rows // size_px), placed
        outline = outlines(charts.flat, edges, owner, scale, gap, cells)
        return _place(order, cells, outline, size_px, placed, is_fast=is_fast), placed

    found = None
    if charts.count >= _MANY_CHARTS:
        found = _largest(partial(attempt, is_fast=True), scale, size_px, packings)
        if found is not None and not is_trial:
            for larger in (found[0] * factor for factor in _THOROUGH_FACTORS):
                height, placed = attempt(larger, is_fast=False)
                if 0 <= height <= size_px:
                    return _Packing(larger, placed, box)
    if found is None:
        found = _largest(partial(attempt, is_fast=False), scale, size_px, packings)
    if found is None:
        return _Packing(0.0, np.zeros((charts.count, 3), np.int32), box)
    return _Packing(*found, box)


def _largest(
    attempt: Callable[[float], tuple[int, NDArray[np.int32]]],
    scale: float,
    size_px: int,
    packings: int,
) -> tuple[float, NDArray[np.int32]] | None:
    """Return the largest scale found at which the charts fit, and their placement; or None.

    Args:
        attempt: returns the number of rows that are needed at a scale, -1 if the charts do not fit,
            and the placement.
        scale: first scale to try.
        size_px: number of rows.
        packings: number of attempts; more if nothing fits.
    """
    best: tuple[float, NDArray[np.int32]] | None = None
    too_large = np.inf
    for number in range(40):
        height, placed = attempt(scale)
        if 0 <= height <= size_px:
            if best is None or scale > best[0]:
                best = scale, placed
            if number >= packings or height > 0.985 * size_px:
                break
            larger = scale * min(1.08, np.sqrt(size_px / max(height, 1)))
            scale = min(larger, 0.5 * (scale + too_large))
            if scale < best[0] * 1.004:
                break
        else:
            too_large = min(too_large, scale)
            if best is not None:
                if number >= packings:
                    break
                scale = 0.5 * (best[0] + too_large)
                if scale < best[0] * 1.004:
                    break
            else:
                scale *= 0.93 if number < packings else 0.7
                # Gutters do not shrink with the scale: reduce it at least by the excess of rows.
                scale = min(scale, too_large * np.sqrt(size_px / max(height, size_px)))
    return best


def _place(  # noqa: PLR0913
    order: NDArray[np.int32],
    cells: NDArray[np.int64],
    outline: tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]],
    size_px: int,
    placed: NDArray[np.int32],
    *,
    is_fast: bool,
) -> int:
    """Place the charts and return the number of rows used.

    Args:
        order: int32 [C], charts in the order in which they are placed.
        cells: int64 [C, 2], columns and rows of each chart.
        outline: see `outlines`.
        size_px: edge of the texture, texels.
        placed: int32 [C, 3], output: position and rotation of each chart.
        is_fast: whether large charts, too, are searched only below the previous one of their size.

    Returns:
        Number of rows, a lower bound if it exceeds `size_px`; -1: the charts do not fit.
    """
    first, low, high = outline
    rows, columns = outlined_cells(first, low, high, cells)
    least = -(-int(np.minimum(rows, columns).sum()) // size_px)
    if least > size_px:
        return least
    last = np.full((size_px, size_px), -1, np.int16)
    # The hole of an arch, for example, is usable only if the arch lies on its side.
    is_worse = columns * _WORSE_OUTLINE > rows, rows * _WORSE_OUTLINE > columns
    orientations = np.where(is_worse[0], np.where(is_worse[1], 2, 0), 1)
    height = call(
        kernels.place_charts,
        order,
        cells,
        orientations,
        first,
        low,
        high,
        last,
        np.zeros(2048, np.int32),
        is_fast,
        placed,
    )
    return int(height)
