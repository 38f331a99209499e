"""The colours of a voxel field, painted into an atlas.

Every texel of a face is taken back to its place on the surface, from there to the closest
point of the original surface, and its colour is read from the voxels around that point.
Texels outside every face get the colours of the nearest ones, so that filtering and mipmaps
never see anything else.

What this module does not know: image formats, how the atlas was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trellis2_server.export.kernel import spread
from trellis2_server.export.kernels import bake as kernels

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from trellis2_server.export.unwrap import Atlas
    from trellis2_server.mesh import Mesh, VoxelField


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


def bake(
    mesh: Mesh,
    atlas: Atlas,
    field: VoxelField,
    original: Mesh | None = None,
    report: Callable[[str, int, int], None] | None = None,
) -> Maps:
    """The field's colours on the surface of `mesh`, as textures for `atlas`.

    Args:
        mesh: what the atlas was made of.
        atlas: where each face lies.
        field: read at the surface, trilinearly.
        original: where given, each point moves to the closest point of this surface first.
        report: called between steps with "bake", the step and their number.
    """
    size = atlas.size_px
    steps = 3
    if report:
        report("bake", 0, steps)
    owner = raster(atlas, gutter=3 if size >= 1024 else 2)  # noqa: PLR2004
    if report:
        report("bake", 1, steps)
    boxes, masks, ranks, rows = _index_voxels(field)
    is_projected = original is not None
    target = original or mesh
    # Without a projection the search has nothing to look through.
    bundles, origin, cell, first, members = _index_faces(target, is_empty=not is_projected)
    base_color = np.zeros((size, size, 4), np.uint8)
    metal_rough = np.zeros((size, size, 3), np.uint8)
    covered = np.zeros((size, size), np.uint8)
    spread(
        kernels.paint, size, owner, atlas.uv, atlas.faces, atlas.source,
        mesh.vertices,
        is_projected, bundles, origin, cell, first, members,
        boxes, masks, ranks, rows, field.attributes,
        field.resolution, base_color, metal_rough, covered, grain=16,
    )  # fmt: skip
    if report:
        report("bake", 2, steps)
    _fill(base_color, covered)
    _fill(metal_rough, covered)
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
    if original is not None:
        bundles, origin, cell, first, members = _index_faces(original, is_empty=False)
        spread(
            kernels.project, len(places), places,
            bundles, origin, cell, first, members,
        )  # fmt: skip
    boxes, masks, ranks, rows = _index_voxels(field)
    spread(
        kernels.read, len(places), places, boxes, masks, ranks, rows,
        field.attributes, field.resolution, values,
    )  # fmt: skip
    return values


def project(points: NDArray[np.float64], surface: Mesh) -> NDArray[np.float64]:
    """The closest point of the surface to each of the points, float64 [N, 3]."""
    places = np.array(points, np.float64, order="C")
    spread(kernels.project, len(places), places, *_index_faces(surface, is_empty=False))
    return places


def raster(atlas: Atlas, gutter: int) -> NDArray[np.int32]:
    """The face of each texel, int32 [S, S]: -1 none, -2 - face in the gutter beside it."""
    size = atlas.size_px
    owner = np.full((size, size), -1, np.int32)
    seen = np.zeros(len(atlas.faces), np.uint8)
    spread(kernels.scan, size, atlas.uv, atlas.faces, owner, seen, grain=256)
    kernels.rescue(atlas.uv, atlas.faces, owner, seen)
    for _ in range(gutter):
        wider = np.empty_like(owner)
        spread(kernels.widen, size, owner, wider, grain=64)
        owner = wider
    return owner


def _index_voxels(
    field: VoxelField,
) -> tuple[NDArray[np.int32], NDArray[np.uint64], NDArray[np.int32], NDArray[np.int32]]:
    """The voxels by bricks of 4 x 4 x 4.

    Returns:
        boxes: int32 [B, B, B], the brick of each box of the grid, -1 none.
        masks: uint64 [bricks], which of its 64 voxels a brick holds.
        ranks: int32 [bricks], how many voxels all bricks before it hold.
        rows: int32 [V], the row of each voxel in brick order.
    """
    side = (field.resolution + 3) // 4
    coords = field.coords
    boxes = np.full((side, side, side), -1, np.int32)
    bricks = kernels.count_bricks(coords, boxes)
    masks = np.zeros(bricks, np.uint64)
    ranks = np.empty(bricks, np.int32)
    rows = np.zeros(len(coords), np.int32)
    kernels.rank_voxels(coords, boxes, masks, ranks, rows)
    return boxes, masks, ranks, rows


def _index_faces(
    mesh: Mesh, *, is_empty: bool
) -> tuple[NDArray[np.float32], NDArray[np.float64], float, NDArray[np.int32], NDArray[np.int32]]:
    """The faces that touch each cell of a uniform grid around the mesh.

    Returns:
        bundles: float32 [F, 16], of each face its box' lower and upper corner, then its three
            corners: all that a search needs, in one line of the cache.
        origin: float64 [3], the grid's corner.
        cell: the edge of a cell.
        first: int32 [X, Y, Z + 1], where a cell's faces start and stop in `members`.
        members: int32 [...], faces.
    """
    if is_empty:
        nothing = np.zeros(1, np.int32)
        return np.zeros((1, 16), np.float32), np.zeros(3), 1.0, nothing.reshape(1, 1, 1), nothing
    vertices, faces = mesh.vertices, mesh.faces
    low = vertices.min(axis=0).astype(np.float64)
    extent = vertices.max(axis=0).astype(np.float64) - low
    longest = max(float(extent.max()), 1e-6)
    # About two edges of a typical face, were the surface a few times its box' side.
    cell = max(longest / 256, 2.0 * longest * float(np.sqrt(2.0 / len(faces))))
    sides = np.floor(extent / cell).astype(np.int64) + 1
    first = np.zeros((int(sides[0]), int(sides[1]), int(sides[2]) + 1), np.int32)
    flat = np.zeros(int(sides.prod()) + 1, np.int32)
    kernels.count_members(vertices, faces, low, cell, sides, flat, np.empty(0, np.int32))
    np.cumsum(flat, out=flat)
    members = np.empty(int(flat[-1]), np.int32)
    kernels.count_members(vertices, faces, low, cell, sides, flat, members)
    # Filling has moved every start to its stop.
    starts = np.empty_like(flat)
    starts[0] = 0
    starts[1:] = flat[:-1]
    shape = (int(sides[0]), int(sides[1]), int(sides[2]))
    first[:, :, :-1] = starts[:-1].reshape(shape)
    first[:, :, -1] = starts[1:].reshape(shape)[:, :, -1]
    bundles = np.empty((len(faces), 16), np.float32)
    spread(kernels.bundle, len(faces), vertices, faces, bundles)
    return bundles, low, cell, first, members


def _fill(image: NDArray[np.uint8], covered: NDArray[np.uint8]) -> None:
    """Give texels without a colour the mean of the nearest ones, in place (push-pull)."""
    levels = [(image, covered)]
    while levels[-1][1].shape[0] > 1:
        fine, known = levels[-1]
        half = (known.shape[0] + 1) // 2
        coarse = np.zeros((half, half, fine.shape[2]), np.uint8)
        coarse_known = np.zeros((half, half), np.uint8)
        spread(kernels.pull, half, fine, known, coarse, coarse_known, grain=64)
        levels.append((coarse, coarse_known))
    for (fine, known), (coarse, _) in zip(levels[-2::-1], levels[:0:-1], strict=True):
        spread(kernels.push, known.shape[0], fine, known, coarse, grain=64)
