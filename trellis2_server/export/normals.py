"""Bake the normals of the full surface into a tangent-space normal map.

The frame at a texel is that of the mesh's interpolated normal and tangent, both of which the file
has. The tangents are those of MikkTSpace, so that programs which compute their own get the same.

Does not know: colours, image formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.export import bake
from trellis2_server.export.adjacency import corner_lists
from trellis2_server.export.gaps import fill_gaps
from trellis2_server.export.kernels import bake as bake_kernels
from trellis2_server.export.kernels import normals as kernels
from trellis2_server.export.parallel import parallel_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.export.atlas import Atlas
    from trellis2_server.mesh import Mesh

#: Number of times that each normal of the full surface gets the mean of its neighbours where voxels
#: have left steps, which would glitter.
_SMOOTHINGS: Final = 2
#: Steps turn normals to and fro: the first mean changes them at least so many times as much as the
#: second. What is larger than a few faces, which is kept, both change about as much.
_STEPS: Final = 2.0
#: Normals that are compared for this, at least, where there are so many.
_COMPARED: Final = 20_000
#: Distance of the texels at which normals are looked up, in edges of the full surface, and its
#: limit in texels: the texels between are interpolated.
_STEP_EDGES, _MAX_STEP = 1.4, 4
#: Those of a mesh that has itself nearly all of the detail: at least such a share of the faces.
_FINE_STEP_EDGES, _MAX_FINE_STEP, _FINE_SHARE = 2.0, 6, 0.125
#: Cells of the index, which has few points to find.
_CELLS: Final = 128


@dataclass(frozen=True, slots=True, eq=False)
class FullSurface:
    """The surface before decimation, and its normals.

    Attributes:
        faces: int32 [F, 3].
        normals: float32 [N, 3] at the vertices, unit length or zero; their sign means nothing.
        index: arguments of `kernels.bake.closest_point`.
    """

    faces: NDArray[np.int32]
    normals: NDArray[np.float32]
    index: bake.Surface


def full_surface(original: Mesh, index: bake.Surface | None = None) -> FullSurface:
    """Return a surface with smoothed normals.

    Args:
        original: checked, clean or not.
        index: of its faces; None: make one.
    """
    return FullSurface(
        original.faces, smoothed_normals(original), index or bake.index_faces(original, _CELLS)
    )


def smoothed_normals(original: Mesh) -> NDArray[np.float32]:
    """Return the normals of a full surface, see `FullSurface`, without the steps of voxels."""
    faces, count = original.faces, len(original.vertices)
    first, corners = corner_lists(faces, count)
    normals = np.empty((count, 3), np.float32)
    parallel_for(kernels.source_normals, count, original.vertices, faces, first, corners, normals)
    found = [normals]
    for _ in range(_SMOOTHINGS):
        smoothed = np.empty_like(normals)
        parallel_for(kernels.smooth_normals, count, faces, first, corners, found[-1], smoothed)
        found.append(smoothed)
    first_change, second_change = (_mean_angle(*pair) for pair in pairwise(found))
    return found[-1] if first_change >= _STEPS * second_change else normals


def _mean_angle(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the mean angle between normals whose sign means nothing, of some of them, radians."""
    step = 1 + len(one) // _COMPARED
    cosines = np.abs((one[::step] * other[::step]).sum(axis=1, dtype=np.float64))
    return float(np.arccos(np.minimum(cosines[cosines > 0.0], 1.0)).sum()) / len(cosines)


def tangents(mesh: Mesh, normals: NDArray[np.float32], atlas: Atlas) -> NDArray[np.float32]:
    """Return the tangent at each row of `atlas.uv`, float32 [M, 4], as glTF has it.

    Args:
        mesh: of the atlas.
        normals: float32 [N, 3] at the vertices of the mesh, unit length.
        atlas: texture coordinates.

    Returns:
        Unit vectors in the mesh's frame, along x of the texture; then 1, or -1 where the chart is
        mirrored. The cross product of normal and tangent, times that, points up in the image.
    """
    first, corners = corner_lists(atlas.faces, len(atlas.uv))
    found = np.empty((len(atlas.uv), 4), np.float32)
    parallel_for(
        kernels.vertex_tangents, len(found), mesh.vertices, atlas.source, normals, atlas.uv,
        atlas.faces, first, corners, found,
    )  # fmt: skip
    return found


def bake_normal_map(  # noqa: PLR0913, PLR0917 - one argument per input
    mesh: Mesh,
    normals: NDArray[np.float32],
    atlas: Atlas,
    along: NDArray[np.float32],
    owner: NDArray[np.int32],
    original: FullSurface,
) -> NDArray[np.uint8]:
    """Return the normal map, uint8 [S, S, 3], row 0 at the top, as glTF has it: green is up.

    Args:
        mesh: of the atlas.
        normals: float32 [N, 3] at the vertices of the mesh, unit length.
        atlas: texture coordinates.
        along: from `tangents`.
        owner: from `bake.rasterize`.
        original: the surface whose normals are seen.
    """
    size = atlas.size_px
    step = _sampling_step(owner, len(original.faces), len(mesh.faces))
    blocks = (size + step - 1) // step
    charts = np.empty((blocks, blocks), np.int32)
    samples = np.empty((blocks, blocks, 3), np.float32)
    tiles = ((blocks + bake_kernels.TILE - 1) // bake_kernels.TILE) ** 2
    parallel_for(
        bake_kernels.sample_normals, tiles, step, owner, atlas.chart, atlas.uv, atlas.faces,
        atlas.source, mesh.vertices, normals, *original.index, original.faces, original.normals,
        charts, samples,
        grain=16,
    )  # fmt: skip
    found = np.zeros((size, size, 3), np.uint8)
    covered = np.zeros((size, size), np.uint8)
    parallel_for(
        bake_kernels.turn_normals, size, step, owner, atlas.chart, atlas.uv, atlas.faces,
        atlas.source, normals, along, charts, samples, found, covered, grain=64,
    )  # fmt: skip
    fill_gaps(found, covered)
    return found


def _sampling_step(owner: NDArray[np.int32], full_faces: int, faces: int) -> int:
    """Return the distance of the texels at which normals are looked up."""
    texels = float(np.count_nonzero(owner[::4, ::4] >= 0)) * 16
    edge = 1.5 * float(np.sqrt(texels / full_faces))
    if faces >= _FINE_SHARE * full_faces:
        return max(1, min(_MAX_FINE_STEP, int(_FINE_STEP_EDGES * edge)))
    return max(1, min(_MAX_STEP, int(_STEP_EDGES * edge)))
