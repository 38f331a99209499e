"""One watertight shell around whatever a mesh is: closed, open, torn, full of inner walls.

The grid's corners are divided into outside and inside: outside is what a flood from far away
reaches without crossing the surface, through gaps of more than about three cells but not
through smaller ones. A sheet with outside on both sides gets a shell half a cell from it. The
boundary between the two is contoured with a vertex for each sheet of surface in a cell, placed
where the planes of the surface that cross its edges meet, so that creases stay sharp: dual
contouring (Ju, Losasso, Schaefer and Warren, "Dual Contouring of Hermite Data", 2002) with the
topology of dual marching cubes (Nielson, 2004). Where two strips of surface run through one
face of a cell between the same two vertices, each strip gets a vertex of its own, so every
edge has exactly two faces.

What this module does not know: colours, files, how many faces are wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.errors import ExportError
from trellis2_server.export.kernel import spread
from trellis2_server.export.kernels import remesh as kernels
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

#: Cells around the mesh's box: more than the flood needs to get around it.
_MARGIN: Final = 5.0
#: The grid is shifted against the engines' own, on whose planes flat walls often lie.
_SHIFT: Final = np.array([0.137, 0.291, 0.413])
#: How far from a face, in cells, its brick looks; how far the boundary can be from any face.
_REACH, _FARTHEST = 1.5, 5.0
#: Cells along an edge of the grid at most, and bricks near the surface: 0.7 KB each.
_MAX_SIDE: Final = 4096
_MAX_BRICKS: Final = 4_000_000


def remesh(
    mesh: Mesh, resolution: int, report: Callable[[str, int, int], None] | None = None
) -> Mesh:
    """A closed mesh, wound outward, around the same shape: one shell a connected solid.

    Where the mesh encloses a volume its surface stays in place; what lies inside goes. A
    sheet becomes a shell of one cell's thickness.

    Args:
        mesh: checked.
        resolution: cells along an edge of the unit cube.
        report: called between steps with "remesh", the step and their number.

    Raises:
        ExportError: the mesh is too small to be seen at this resolution, or far too large.
    """
    steps = 6

    def tell(step: int) -> None:
        if report:
            report("remesh", step, steps)

    tell(0)
    faces = mesh.faces
    low = mesh.vertices.min(axis=0).astype(np.float64)
    extent = mesh.vertices.max(axis=0).astype(np.float64) - low
    if float(extent.max()) * resolution > _MAX_SIDE:
        raise ExportError("The mesh is too large to be remeshed at this resolution.")
    low -= (_MARGIN + _SHIFT) / resolution
    grid = np.empty(mesh.vertices.shape)
    spread(kernels.to_grid, len(grid), mesh.vertices, low, float(resolution), grid)
    sides = np.ceil((extent * resolution + 2 * _MARGIN + 2) / 8).astype(int)
    box, place = _bricks(grid, faces, sides)
    first, members = _members(grid, faces, box, len(place))
    tell(1)
    reached = _divide(grid, faces, box, place, first, members, tell)
    tell(4)
    vertices, wrapped = _contour(
        grid, faces, box, place, first, members, reached, low, resolution, tell
    )
    tell(6)
    return Mesh(vertices, wrapped)


@dataclass(frozen=True, slots=True, eq=False)
class _Reached:
    """Which corners are outside: uint64 [bricks, 8], and uint8 [X, Y, Z] for other bricks.

    Attributes:
        outside: before sheets got their thickness.
        absent: the same of bricks without masks.
        shell: with their thickness.
        beyond: the same of bricks without masks.
    """

    outside: NDArray[np.uint64]
    absent: NDArray[np.uint8]
    shell: NDArray[np.uint64]
    beyond: NDArray[np.uint8]


def _divide(  # noqa: PLR0913, PLR0917 - the grid, and what lies in it
    grid: NDArray[np.float64],
    faces: NDArray[np.int32],
    box: NDArray[np.int32],
    place: NDArray[np.int64],
    first: NDArray[np.int64],
    members: NDArray[np.int32],
    tell: Callable[[int], None],
) -> _Reached:
    """The corners of the grid, divided into outside and inside."""
    count = len(place)
    crossed, near_low, near_high = (np.zeros((3, count, 8), np.uint64) for _ in range(3))
    spread(
        kernels.cross, count, grid, faces, place, first, members, crossed, near_low, near_high,
        grain=64,
    )  # fmt: skip
    tell(2)
    outside, absent = _reach(box, place, tuple(crossed))
    tell(3)
    thin = np.empty((count, 8), np.uint64)
    spread(
        kernels.thicken, count, box, place, outside, absent, tuple(near_low), tuple(near_high),
        np.zeros_like(absent), thin, grain=512,
    )  # fmt: skip
    # Once more: what the shells of sheets have cut off is inside.
    shell, beyond = np.zeros((count, 8), np.uint64), np.zeros_like(absent)
    kernels.flood(box, outside & ~thin, shell, beyond)
    return _Reached(outside, absent, shell, beyond)


def _contour(  # noqa: PLR0913, PLR0917 - the grid, and what lies in it
    grid: NDArray[np.float64],
    faces: NDArray[np.int32],
    box: NDArray[np.int32],
    place: NDArray[np.int64],
    first: NDArray[np.int64],
    members: NDArray[np.int32],
    reached: _Reached,
    low: NDArray[np.float64],
    resolution: int,
    tell: Callable[[int], None],
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Vertices and faces of the boundary between outside and inside.

    Raises:
        ExportError: there is none, or far too much of it.
    """
    count, sheets = len(place), _sheets()
    shell, beyond = reached.shell, reached.beyond
    counts = np.empty((count, 3), np.int64)
    spread(kernels.survey, count, box, place, shell, beyond, sheets, counts, grain=64)
    bricks = np.flatnonzero(counts[:, 0])
    if bricks.size == 0:
        raise ExportError("Nothing of the mesh is left at this resolution.")
    rows = np.full(count, -1, np.int32)
    rows[bricks] = np.arange(bricks.size, dtype=np.int32)
    starts = np.zeros((bricks.size + 1, 3), np.int64)
    np.cumsum(counts[bricks], axis=0, out=starts[1:])
    first_vertex, first_double, first_face = (np.ascontiguousarray(starts[:, i]) for i in range(3))
    if int(first_face[-1]) >= 1 << 30:
        raise ExportError("The remeshed surface would have over a milliard faces.")
    vertices = np.empty((int(first_vertex[-1] + 2 * first_double[-1]), 3), np.float32)
    cells = np.empty((bricks.size, 512), np.uint16)
    doubles = np.empty(int(first_double[-1]), np.int16)
    spread(
        kernels.wrap, bricks.size, bricks, grid, faces, box, place, first, members,
        shell, beyond, reached.outside, reached.absent, sheets,
        first_vertex, first_double, cells, doubles, low, float(resolution), vertices, grain=32,
    )  # fmt: skip
    tell(5)
    wrapped = np.empty((int(first_face[-1]), 3), np.int32)
    spread(
        kernels.connect, bricks.size, bricks, box, place, rows, shell, beyond, sheets,
        first_vertex, first_double, first_face, cells, doubles, vertices, wrapped, grain=32,
    )  # fmt: skip
    return vertices, wrapped


def _bricks(
    grid: NDArray[np.float64], faces: NDArray[np.int32], sides: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The bricks in which the boundary can be.

    Returns:
        box: int32 [X, Y, Z], the number of each brick, -1: not near the surface.
        place: int64 [bricks, 3], where each is.

    Raises:
        ExportError: they are far too many.
    """
    box = np.full(tuple(sides), -1, np.int32)
    nothing = np.zeros(1, np.int64), np.empty(0, np.int32)
    kernels.bin_faces(grid, faces, _FARTHEST, box, 0, *nothing)
    count = kernels.number(box, np.empty((0, 3), np.int64))
    if count > _MAX_BRICKS:
        raise ExportError("The mesh is too large to be remeshed at this resolution.")
    place = np.empty((count, 3), np.int64)
    kernels.number(box, place)
    return box, place


def _members(
    grid: NDArray[np.float64], faces: NDArray[np.int32], box: NDArray[np.int32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The faces that each brick looks at: `members[first[b]:first[b + 1]]`, ascending."""
    first = np.zeros(count + 1, np.int64)
    kernels.bin_faces(grid, faces, _REACH, box, 1, first, np.empty(0, np.int32))
    np.cumsum(first, out=first)
    members = np.empty(int(first[-1]), np.int32)
    # Filling moves every start to its stop.
    kernels.bin_faces(grid, faces, _REACH, box, 2, first, members)
    first[1:] = first[:-1].copy()
    first[0] = 0
    return first, members


def _reach(
    box: NDArray[np.int32], place: NDArray[np.int64], crossed: tuple[NDArray[np.uint64], ...]
) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """Which corners are outside: uint64 [bricks, 8], and uint8 [X, Y, Z] for other bricks."""
    count = len(place)
    absent = np.zeros(box.shape, np.uint8)
    ends, near = np.empty((count, 8), np.uint64), np.empty((count, 8), np.uint64)
    spread(kernels.ends, count, box, place, crossed, absent, ends, grain=512)
    # The flood keeps a cell away from the surface, so it does not enter small gaps.
    spread(kernels.widen, count, box, place, ends, absent, near, grain=512)
    far = ~near
    outside = np.zeros((count, 8), np.uint64)
    kernels.flood(box, far, outside, absent)
    inside = far & ~outside
    kernels.compete(box, place, crossed, outside, inside, absent, np.uint8(1) - absent)
    return outside, absent


@cache
def _sheets() -> NDArray[np.uint8]:
    """For each of the 256 kinds of cell: the sheet of surface on each edge, and their number.

    Bit 4 i + 2 j + k of a kind says that corner (i, j, k) is inside. Edges are numbered as
    4 axis + 2 s + t, at offsets s and t along the next two axes. Where the corners of a face
    are inside and outside in turn, the surface runs round the outside ones.

    Returns:
        uint8 [256, 13]: 255 for an edge without surface; the last column is the number.
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
            waiting = [edge]
            while waiting:
                table[code, waiting[-1]] = table[code, 12]
                waiting += [e for e in links[waiting.pop()] if table[code, e] == 255]  # noqa: PLR2004
            table[code, 12] += 1
    return table


def _strips(code: int, axis: int, side: int) -> list[tuple[int, int]]:
    """The pairs of edges that strips of surface join across a face of a cell.

    Args:
        code: of the cell.
        axis: normal of the face.
        side: 0 or 1, which of the two.
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
