"""The colours of a voxel field, painted into an atlas.

Every texel of a face is taken back to its place on the surface, from there to the closest
point of the original surface, and its colour is read from the voxels around that point.
Texels outside every face get the colours of the nearest ones, so that filtering and mipmaps
never see anything else.

What this module does not know: image formats, how the atlas was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.export.kernel import spread
from trellis2_server.export.kernels import bake as kernels

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from trellis2_server.export.unwrap import Atlas
    from trellis2_server.mesh import Mesh, VoxelField

    _Voxels = tuple[NDArray[np.int32], NDArray[np.uint64], NDArray[np.int32], NDArray[np.float32]]
    _Surface = tuple[
        NDArray[np.float32],
        NDArray[np.float32],
        NDArray[np.float64],
        float,
        NDArray[np.int32],
        NDArray[np.int32],
        NDArray[np.uint64],
    ]

_NO_FACES: Final = np.zeros(1, np.int32)
_NO_SURFACE: Final = (
    np.zeros((1, 9), np.float32),
    np.zeros((1, 16), np.float32),
    np.zeros(3),
    1.0,
    _NO_FACES.reshape(1, 1, 1),
    _NO_FACES,
    np.zeros(1, np.uint64),
)


@dataclass(frozen=True, slots=True, eq=False)
class Maps:
    """The painted textures, row 0 at the top.

    Attributes:
        base_color: uint8 [S, S, 4], sRGB and alpha.
        metal_rough: uint8 [S, S, 3], glTF's packing: roughness in G, metallic in B, linear;
            R repeats G.
        covered: uint8 [S, S], 1 where a face of the atlas got its colour from voxels,
            2 in the gutter beside, 0 where the colour was filled in.
    """

    base_color: NDArray[np.uint8]
    metal_rough: NDArray[np.uint8]
    covered: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """A field, and the surface it belongs to, made ready for look-ups.

    Attributes:
        resolution: of the field.
        voxels: what `kernels.sample` takes: the voxels by bricks of 4 x 4 x 4.
        surface: what `kernels.closest` takes: the faces of the original by the cells of a
            grid; one empty cell without an original.
        is_projected: whether there is an original.
    """

    resolution: int
    voxels: _Voxels
    surface: _Surface
    is_projected: bool


def index(field: VoxelField, original: Mesh | None = None) -> Index:
    """The field, and the surface whose closest points are to be coloured, for `bake`.

    Args:
        field: read at the surface, trilinearly.
        original: where given, each point moves to the closest point of this surface first.
    """
    surface = _NO_SURFACE if original is None else _index_faces(original)
    return Index(field.resolution, _index_voxels(field), surface, original is not None)


def bake(
    mesh: Mesh,
    atlas: Atlas,
    index: Index,
    report: Callable[[str, int, int], None] | None = None,
) -> Maps:
    """The field's colours on the surface of `mesh`, as textures for `atlas`.

    Args:
        mesh: what the atlas was made of.
        atlas: where each face lies.
        index: of the field, and of the surface that the mesh was decimated from.
        report: called between steps with "bake", the step and their number.
    """
    size = atlas.size_px
    steps = 3
    if report:
        report("bake", 0, steps)
    owner = raster(atlas, gutter=3 if size >= 1024 else 2)  # noqa: PLR2004
    if report:
        report("bake", 1, steps)
    base_color = np.zeros((size, size, 4), np.uint8)
    metal_rough = np.zeros((size, size, 3), np.uint8)
    covered = np.zeros((size, size), np.uint8)
    tiles = ((size + kernels.TILE - 1) // kernels.TILE) ** 2
    spread(
        kernels.paint, tiles, owner, atlas.uv, atlas.faces, atlas.source, mesh.vertices,
        index.is_projected, *index.surface, *index.voxels, index.resolution,
        base_color, metal_rough, covered, grain=64,
    )  # fmt: skip
    if report:
        report("bake", 2, steps)
    _fill(base_color, metal_rough, covered)
    if report:
        report("bake", steps, steps)
    return Maps(base_color, metal_rough, covered)


def look_up(
    points: NDArray[np.float64], field: VoxelField, original: Mesh | None = None
) -> NDArray[np.float64]:
    """The field's attributes at points, as `bake` reads them.

    Args:
        points: float64 [N, 3], in the model frame.
        field: the attributes.
        original: where given, each point moves to the closest point of this surface first.

    Returns:
        float64 [N, 6], in [0, 1]; NaN where no voxel is near.
    """
    values = np.full((len(points), 6), np.nan)
    places = np.array(points, np.float64, order="C")
    ready = index(field, original)
    if ready.is_projected:
        spread(kernels.project, len(places), places, *ready.surface)
    spread(kernels.read, len(places), places, *ready.voxels, ready.resolution, values)
    return values


def project(points: NDArray[np.float64], surface: Mesh) -> NDArray[np.float64]:
    """The closest point of the surface to each of the points, float64 [N, 3]."""
    places = np.array(points, np.float64, order="C")
    spread(kernels.project, len(places), places, *_index_faces(surface))
    return places


def raster(atlas: Atlas, gutter: int) -> NDArray[np.int32]:
    """The face of each texel, int32 [S, S]: -1 none, -2 - face in the gutter beside it."""
    size = atlas.size_px
    owner = np.full((size, size), -1, np.int32)
    spread(kernels.scan, size, atlas.uv, atlas.faces, owner, grain=256)
    kernels.rescue(atlas.uv, atlas.faces, owner)
    for _ in range(gutter):
        wider = np.empty_like(owner)
        spread(kernels.widen, size, owner, wider, grain=64)
        owner = wider
    return owner


def _index_voxels(field: VoxelField) -> _Voxels:
    """The voxels by bricks of 4 x 4 x 4.

    Returns:
        boxes: int32 [B, B, B], the brick of each box of the grid, -1 none.
        masks: uint64 [bricks], which of its 64 voxels a brick holds.
        ranks: int32 [bricks], how many voxels all bricks before it hold.
        arranged: float32 [V, 6], the attributes in brick order.
    """
    side = (field.resolution + 3) // 4
    coords = field.coords
    boxes = np.full((side, side, side), -1, np.int32)
    bricks = kernels.count_bricks(coords, boxes)
    masks = np.zeros(bricks, np.uint64)
    ranks = np.empty(bricks, np.int32)
    rows = np.zeros(len(coords), np.int32)
    kernels.rank_voxels(coords, boxes, masks, ranks, rows)
    arranged = np.empty_like(field.attributes)
    spread(kernels.arrange, len(rows), rows, field.attributes, arranged)
    return boxes, masks, ranks, arranged


def _index_faces(mesh: Mesh) -> _Surface:
    """The faces that touch each cell of a uniform grid around the mesh.

    Returns:
        corners: float32 [F, 9], the first corner of each face and its two sides from there.
        planes: float32 [F, 16], four planes: the face's own, and upright on its sides.
        origin: float64 [3], the grid's corner.
        cell: the edge of a cell.
        first: int32 [X, Y, Z + 1], where a cell's faces start and stop in `members`.
        members: int32 [...], faces.
        extents: uint64 [...], the box of that face within that cell in six bytes, so that a
            search passes most faces by without a look at them.
    """
    vertices, faces = mesh.vertices, mesh.faces
    low = vertices.min(axis=0).astype(np.float64)
    extent = vertices.max(axis=0).astype(np.float64) - low
    longest = max(float(extent.max()), 1e-6)
    # About two edges of a typical face, were the surface a few times its box' side.
    cell = max(longest / 256, 2.0 * longest * float(np.sqrt(2.0 / len(faces))))
    sides = np.floor(extent / cell).astype(np.int64) + 1
    first = np.zeros((int(sides[0]), int(sides[1]), int(sides[2]) + 1), np.int32)
    flat = np.zeros(int(sides.prod()) + 1, np.int32)
    kernels.count_members(vertices, faces, low, cell, flat, sides)
    np.cumsum(flat, out=flat)
    members = np.empty(int(flat[-1]), np.int32)
    extents = np.empty(len(members), np.uint64)
    kernels.list_members(vertices, faces, low, cell, flat, sides, members, extents)
    # Filling has moved every start to its stop.
    starts = np.empty_like(flat)
    starts[0] = 0
    starts[1:] = flat[:-1]
    shape = (int(sides[0]), int(sides[1]), int(sides[2]))
    first[:, :, :-1] = starts[:-1].reshape(shape)
    first[:, :, -1] = starts[1:].reshape(shape)[:, :, -1]
    corners = np.empty((len(faces), 9), np.float32)
    planes = np.empty((len(faces), 16), np.float32)
    spread(kernels.bundle, len(faces), vertices, faces, corners, planes)
    return corners, planes, low, cell, first, members, extents


def _fill(
    base_color: NDArray[np.uint8], metal_rough: NDArray[np.uint8], covered: NDArray[np.uint8]
) -> None:
    """Give texels without a colour the mean of the nearest ones, in place (push-pull)."""
    levels = [(base_color, metal_rough, covered)]
    while levels[-1][2].shape[0] > 1:
        half = (levels[-1][2].shape[0] + 1) // 2
        coarse = (
            np.zeros((half, half, 4), np.uint8),
            np.zeros((half, half, 3), np.uint8),
            np.empty((half, half), np.uint8),
        )
        spread(kernels.pull, half, *levels[-1], *coarse, grain=64)
        levels.append(coarse)
    for fine, coarse in zip(levels[-2::-1], levels[:0:-1], strict=True):
        spread(kernels.push, len(fine[2]), *fine, *coarse[:2], grain=64)
