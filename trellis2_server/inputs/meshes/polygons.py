"""Split polygons into triangles.

A fan around the first corner, where it covers the polygon: it does for convex ones. Other polygons
are cut by the library earcut, also those with a hole that a seam joins to the outline.

Does not know: file formats.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from trellis2_server.errors import MissingPackageError, TooLargeError
from trellis2_server.inputs.meshes.scene import check_corners, check_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_TRIANGLE: Final = 3
_QUAD: Final = 4
#: Triangles of fans that are looked at together.
_FANS_AT_ONCE: Final = 1 << 17
#: Area by which a triangle may be turned over, relative to its edges: rounded coordinates.
_FLAT: Final = 1e-9
#: Limit on the work for polygons that need earcut, in units of some nanoseconds: the square of the
#: corners of each, which is its time for an outline made to be slow, and something for each. The
#: largest polygon is within it.
_MAX_WORK: Final = 5_000_000_000
#: Factor for an outline that goes through the same points again and again. A hole costs two.
_REPEATED: Final = 10
_WORK_EACH: Final = 50_000


def triangulate(
    corners: NDArray[Any], sizes: NDArray[Any], positions: NDArray[Any]
) -> NDArray[np.int64]:
    """Return the triangles of all polygons, in the order of the polygons.

    Args:
        corners: integers [C], of all polygons.
        sizes: numbers of corners; polygons with fewer than three have no triangle.
        positions: [N, 3]; the corners refer to them, which is checked before.

    Returns:
        int64 [F, 3]; a polygon of n corners has n - 2, with its side outside.

    Raises:
        MissingPackageError: a polygon needs mapbox_earcut, which is not installed.
        TooLargeError: there are more triangles, corners of a polygon, or concave polygons, than the
            limits allow.
    """
    sizes = np.asarray(sizes, np.int64)
    check_corners(int(sizes.max(initial=0)))
    triangles = np.maximum(sizes - 2, 0)
    check_size(0, int(triangles.sum()))
    corners = np.asarray(corners)
    if len(sizes) and (sizes == _TRIANGLE).all():
        return corners.reshape(-1, 3).astype(np.int64)
    first = np.cumsum(sizes) - sizes
    faces = _fans(corners, first, triangles)
    if len(triangles) and triangles.max() > 1:
        _mend(faces, corners, first, sizes, positions)
    return faces


def _fans(
    corners: NDArray[Any], first: NDArray[np.int64], triangles: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the fans around the first corners.

    Args:
        corners: of all polygons.
        first: index of each polygon's first corner.
        triangles: of each polygon.
    """
    count = int(triangles.sum())
    # The second corner of the triangle that follows is the next corner of the polygon.
    hubs = np.repeat(first, triangles)
    second = hubs + 1 + np.arange(count) - np.repeat(np.cumsum(triangles) - triangles, triangles)
    faces = np.empty((count, 3), np.int64)
    faces[:, 0] = corners[hubs]
    faces[:, 1] = corners[second]
    second += 1
    faces[:, 2] = corners[second]
    return faces


def _mend(
    faces: NDArray[np.int64],
    corners: NDArray[Any],
    first: NDArray[np.int64],
    sizes: NDArray[np.int64],
    positions: NDArray[Any],
) -> None:
    """Replace the fans that do not cover their polygons.

    Args:
        faces: of all polygons; changed.
        corners: of all polygons.
        first: index of each polygon's first corner.
        sizes: numbers of corners.
        positions: of the vertices.
    """
    rows = np.flatnonzero(sizes > _TRIANGLE)
    triangles = np.maximum(sizes - 2, 0)
    starts = np.cumsum(triangles) - triangles
    batches = np.cumsum(triangles[rows]) // _FANS_AT_ONCE
    work = 0
    for some in np.split(rows, np.flatnonzero(np.diff(batches)) + 1):
        count = triangles[some]
        begin = np.cumsum(count) - count
        within = np.repeat(starts[some] - begin, count) + np.arange(int(count.sum()))
        bad = some[_is_turned(faces[within], begin, count, positions)]
        quads = bad[sizes[bad] == _QUAD]
        _mend_quads(faces, corners, first[quads], starts[quads], positions)
        for row in bad[sizes[bad] > _QUAD].tolist():
            size, start = int(sizes[row]), int(starts[row])
            outline = corners[first[row] : first[row] + size]
            points = np.asarray(positions[outline], np.float64)
            work += _work(points)
            if work > _MAX_WORK:
                raise TooLargeError(
                    "mesh: too many concave faces of more than four corners, or one of too many"
                )
            found = _earcut(points)
            faces[start : start + size - 2] = outline[found] if len(found) else outline[0]


def _is_turned(
    faces: NDArray[np.int64],
    begin: NDArray[np.int64],
    count: NDArray[np.int64],
    positions: NDArray[Any],
) -> NDArray[np.bool_]:
    """Return which polygons have a triangle in their fan that is turned over.

    Args:
        faces: of the fans.
        begin: index of the first triangle of each polygon.
        count: number of triangles of each polygon, at least one.
        positions: of the vertices.
    """
    hub = np.asarray(positions[faces[:, 0]], np.float64)
    a, b = positions[faces[:, 1]] - hub, positions[faces[:, 2]] - hub
    areas = np.cross(a, b)
    normals = np.repeat(np.add.reduceat(areas, begin), count, axis=0)
    length = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1) * (normals * normals).sum(axis=1))
    is_turned = (areas * normals).sum(axis=1) < -_FLAT * length
    return np.logical_or.reduceat(is_turned, begin)


def _mend_quads(
    faces: NDArray[np.int64],
    corners: NDArray[Any],
    first: NDArray[np.int64],
    starts: NDArray[np.int64],
    positions: NDArray[Any],
) -> None:
    """Cut quads along the other diagonal, where both triangles then look to the same side."""
    quads = np.asarray(corners, np.int64)[first[:, None] + np.arange(_QUAD)]
    other = quads[:, [1, 2, 3, 1, 3, 0]].reshape(-1, 3)
    begin = np.arange(0, len(other), 2)
    if not len(begin):
        return
    is_right = ~_is_turned(other, begin, np.full(len(begin), 2), positions)
    pairs = other.reshape(-1, 2, 3)[is_right]
    faces[starts[is_right]] = pairs[:, 0]
    faces[starts[is_right] + 1] = pairs[:, 1]


def load_earcut() -> Callable[[NDArray[np.float64], NDArray[np.uint32]], NDArray[np.uint32]]:
    """Return earcut's function: corners [N, 2] and the ends of rings → indices [3 T].

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import mapbox_earcut  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingPackageError(
            "Meshes with concave polygons need mapbox_earcut: run `pip install mapbox_earcut`."
        ) from error
    return cast("Any", mapbox_earcut).triangulate_float64


def _work(outline: NDArray[np.float64]) -> int:
    """Return a bound on the work that a polygon is."""
    different = len(np.unique(outline @ (1, 1j, 1 + 1j)))
    factor = 1 if 2 * different >= len(outline) else _REPEATED
    return factor * len(outline) ** 2 + _WORK_EACH


def _earcut(outline: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return triangles that cover a polygon, int64 [N - 2, 3], rows of the outline.

    Empty if the polygon has no area. A self-intersecting one is covered as well as possible.

    Args:
        outline: float64 [N, 3], in one plane.
    """
    rows = outline - outline[0]
    normal = np.cross(rows[:-1], rows[1:]).sum(axis=0)
    axis = int(np.abs(normal).argmax())
    if not np.isfinite(normal).all() or not normal[axis]:
        return np.empty((0, 3), np.int64)
    flat = np.ascontiguousarray(np.delete(rows, axis, axis=1))
    # Numbers far from 1 exceed the library's range.
    flat /= np.abs(flat).max()
    ends = np.array([len(flat)], np.uint32)
    faces = load_earcut()(flat, ends).astype(np.int64).reshape(-1, 3)
    a, b, c = (rows[faces[:, k]] for k in range(3))
    if (np.cross(b - a, c - a).sum(axis=0) * normal).sum() < 0:
        faces = faces[:, ::-1]
    return _with_all_corners(faces, len(outline))


def _with_all_corners(faces: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Put the corners in that the library left out because they lie on a straight edge.

    Neighbours of the polygon use them: without them, the surface would be open there.

    Args:
        faces: of the other corners.
        count: of all corners.

    Returns:
        int64 [count - 2, 3]; where the library left a part out, triangles without area.
    """
    is_used = np.zeros(count, bool)
    is_used[faces] = True
    triangles: list[list[int]] = faces.tolist()
    if not is_used.all():
        used = np.flatnonzero(is_used).tolist()
        edges = {
            (face[k], face[(k + 1) % 3]): (at, k)
            for at, face in enumerate(triangles)
            for k in (0, 1, 2)
        }
        for a, b in zip(used, [*used[1:], *used[:1]], strict=True):
            between = [at % count for at in range(a + 1, b if b > a else b + count)]
            if not between or (a, b) not in edges:
                continue
            at, k = edges[a, b]
            face = triangles[at]
            apex = face[(k + 2) % 3]
            chain = [a, *between, b]
            pieces = [[p, q, apex] for p, q in pairwise(chain)]
            triangles[at] = pieces[0]
            triangles += pieces[1:]
            for place, piece in ((at, pieces[0]), (len(triangles) - 1, pieces[-1])):
                for corner in (0, 1, 2):
                    edges[piece[corner], piece[(corner + 1) % 3]] = (place, corner)
    triangles += [[0, 0, 0]] * (count - 2 - len(triangles))
    return np.array(triangles[: count - 2], np.int64).reshape(-1, 3)
