"""Remesh any mesh, closed or open, into watertight shells.

The corners of a grid are classified as outside or inside. Outside are those that a flood from far
away reaches without crossing the surface. It passes gaps of more than about three cells, but not
smaller ones. A sheet with outside on both sides gets a shell half a cell from it.

The boundary is contoured with a vertex for each sheet of surface in a cell, placed where the planes
of the surface at the cell's edges intersect, so that creases stay sharp: dual contouring (Ju,
Losasso, Schaefer and Warren, "Dual Contouring of Hermite Data", 2002) with the topology of dual
marching cubes (Nielson, 2004). Where two strips of surface run through a face of a cell between the
same two vertices, each strip gets an additional vertex, so that each edge has exactly two faces.

Does not know: colours, files, the number of faces.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.errors import ExportError
from trellis2_server.export.cancellation import call
from trellis2_server.export.kernels import remesh as kernels
from trellis2_server.export.parallel import parallel_for
from trellis2_server.mesh import Mesh
from trellis2_server.reports import stage_report

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from trellis2_server.reports import Report

#: Cells around the bounding box of the mesh, enough for the flood to surround it.
_MARGIN: Final = 5.0
#: Offset of the grid against the grids of the engines, on whose planes flat walls often lie, cells.
_SHIFT: Final = np.array([0.137, 0.291, 0.413])
#: Distance from a face up to which a brick lists it, and largest distance of the boundary from any
#: face, cells.
_REACH, _FARTHEST = 1.5, 5.0
#: Maximum number of cells along an edge of the grid, and of bricks near the surface, 0.7 KB each.
_MAX_SIDE: Final = 4096
_MAX_BRICKS: Final = 4_000_000


def remesh(mesh: Mesh, resolution: int, report: Report | None = None) -> Mesh:
    """Return a closed mesh, wound outward, with one shell for each connected solid.

    Where the mesh encloses a volume, its surface stays in place and everything inside is dropped. A
    sheet becomes a shell with a thickness of one cell.

    Args:
        mesh: checked.
        resolution: cells along an edge of the unit cube.
        report: called between steps with "remesh", the step and the number of steps.

    Raises:
        ExportError: the mesh is too small for this resolution, or too large.
    """
    finished = stage_report(report, "remesh", 6)
    finished(0)
    faces = mesh.faces
    low = mesh.vertices.min(axis=0).astype(np.float64)
    extent = mesh.vertices.max(axis=0).astype(np.float64) - low
    if float(extent.max()) * resolution > _MAX_SIDE:
        raise ExportError("The mesh is too large to be remeshed at this resolution.")
    low -= (_MARGIN + _SHIFT) / resolution
    grid = np.empty(mesh.vertices.shape)
    parallel_for(kernels.to_grid, len(grid), mesh.vertices, low, float(resolution), grid)
    sides = np.ceil((extent * resolution + 2 * _MARGIN + 2) / 8).astype(int)
    box, place = _bricks(grid, faces, sides)
    first, members = _members(grid, faces, box, len(place))
    finished(1)
    corners = _classify(grid, faces, box, place, first, members, finished)
    finished(4)
    vertices, new_faces = _contour(
        grid, faces, box, place, first, members, corners, low, resolution, finished
    )
    finished(6)
    return Mesh(vertices, new_faces)


@dataclass(frozen=True, slots=True, eq=False)
class _Corners:
    """Masks of the outside corners, and values of bricks without masks.

    Attributes:
        sheets: uint64 [bricks, 8], with sheets of no thickness.
        sheets_absent: uint8 [X, Y, Z], the same for bricks without masks.
        shells: uint64 [bricks, 8], with sheets one cell thick.
        shells_absent: uint8 [X, Y, Z], the same for bricks without masks.
    """

    sheets: NDArray[np.uint64]
    sheets_absent: NDArray[np.uint8]
    shells: NDArray[np.uint64]
    shells_absent: NDArray[np.uint8]


def _classify(  # noqa: PLR0913, PLR0917 - the grid and its contents
    grid: NDArray[np.float64],
    faces: NDArray[np.int32],
    box: NDArray[np.int32],
    place: NDArray[np.int64],
    first: NDArray[np.int64],
    members: NDArray[np.int32],
    finished: Callable[[int], None],
) -> _Corners:
    """Classify the corners of the grid as outside or inside."""
    count = len(place)
    crossed, near_low, near_high = (np.zeros((3, count, 8), np.uint64) for _ in range(3))
    parallel_for(
        kernels.mark_crossings, count, grid, faces, place, first, members, crossed, near_low,
        near_high, grain=64,
    )  # fmt: skip
    finished(2)
    outside, absent = _find_outside(box, place, tuple(crossed))
    finished(3)
    near_sheets = np.empty((count, 8), np.uint64)
    parallel_for(
        kernels.mark_sheets, count, box, place, outside, absent, tuple(near_low), tuple(near_high),
        np.zeros_like(absent), near_sheets, grain=512,
    )  # fmt: skip
    # Flood again: corners that the shells of sheets enclose are inside.
    shells, shells_absent = np.zeros((count, 8), np.uint64), np.zeros_like(absent)
    call(kernels.flood, box, outside & ~near_sheets, shells, shells_absent)
    return _Corners(outside, absent, shells, shells_absent)


def _contour(  # noqa: PLR0913, PLR0917 - the grid and its contents
    grid: NDArray[np.float64],
    faces: NDArray[np.int32],
    box: NDArray[np.int32],
    place: NDArray[np.int64],
    first: NDArray[np.int64],
    members: NDArray[np.int32],
    corners: _Corners,
    low: NDArray[np.float64],
    resolution: int,
    finished: Callable[[int], None],
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return the vertices and faces of the boundary between outside and inside.

    Raises:
        ExportError: there is no boundary, or it would have too many faces.
    """
    count, sheets = len(place), _sheets()
    shells, absent = corners.shells, corners.shells_absent
    counts = np.empty((count, 3), np.int64)
    parallel_for(
        kernels.count_elements, count, box, place, shells, absent, sheets, counts, grain=64
    )
    bricks = np.flatnonzero(counts[:, 0])
    if bricks.size == 0:
        raise ExportError("Nothing remains of the mesh at this resolution.")
    rows = np.full(count, -1, np.int32)
    rows[bricks] = np.arange(bricks.size, dtype=np.int32)
    starts = np.zeros((bricks.size + 1, 3), np.int64)
    np.cumsum(counts[bricks], axis=0, out=starts[1:])
    first_vertex, first_double, first_face = (np.ascontiguousarray(starts[:, i]) for i in range(3))
    if int(first_face[-1]) >= 1 << 30:
        raise ExportError("The remeshed surface would have more than 10^9 faces.")
    vertices = np.empty((int(first_vertex[-1] + 2 * first_double[-1]), 3), np.float32)
    cells = np.empty((bricks.size, 512), np.uint16)
    doubles = np.empty(int(first_double[-1]), np.int16)
    parallel_for(
        kernels.create_vertices, bricks.size, bricks, grid, faces, box, place, first, members,
        shells, absent, corners.sheets, corners.sheets_absent, sheets,
        first_vertex, first_double, cells, doubles, low, float(resolution), vertices, grain=32,
    )  # fmt: skip
    finished(5)
    new_faces = np.empty((int(first_face[-1]), 3), np.int32)
    parallel_for(
        kernels.create_faces, bricks.size, bricks, box, place, rows, shells, absent, sheets,
        first_vertex, first_double, first_face, cells, doubles, vertices, new_faces, grain=32,
    )  # fmt: skip
    return vertices, new_faces


def _bricks(
    grid: NDArray[np.float64], faces: NDArray[np.int32], sides: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the bricks that can contain the boundary.

    Returns:
        box: int32 [X, Y, Z], the number of each brick, -1: not near the surface.
        place: int64 [bricks, 3], the position of each brick.

    Raises:
        ExportError: there are too many.
    """
    box = np.full(tuple(sides), -1, np.int32)
    nothing = np.zeros(1, np.int64), np.empty(0, np.int32)
    call(kernels.bin_faces, grid, faces, _FARTHEST, box, 0, *nothing)
    count = call(kernels.number_bricks, box, np.empty((0, 3), np.int64))
    if count > _MAX_BRICKS:
        raise ExportError("The mesh is too large to be remeshed at this resolution.")
    place = np.empty((count, 3), np.int64)
    call(kernels.number_bricks, box, place)
    return box, place


def _members(
    grid: NDArray[np.float64], faces: NDArray[np.int32], box: NDArray[np.int32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """List the faces near each brick: `members[first[b]:first[b + 1]]`, ascending."""
    first = np.zeros(count + 1, np.int64)
    call(kernels.bin_faces, grid, faces, _REACH, box, 1, first, np.empty(0, np.int32))
    np.cumsum(first, out=first)
    members = np.empty(int(first[-1]), np.int32)
    # `bin_faces` moves each start to its stop.
    call(kernels.bin_faces, grid, faces, _REACH, box, 2, first, members)
    first[1:] = first[:-1].copy()
    first[0] = 0
    return first, members


def _find_outside(
    box: NDArray[np.int32], place: NDArray[np.int64], crossed: tuple[NDArray[np.uint64], ...]
) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """Find the outside corners, with sheets of no thickness.

    Returns:
        uint64 [bricks, 8], masks of the outside corners.
        uint8 [X, Y, Z], the value of bricks without masks.
    """
    count = len(place)
    absent = np.zeros(box.shape, np.uint8)
    ends, near = np.empty((count, 8), np.uint64), np.empty((count, 8), np.uint64)
    parallel_for(kernels.mark_edge_ends, count, box, place, crossed, absent, ends, grain=512)
    # The flood keeps a cell away from the surface: it does not enter small gaps.
    parallel_for(kernels.dilate, count, box, place, ends, absent, near, grain=512)
    far = ~near
    outside = np.zeros((count, 8), np.uint64)
    call(kernels.flood, box, far, outside, absent)
    inside = far & ~outside
    call(kernels.grow_regions, box, place, crossed, outside, inside, absent, np.uint8(1) - absent)
    return outside, absent


@cache
def _sheets() -> NDArray[np.uint8]:
    """Return the sheet of surface at each edge of a cell, for each of the 256 codes of a cell.

    Bit 4 i + 2 j + k of a code is set if corner (i, j, k) is inside. Edges are numbered 4 axis +
    2 s + t, at offsets s and t along the next two axes. If the corners of a face alternate between
    inside and outside, the surface goes around the outside ones.

    Returns:
        uint8 [256, 13], 255 for an edge without surface; the last column is the number of sheets.
    """
    table = np.full((256, 13), 255, np.uint8)
    for code in range(256):
        table[code, 12] = 0
        links: dict[int, list[int]] = {}
        for axis, side in product(range(3), range(2)):
            for edge, other in _strips(code, axis, side):
                links.setdefault(edge, []).append(other)
                links.setdefault(other, []).append(edge)
        for edge in sorted(links):
            if table[code, edge] != 255:  # noqa: PLR2004
                continue
            pending = [edge]
            while pending:
                table[code, pending[-1]] = table[code, 12]
                pending += [e for e in links[pending.pop()] if table[code, e] == 255]  # noqa: PLR2004
            table[code, 12] += 1
    return table


def _strips(code: int, axis: int, side: int) -> list[tuple[int, int]]:
    """Return the pairs of edges that strips of surface connect across a face of a cell.

    Args:
        code: of the cell.
        axis: normal of the face.
        side: of the cell on which the face is, 0 or 1.
    """
    m, n = (axis + 1) % 3, (axis + 2) % 3

    def is_inside(s: int, t: int) -> bool:
        at = {axis: side, m: s, n: t}
        return bool(code >> (4 * at[0] + 2 * at[1] + at[2]) & 1)

    along_m = [4 * m + 2 * t + side for t in range(2) if is_inside(0, t) != is_inside(1, t)]
    along_n = [4 * n + 2 * side + s for s in range(2) if is_inside(s, 0) != is_inside(s, 1)]
    if len(along_m + along_n) <= 2:  # noqa: PLR2004
        return [tuple(along_m + along_n)] if along_m + along_n else []  # pyright: ignore[reportReturnType]
    return [
        (4 * m + 2 * t + side, 4 * n + 2 * side + s)
        for s, t in product(range(2), repeat=2)
        if not is_inside(s, t)
    ]
