"""Outlines of charts on a grid: the first and last cell of each row and column.

Does not know: where charts are placed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trellis2_server.export.adjacency import next_half_edges
from trellis2_server.export.cancellation import call
from trellis2_server.export.kernels import packing as kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray


def chart_rims(
    uv_faces: NDArray[np.int32], chart: NDArray[np.int32], twin: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the edges at the rims of charts.

    Args:
        uv_faces: int32 [F, 3], rows of the charts' coordinates.
        chart: int32 [F], the chart of each face.
        twin: int32 [3 F], see `adjacency.twins`.

    Returns:
        edges: int32 [E, 2], rows of the charts' coordinates.
        owner: int32 [E], the chart of each edge.
    """
    rim = np.empty(uv_faces.size, np.int32)
    rim = rim[: call(kernels.list_rims, twin, chart, rim)]
    edges = np.empty((rim.size, 2), np.int32)
    corner = uv_faces.reshape(-1)
    edges[:, 0] = corner[rim]
    edges[:, 1] = corner[next_half_edges(rim)]
    return edges, chart[rim // 3]


def outlines(  # noqa: PLR0913, PLR0917
    flat: NDArray[np.float64],
    edges: NDArray[np.int32],
    owner: NDArray[np.int32],
    scale: float,
    gap: int,
    cells: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Return the first and last cell of each row, then of each column, of each chart.

    Args:
        flat: float64 [M, 2], coordinates; each chart has the corner of its box at the origin.
        edges: int32 [E, 2], the rims of the charts.
        owner: int32 [E], the chart of each edge.
        scale: cells per unit of length.
        gap: free cells on all sides.
        cells: int64 [C, 2], columns and rows of each chart.

    Returns:
        first: int64 [C + 1], index in `low` and `high` at which the rows of a chart start.
        low: int32 [first[-1]].
        high: int32 [first[-1]], less than `low` for an empty row.
    """
    first = np.zeros(len(cells) + 1, np.int64)
    np.cumsum(cells[:, 0] + cells[:, 1], out=first[1:])
    low = np.full(int(first[-1]), 1 << 30, np.int32)
    high = np.full(int(first[-1]), -1, np.int32)
    call(kernels.rasterize_outlines, flat, edges, owner, scale, gap, cells, first, low, high)
    return first, low, high


def outlined_cells(
    first: NDArray[np.int64],
    low: NDArray[np.int32],
    high: NDArray[np.int32],
    cells: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the number of cells within the outline by rows and by columns, int64 [2, C].

    Args:
        first: see `outlines`.
        low: see `outlines`.
        high: see `outlines`.
        cells: int64 [C, 2], columns and rows of each chart.
    """
    counts = np.empty((2, len(cells)), np.int64)
    call(kernels.count_outlined, first, low, high, cells, counts)
    return counts
