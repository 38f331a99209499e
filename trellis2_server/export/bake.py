"""Bake the colours of a voxel field into textures.

Each texel of a face is mapped to its point on the surface, then to the closest point of the
original surface, and the attributes of the voxels around that point are interpolated. Texels
outside all faces get the colours of the nearest texels, for filtering and mipmaps.

Does not know: image formats, how the atlas was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.export.cancellation import call
from trellis2_server.export.gaps import fill_gaps
from trellis2_server.export.kernels import bake as kernels
from trellis2_server.export.parallel import parallel_for
from trellis2_server.reports import stage_report

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.export.atlas import Atlas
    from trellis2_server.mesh import Mesh, VoxelField
    from trellis2_server.reports import Report

    _Voxels = tuple[NDArray[np.int32], NDArray[np.uint64], NDArray[np.int32], NDArray[np.float32]]
    Surface = tuple[
        NDArray[np.float32],
        NDArray[np.float32],
        NDArray[np.float64],
        float,
        NDArray[np.int32],
        NDArray[np.int32],
        NDArray[np.uint64],
    ]

#: Entries in the lists of all cells of a grid, for each face and each cell.
_MAX_MEMBERS: Final = 32
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
    """Baked textures, row 0 at the top.

    Attributes:
        base_color: uint8 [S, S, 4], sRGB and alpha.
        metal_rough: uint8 [S, S, 3], linear, as in glTF: roughness in G, metallic in B; R repeats
            G, or is the ambient occlusion.
        covered: uint8 [S, S], origin of the colour: 1: voxels, in a face; 2: voxels, in the gutter
            around a chart; 0: filled from other texels.
        has_occlusion: whether R is the ambient occlusion, 255 where nothing is in the way.
        normals: uint8 [S, S, 3], tangent-space normal map, as in glTF; None: there is none.
    """

    base_color: NDArray[np.uint8]
    metal_rough: NDArray[np.uint8]
    covered: NDArray[np.uint8]
    has_occlusion: bool = False
    normals: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """Search structures for a field and, optionally, the surface it belongs to.

    Attributes:
        resolution: of the field.
        voxels: arguments of `kernels.sample`: the voxels in bricks of 4 x 4 x 4.
        surface: arguments of `kernels.closest_point`: the faces of the original surface in the
            cells of a grid; one empty cell if there is none.
        has_surface: whether there is an original surface.
    """

    resolution: int
    voxels: _Voxels
    surface: Surface
    has_surface: bool


def build_index(field: VoxelField, original: Mesh | None = None) -> Index:
    """Build the search structures for `bake`.

    Args:
        field: attributes to interpolate.
        original: surface to whose closest points texels are mapped; None: they are not.
    """
    surface = _NO_SURFACE if original is None else index_faces(original)
    return Index(field.resolution, _index_voxels(field), surface, original is not None)


def bake(
    mesh: Mesh,
    atlas: Atlas,
    index: Index,
    report: Report | None = None,
    owner: NDArray[np.int32] | None = None,
) -> Maps:
    """Bake the field's attributes into textures.

    Args:
        mesh: mesh of the atlas.
        atlas: texture coordinates.
        index: of the field, and of the original of a decimated mesh.
        report: called between steps with "bake", the step and the number of steps.
        owner: from `rasterize`; None: call it.
    """
    size = atlas.size_px
    finished = stage_report(report, "bake", 3)
    finished(0)
    if owner is None:
        owner = rasterize(atlas)
    finished(1)
    base_color = np.zeros((size, size, 4), np.uint8)
    metal_rough = np.zeros((size, size, 3), np.uint8)
    covered = np.zeros((size, size), np.uint8)
    tiles = ((size + kernels.TILE - 1) // kernels.TILE) ** 2
    parallel_for(
        kernels.bake_tiles, tiles, owner, atlas.uv, atlas.faces, atlas.source, mesh.vertices,
        index.has_surface, *index.surface, *index.voxels, index.resolution,
        base_color, metal_rough, covered, grain=64,
    )  # fmt: skip
    finished(2)
    for values in (base_color, metal_rough):
        fill_gaps(values, covered)
    finished(3)
    return Maps(base_color, metal_rough, covered)


def closest_points(points: NDArray[np.float64], surface: Mesh) -> NDArray[np.float64]:
    """Return the closest point of the surface to each of the points, float64 [N, 3]."""
    places = np.array(points, np.float64, order="C")
    parallel_for(kernels.project_points, len(places), places, *index_faces(surface))
    return places


def rasterize(atlas: Atlas, gutter: int | None = None) -> NDArray[np.int32]:
    """Return the face of each texel, int32 [S, S].

    Args:
        atlas: texture coordinates.
        gutter: width of the gutter around charts, texels; None: by the size of the texture.

    Returns:
        A face; -2 - face in the gutter beside the face; -1 elsewhere.
    """
    size = atlas.size_px
    if gutter is None:
        gutter = gutter_px(size)
    owner = np.full((size, size), -1, np.int32)
    parallel_for(kernels.rasterize_rows, size, atlas.uv, atlas.faces, owner, grain=256)
    call(kernels.claim_centres, atlas.uv, atlas.faces, owner)
    dilated = np.empty_like(owner)
    for _ in range(gutter):
        parallel_for(kernels.dilate, size, owner, dilated, grain=64)
        owner, dilated = dilated, owner
    return owner


def gutter_px(size: int) -> int:
    """Return the width of the gutter around charts of a square texture, texels."""
    return 3 if size >= 1024 else 2  # noqa: PLR2004


def _index_voxels(field: VoxelField) -> _Voxels:
    """Sort the voxels into bricks of 4 x 4 x 4.

    Returns:
        brick_of: int32 [B, B, B], the brick of each box of the grid, -1: none.
        masks: uint64 [bricks], which of its 64 voxels each brick contains.
        ranks: int32 [bricks], number of voxels in all previous bricks.
        arranged: float32 [V, 6], the attributes in brick order.
    """
    side = (field.resolution + 3) // 4
    coords = field.coords
    brick_of = np.full((side, side, side), -1, np.int32)
    bricks = call(kernels.count_bricks, coords, brick_of)
    masks = np.zeros(bricks, np.uint64)
    ranks = np.empty(bricks, np.int32)
    rows = np.zeros(len(coords), np.int32)
    call(kernels.rank_voxels, coords, brick_of, masks, ranks, rows)
    arranged = np.empty_like(field.attributes)
    parallel_for(kernels.gather_attributes, len(rows), rows, field.attributes, arranged)
    return brick_of, masks, ranks, arranged


def index_faces(mesh: Mesh, cells: int = 256) -> Surface:
    """List the faces in each cell of a uniform grid around the mesh.

    Args:
        mesh: the mesh.
        cells: along the longest edge of its box, at most. Fewer are faster to list, and slower to
            search.

    Returns:
        corners: float32 [F, 9], the first corner of each face and two edge vectors from there.
        planes: float32 [F, 16], four planes of each face: its own, and the perpendicular ones
            through its edges.
        origin: float64 [3], the corner of the grid.
        cell: edge of a cell.
        first: int32 [X, Y, Z + 1], index in `members` at which the faces of a cell start and stop.
        members: int32 [...], faces.
        extents: uint64 [...], the bounding box of that face within that cell in six bytes, by which
            a search skips most faces.
    """
    vertices, faces = mesh.vertices, mesh.faces
    low = vertices.min(axis=0).astype(np.float64)
    extent = vertices.max(axis=0).astype(np.float64) - low
    longest = max(float(extent.max()), 1e-6)
    # About two edges of a typical face, if the area is a few times that of a side of the box.
    cell = max(longest / cells, 2.0 * longest * float(np.sqrt(2.0 / len(faces))))
    while True:
        sides = np.floor(extent / cell).astype(np.int64) + 1
        flat = np.zeros(int(sides.prod()) + 1, np.int32)
        limit = _MAX_MEMBERS * (len(faces) + len(flat))
        if call(kernels.count_members, vertices, faces, low, cell, flat, sides, limit) <= limit:
            break
        cell *= 2.0  # large faces all over the box
    np.cumsum(flat, out=flat)
    first = np.zeros((int(sides[0]), int(sides[1]), int(sides[2]) + 1), np.int32)
    members = np.empty(int(flat[-1]), np.int32)
    extents = np.empty(len(members), np.uint64)
    call(kernels.list_members, vertices, faces, low, cell, flat, sides, members, extents)
    # `list_members` has moved each start to its stop.
    starts = np.empty_like(flat)
    starts[0] = 0
    starts[1:] = flat[:-1]
    shape = (int(sides[0]), int(sides[1]), int(sides[2]))
    first[:, :, :-1] = starts[:-1].reshape(shape)
    first[:, :, -1] = starts[1:].reshape(shape)[:, :, -1]
    corners = np.empty((len(faces), 9), np.float32)
    planes = np.empty((len(faces), 16), np.float32)
    parallel_for(kernels.precompute_faces, len(faces), vertices, faces, corners, planes)
    return corners, planes, low, cell, first, members, extents
