"""Charts: connected faces without overlaps in a projection into the plane.

Does not know: where charts are placed in the texture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.export.cancellation import call
from trellis2_server.export.kernels import charts as kernels
from trellis2_server.export.kernels import grouping
from trellis2_server.export.outlines import chart_rims, outlined_cells, outlines
from trellis2_server.export.parallel import parallel_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.mesh import Mesh

#: Charts with more than this share of the surface are halved …
_RING_SHARE: Final = 0.01
#: … if they fill less than this share of their outline.
_RING_FILL: Final = 0.7
#: Degree of the polynomials that flatten a chart, and number of their iterations.
_DEGREE: Final = 6
_ITERATIONS: Final = 3
#: Approximate number of faces of a chart to which the polynomials are fitted.
_SAMPLES: Final = 2000
#: Cells along the rows and columns of all these charts together.
_RING_CELLS: Final = 1 << 19
#: Cells of all grids on which overlaps are searched: textures, and cells for each face.
_GRID_TEXTURES: Final = 32
_GRID_CELLS: Final = 64
#: Number of iterations that relax the vertices after that.
_RELAXATIONS: Final = 10


@dataclass(frozen=True, slots=True, eq=False)
class Charts:
    """The charts of a mesh, projected into the plane.

    Attributes:
        chart: int32 [F], the chart of each face.
        axes: float32 [C, 3], the axis along which each chart was projected.
        flat: float64 [M, 2], coordinates in the unit of the vertices.
        source: int32 [M], the vertex of each row of `flat`.
        uv_faces: int32 [F, 3], rows of `flat`.
        start: int32 [C + 1], index of the first row of `flat` of each chart.
    """

    chart: NDArray[np.int32]
    axes: NDArray[np.float32]
    flat: NDArray[np.float64]
    source: NDArray[np.int32]
    uv_faces: NDArray[np.int32]
    start: NDArray[np.int32]

    @property
    def count(self) -> int:
        """Number of charts."""
        return len(self.start) - 1

    def face_areas(self) -> NDArray[np.float64]:
        """Return the area of each face in the plane, float64 [F]."""
        a, b, c = (self.flat[self.uv_faces[:, k]] for k in range(3))
        return 0.5 * np.abs(
            (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
        )

    def areas(self) -> NDArray[np.float64]:
        """Return the area of each chart, float64 [C]."""
        return np.bincount(self.chart, self.face_areas(), self.count).astype(np.float64)

    def boxes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the low corner and the extent of each chart's bounding box, float64 [C, 2]."""
        low = np.minimum.reduceat(self.flat, self.start[:-1], axis=0)
        return low, np.maximum.reduceat(self.flat, self.start[:-1], axis=0) - low


def face_normals(mesh: Mesh) -> NDArray[np.float32]:
    """Return unit normals and areas, float32 [F, 4]."""
    normals = np.empty((len(mesh.faces), 4), np.float32)
    parallel_for(kernels.face_normals, len(mesh.faces), mesh.vertices, mesh.faces, normals)
    return normals


def total_length(mesh: Mesh) -> float:
    """Return the sum of the longest edges of all faces."""
    lengths = np.empty(len(mesh.faces), np.float32)
    parallel_for(kernels.longest_edges, len(mesh.faces), mesh.vertices, mesh.faces, lengths)
    return float(lengths.sum(dtype=np.float64))


def build_charts(  # noqa: PLR0913, PLR0917
    mesh: Mesh,
    twin: NDArray[np.int32],
    normals: NDArray[np.float32],
    group: NDArray[np.int32],
    density: float,
    size_px: int,
) -> Charts:
    """Split groups into charts without overlaps.

    Args:
        mesh: checked.
        twin: int32 [3 F], see `adjacency.twins`.
        normals: float32 [F, 4], unit normals and areas.
        group: int32 [F], numbered from 0 without gaps.
        density: texels per unit of length.
        size_px: edge of the texture, texels.
    """
    vertices, faces = mesh.vertices, mesh.faces
    order, first = _faces_by_chart(group)
    chart = np.full(len(faces), -1, np.int32)
    axes = np.empty((len(faces), 3), np.float32)
    grid_px = 2 * size_px
    groups = len(first) - 1
    group_axes, boxes = np.zeros((groups, 3), np.float64), np.zeros((groups, 4), np.float64)
    has_no_overlap = np.empty(groups, np.uint8)
    parallel_for(
        kernels.project_groups, groups, vertices, faces, normals, order, first, group_axes, boxes,
        has_no_overlap, grain=1,
    )  # fmt: skip
    extent = boxes[:, 2:]
    scales = np.minimum(density, (grid_px - 4) / np.maximum(extent.max(axis=1), 1e-20))
    is_tested = (has_no_overlap == 1) & (np.diff(first) > 1)
    cells = np.where(is_tested, ((extent * scales[:, None]).astype(np.int64) + 4).prod(axis=1), 0)
    limit = _largest_grid(cells, len(faces), size_px)
    scales[cells > limit] *= np.sqrt(limit / cells[cells > limit])
    parallel_for(
        kernels.find_overlaps, groups, vertices, faces, order, first, group_axes, boxes, scales,
        has_no_overlap, grain=1,
    )  # fmt: skip
    count = call(
        kernels.grow_charts, vertices, faces, twin, normals, order, first, group, density,
        group_axes, has_no_overlap, chart, axes, np.empty(len(faces), np.int32),
        np.empty(len(faces), np.int32), np.full(len(faces), -1, np.int32),
        np.zeros((grid_px, grid_px), np.int32),
    )  # fmt: skip
    return project_charts(mesh, chart, axes[:count])


def project_charts(mesh: Mesh, chart: NDArray[np.int32], axes: NDArray[np.float32]) -> Charts:
    """Project each chart along its axis.

    Args:
        mesh: checked.
        chart: int32 [F], the chart of each face.
        axes: float32 [C, 3].
    """
    vertices, faces = mesh.vertices, mesh.faces
    order, first = _faces_by_chart(chart)
    flat = np.empty((faces.size, 2), np.float64)
    source = np.empty(faces.size, np.int32)
    uv_faces = np.empty_like(faces)
    start = np.empty(len(axes) + 1, np.int32)
    rows = call(
        kernels.project_charts, vertices, faces, order, first, axes,
        np.full(len(vertices), -1, np.int32), np.empty(len(vertices), np.int32), flat, source,
        uv_faces, start,
    )  # fmt: skip
    return Charts(chart, axes, flat[:rows].copy(), source[:rows].copy(), uv_faces, start)


def find_rings(charts: Charts, twin: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return which large charts fill little of their outline, as rings do; bool [C]."""
    area, (low, box) = charts.areas(), charts.boxes()
    is_ring = area > _RING_SHARE * area.sum()
    large = np.flatnonzero(is_ring)  # fewer than 100
    if large.size == 0:
        return is_ring
    # A coarse grid: about a thousand cells in the smallest charts that matter, fewer for needles.
    scale = np.sqrt(1000.0 / (_RING_SHARE * float(area.sum())))
    longest = min(1 << 14, _RING_CELLS // large.size)
    scales = np.full(charts.count, scale)
    scales[large] = np.minimum(scale, longest / np.maximum(box[large].max(axis=1), 1e-300))
    flat = (charts.flat - np.repeat(low, np.diff(charts.start), axis=0)) * np.repeat(
        scales, np.diff(charts.start)
    )[:, None]
    edges, owner = chart_rims(charts.uv_faces, charts.chart, twin)
    is_outlined = is_ring[owner]
    edges, owner = edges[is_outlined], np.searchsorted(large, owner[is_outlined]).astype(np.int32)
    cells = np.ceil(box[large] * scales[large, None]).astype(np.int64) + 1
    outlined = outlined_cells(*outlines(flat, edges, owner, 1.0, 0, cells), cells)
    outline_area = outlined.max(axis=0) / (scales[large] * scales[large])
    is_ring[large] = area[large] < _RING_FILL * outline_area
    return is_ring


def halve(
    mesh: Mesh, charts: Charts, twin: NDArray[np.int32], is_halved: NDArray[np.bool_]
) -> Charts:
    """Cut some charts in two, across their longer side.

    The halves keep the axis of the chart. A half that is not connected becomes several charts.

    Args:
        mesh: of the charts.
        charts: before the cut.
        twin: int32 [3 F], see `adjacency.twins`.
        is_halved: bool [C].
    """
    chart = charts.chart
    low, box = charts.boxes()
    axis = np.argmax(box, axis=1)[chart]
    middle = (low + 0.5 * box)[chart, axis]
    centre = charts.flat[charts.uv_faces, axis[:, None]].mean(axis=1)
    label = (2 * chart + (is_halved[chart] & (centre > middle))).astype(np.int32)
    halves = np.empty_like(label)
    count = call(grouping.connected_components, twin, label, halves, np.empty_like(label))
    axes = np.empty((count, 3), np.float32)
    axes[halves] = charts.axes[label // 2]
    return project_charts(mesh, halves, axes)


def flatten(mesh: Mesh, charts: Charts, density: float, size_px: int) -> None:
    """Reduce the distortion of the charts, by changing `charts.flat` in place.

    Args:
        mesh: of the charts.
        charts: as projected.
        density: texels per unit of length.
        size_px: edge of the texture, texels.
    """
    order, first = _faces_by_chart(charts.chart)
    parallel_for(
        kernels.fit_polynomials, charts.count, mesh.vertices, mesh.faces, order, first,
        charts.uv_faces, charts.start, charts.flat, _DEGREE, _ITERATIONS, _SAMPLES, grain=1,
    )  # fmt: skip
    extent = charts.boxes()[1]
    scales = np.minimum(density, (2 * size_px - 4) / np.maximum(extent.max(axis=1), 1e-20))
    cells = ((extent * scales[:, None]).astype(np.int64) + 4).prod(axis=1)
    cells[np.diff(first) == 1] = 0
    limit = _largest_grid(cells, len(charts.chart), size_px)
    parallel_for(
        kernels.relax_charts, charts.count, mesh.vertices, mesh.faces, order, first,
        charts.uv_faces, charts.start, charts.flat, _RELAXATIONS, density, 2 * size_px,
        np.full(charts.count, limit if int(cells.max()) > limit else np.inf), grain=1,
    )  # fmt: skip


def _faces_by_chart(chart: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Sort the faces by chart.

    Returns:
        order: int32 [F], faces.
        first: int32 [C + 1], index in `order` at which the faces of a chart start.
    """
    order = np.empty(len(chart), np.int32)
    first = np.zeros(int(chart.max()) + 2, np.int32)
    call(kernels.list_faces, chart, first, order)
    return order, first


def _largest_grid(cells: NDArray[np.int64], face_count: int, size_px: int) -> float:
    """Return the largest number of cells of a grid with which all grids together are bounded.

    Long, thin charts across the grid's diagonal, of which a mesh may consist, would take more.

    Args:
        cells: int64 [C], wanted cells of each chart.
        face_count: faces of the mesh.
        size_px: edge of the texture, texels.
    """
    budget = float(_GRID_TEXTURES * size_px * size_px + _GRID_CELLS * face_count)
    if float(cells.sum()) <= budget:
        return np.inf
    ascending = np.sort(cells)
    # If the charts from number i on have the same grid as chart i:
    others = np.arange(len(cells), 0, -1)
    whole = np.cumsum(ascending) - ascending + others * ascending
    i = int(np.searchsorted(whole, budget))
    return max((budget - float(ascending[:i].sum())) / float(others[i]), 1.0)
