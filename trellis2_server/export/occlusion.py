"""Bake ambient occlusion: how much of its surroundings each point of the surface sees.

Rays start at the centres of faces, whose long edges are split before, cosine-weighted around the
normal, a few at each. The mean over neighbours that face the same way removes their noise; texels
interpolate it. That follows the surface across the borders of charts, unlike a filter of texels,
and stops at sharp edges.

Does not know: colours, image formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.export.adjacency import corner_lists, is_watertight, twins
from trellis2_server.export.cancellation import call, check
from trellis2_server.export.gaps import fill_gaps
from trellis2_server.export.kernels import maps
from trellis2_server.export.kernels import occlusion as kernels
from trellis2_server.export.parallel import parallel_for
from trellis2_server.export.triangle_tree import TriangleTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.export.atlas import Atlas
    from trellis2_server.mesh import Mesh

#: Approximate number of rays of a whole mesh, and limits for a face. Open meshes have sheets and
#: walls close to each other, where neighbours differ more.
_ALL_RAYS, _ALL_OPEN_RAYS = 400_000, 600_000
_MIN_RAYS, _MIN_OPEN_RAYS, _MAX_RAYS = 2, 3, 64
#: Number of times that each face gets the mean of its neighbours, for few rays and for many.
_SMOOTHINGS: Final = (2, 1)
_MANY_RAYS: Final = 16
#: One of so many rays is traced before the others.
_PROBED: Final = 4
#: A face that sees less than this is perhaps wound inward, or the inside of a sheet.
DARK: Final = 0.125
#: Edges are split until an evenly divided surface would have about this many faces …
_WANTED_FACES: Final = 100_000
#: … or the mesh has this many, at most.
_MAX_FACES: Final = 500_000
_MAX_SPLITS: Final = 10
#: Distance of the start of a ray from the surface, in edges of the mesh's box.
_LIFT: Final = 1e-4
#: The corners 0 … 2 and the middles 3 … 5 of the edges after them that become faces, for each set
#: of split edges.
_SPLITS: Final = (
    (),
    ((0, 3, 2), (3, 1, 2)),
    ((1, 4, 0), (4, 2, 0)),
    ((3, 1, 4), (0, 3, 4), (0, 4, 2)),
    ((2, 5, 1), (5, 0, 1)),
    ((5, 0, 3), (2, 5, 3), (2, 3, 1)),
    ((4, 2, 5), (1, 4, 5), (1, 5, 0)),
    ((0, 3, 5), (3, 1, 4), (5, 4, 2), (3, 4, 5)),
)


@dataclass(frozen=True, slots=True, eq=False)
class _Surface:
    """A mesh whose long edges have been split.

    Attributes:
        vertices: float32 [N, 3].
        faces: int32 [F, 3].
        whole: int32 [F], the face of the mesh of which each face is a part.
        shares: float32 [F, 3, 3], barycentric coordinates of each corner in that face.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    whole: NDArray[np.int32]
    shares: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Occlusion:
    """How much of its surroundings a surface sees, linear in parts of its faces.

    Attributes:
        whole: int32 [P], the face of the mesh that each part belongs to.
        shares: float32 [P, 3, 3], barycentric coordinates of each corner in that face.
        values: float32 [P, 3], share of open rays at each corner, 0 … 1.
    """

    whole: NDArray[np.int32]
    shares: NDArray[np.float32]
    values: NDArray[np.float32]


def measure_occlusion(mesh: Mesh) -> Occlusion:
    """Trace rays from the whole surface.

    Args:
        mesh: checked. What is dark on one side gets the value of its other side if that is
            brighter, unless the mesh is closed: a face may be wound inward, or part of a sheet.
    """
    surface = _split(mesh)
    faces, count = surface.faces, len(surface.faces)
    first, corners = corner_lists(faces, len(surface.vertices))
    points, normals = np.empty((2, count, 3), np.float32)
    parallel_for(kernels.place_faces, count, surface.vertices, faces, points, normals)
    is_closed = is_watertight(mesh.faces, twins(mesh.faces, len(mesh.vertices)))
    tree, rays = TriangleTree(mesh), ray_count(count, is_closed=is_closed)

    def smooth(values: NDArray[np.float32]) -> NDArray[np.float32]:
        for _ in range(_SMOOTHINGS[rays >= _MANY_RAYS]):
            smoothed = np.empty_like(values)
            parallel_for(
                kernels.smooth_faces, count, faces, first, corners, normals, values, smoothed
            )
            values = smoothed
        return values

    values = smooth(_front_openness(tree, surface, points, normals, rays))
    if not is_closed:
        dark = np.flatnonzero(values < DARK)
        values = smooth(openness(tree, points, normals, rays, (dark, values)))
    at_corners = np.empty((count, 3), np.float32)
    parallel_for(
        kernels.spread_to_corners, count, faces, first, corners, normals, values, at_corners
    )
    return Occlusion(surface.whole, surface.shares, at_corners)


def draw_occlusion(occlusion: Occlusion, atlas: Atlas) -> NDArray[np.uint8]:
    """Return the share of open rays at each texel, uint8 [S, S]: 255 where nothing is in the way.

    Texels outside all faces get the values of the nearest ones.

    Args:
        occlusion: of the mesh.
        atlas: of the mesh.
    """
    size = atlas.size_px
    drawn, covered = np.zeros((size, size), np.uint8), np.zeros((size, size), np.uint8)
    flat = np.empty((len(occlusion.whole), 6), np.float32)
    parallel_for(
        maps.place_parts, len(flat), occlusion.whole, occlusion.shares, atlas.uv, atlas.faces,
        flat,
    )  # fmt: skip
    parallel_for(maps.draw_values, size, flat, occlusion.values, drawn, covered, grain=256)
    fill_gaps(drawn[..., None], covered)
    return drawn


def openness(
    tree: TriangleTree,
    points: NDArray[np.float32],
    normals: NDArray[np.float32],
    count: int,
    backs: tuple[NDArray[np.int64], NDArray[np.float32]] | None = None,
) -> NDArray[np.float32]:
    """Return the share of rays from each point that hit nothing, float32 [N].

    Args:
        tree: what rays may hit.
        points: float32 [N, 3], on the surface.
        normals: float32 [N, 3], unit length, or zero: such a point sees everything.
        count: number of rays of each point.
        backs: points whose back is looked at, and values of all points; the result is these values,
            or that of the back where it is greater.
    """
    if backs is None:
        chosen, values, side = np.arange(len(points)), np.zeros(len(points), np.float32), 1.0
    else:
        chosen, values, side = backs[0], backs[1].copy(), -1.0
    _trace(tree, points, normals, side, chosen, _directions(count), values)
    return values


def _front_openness(
    tree: TriangleTree,
    surface: _Surface,
    points: NDArray[np.float32],
    normals: NDArray[np.float32],
    count: int,
) -> NDArray[np.float32]:
    """Return the share of rays from each face that hit nothing, float32 [F].

    First a part of the rays is traced, everywhere. The others follow where one of these has hit
    something, or one from a face less than three vertices away.

    Args:
        tree: what rays may hit.
        surface: the faces.
        points: float32 [F, 3], their middles.
        normals: float32 [F, 3], see `openness`.
        count: number of rays of each face.
    """
    rays = _directions(count)
    is_first = np.arange(count) % _PROBED == min(1, count - 1)
    values, others = np.zeros((2, len(points)), np.float32)
    _trace(tree, points, normals, 1.0, np.arange(len(points)), rays[is_first], values)
    is_chosen = values < 1.0
    for _ in range(2):
        is_near = np.zeros(len(surface.vertices), bool)
        is_near[surface.faces[is_chosen]] = True
        is_chosen = is_near[surface.faces].any(axis=1)
        check()
    chosen = np.flatnonzero(is_chosen)
    if count > 1 and len(chosen):
        _trace(tree, points, normals, 1.0, chosen, rays[~is_first], others)
        share = np.float32(is_first.mean())
        values[chosen] = share * values[chosen] + (1 - share) * others[chosen]
    return values


def _directions(count: int) -> NDArray[np.float64]:
    """Return the rays of a point: square of the cosine of the elevation, turn; 0 … 1, [R, 2]."""
    numbers = np.arange(count, dtype=np.float64)
    columns = (numbers + 0.5) / count, numbers * 0.6180339887498949 % 1.0
    return np.stack(columns, axis=1, dtype=np.float64)


def _trace(  # noqa: PLR0913, PLR0917 - one argument per input
    tree: TriangleTree,
    points: NDArray[np.float32],
    normals: NDArray[np.float32],
    side: float,
    chosen: NDArray[np.int64],
    rays: NDArray[np.float64],
    values: NDArray[np.float32],
) -> None:
    """Set the values of chosen points to the share of open rays, if that is greater."""
    extent = float((tree.boxes[0, 3:] - tree.boxes[0, :3]).max())
    parallel_for(
        kernels.trace_points, len(chosen), points, normals, np.float32(side), chosen,
        np.ascontiguousarray(rays), tree.left, tree.right, tree.boxes, tree.gather_triangles(),
        np.float32(_LIFT * extent), values, grain=1024,
    )  # fmt: skip


def ray_count(points: int, *, is_closed: bool) -> int:
    """Return the number of rays of each of so many points of a mesh."""
    least = _MIN_RAYS if is_closed else _MIN_OPEN_RAYS
    return min(
        _MAX_RAYS, max(least, (_ALL_RAYS if is_closed else _ALL_OPEN_RAYS) // max(1, points))
    )


def _split(mesh: Mesh) -> _Surface:
    """Split long edges in the middle, on both of their sides, until none is too long."""
    area = 0.5 * float(call(kernels.sum_areas, mesh.vertices, mesh.faces))
    limit = 2.0 * float(np.sqrt(2.0 * area / _WANTED_FACES))
    count = len(mesh.faces)
    shares = np.zeros((count, 3, 3), np.float32)
    shares[:, [0, 1, 2], [0, 1, 2]] = 1
    surface = _Surface(mesh.vertices, mesh.faces, np.arange(count, dtype=np.int32), shares)
    for _ in range(_MAX_SPLITS):
        faces = surface.faces
        marks = np.empty(len(faces), np.uint8)
        parallel_for(kernels.mark_long_edges, len(faces), surface.vertices, faces, limit, marks)
        marked = np.flatnonzero(marks)
        if not len(marked) or len(faces) + 3 * len(marked) > max(_MAX_FACES, count):
            break
        surface = _split_once(surface, marks, marked)
    return surface


def _split_once(surface: _Surface, marks: NDArray[np.uint8], marked: NDArray[np.int64]) -> _Surface:
    """Split the marked edges.

    Args:
        surface: the surface.
        marks: uint8 [F], a bit for each edge to split.
        marked: the faces with such edges.
    """
    faces, count = surface.faces[marked], len(surface.vertices)
    ends = np.stack([faces, faces[:, [1, 2, 0]]], axis=2).reshape(-1, 2).astype(np.int64)
    is_split = (marks[marked, None] >> np.arange(3) & 1).astype(bool).reshape(-1)
    ends = np.sort(ends[is_split], axis=1)
    keys, index = np.unique(ends[:, 0] * count + ends[:, 1], return_inverse=True)
    check()
    middles = 0.5 * (surface.vertices[keys // count] + surface.vertices[keys % count])
    added = np.zeros(len(is_split), np.int32)
    added[is_split] = count + index.reshape(-1)
    nodes = np.concatenate([faces, added.reshape(-1, 3)], axis=1)
    shares = surface.shares[marked]
    shares = np.concatenate([shares, 0.5 * (shares + shares[:, [1, 2, 0]])], axis=1)
    whole = surface.whole[marked]
    kept = np.flatnonzero(marks == 0)
    new_faces, new_whole = [surface.faces[kept]], [surface.whole[kept]]
    new_shares = [surface.shares[kept]]
    for bits in range(1, 8):
        check()
        some = np.flatnonzero(marks[marked] == bits)
        for triple in _SPLITS[bits]:
            new_faces.append(nodes[some][:, triple])
            new_whole.append(whole[some])
            new_shares.append(shares[some][:, triple])
    return _Surface(
        np.concatenate([surface.vertices, middles.astype(np.float32)]),
        np.concatenate(new_faces),
        np.concatenate(new_whole),
        np.concatenate(new_shares),
    )
