"""Coarser levels of detail of a mesh, with the same texture.

The mesh that has been unwrapped is decimated further, by collapses of an edge into one of its ends.
That end keeps its texture coordinates until the level is done, but moves to the place with the
least quadric error: with vertices on the surface, round parts would shrink and hollow ones fill up.
Then each vertex takes texture coordinates, normal and tangent from the closest point of its charts
in the finest level. So one texture and one normal map are right for all levels. Projecting finer
levels onto charts of a coarse one instead would distort the texture of the level that is seen from
near.

Silhouettes are what is seen of a level from far away. The length of silhouettes on a piece of
surface, averaged over directions, grows with its curvature, so planes are weighted by it: thin
wires get more of the faces than gentle slopes.

Seams are kept: a vertex moves along its seam. Where too many charts are left for the number of
faces, charts lose their corners, at the cost of a slightly shifted texture.

Does not know: images, files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.export.adjacency import corner_lists, next_half_edges, twins
from trellis2_server.export.bake import gutter_px, index_faces
from trellis2_server.export.cancellation import call, check
from trellis2_server.export.deviation import deviation, normal_deviation
from trellis2_server.export.footpoints import find_footpoints
from trellis2_server.export.geometry import level_geometry, pair_rows, smooth_normals
from trellis2_server.export.kernels import levels as kernels
from trellis2_server.export.parallel import parallel_for
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from trellis2_server.export.atlas import Atlas
    from trellis2_server.export.footpoints import Footpoints
    from trellis2_server.export.geometry import GltfGeometry
    from trellis2_server.reports import Report

#: Weights of the planes that hold open edges and seams, of a face of the edge's squared length.
_BORDER_WEIGHT, _SEAM_WEIGHT = 4.0, 0.05
#: How weakly a vertex is held to its first place, relative to the planes.
_HOLD: Final = 3e-3
#: Weights of faces by curvature, relative to the mean: the least and the largest.
_LEAST_WEIGHT, _LARGEST_WEIGHT = 0.02, 50.0
#: Share of the vertices that one pass may remove, the cheapest ones.
_PASS_SHARE: Final = 0.1
#: A pass that removes less than this share of the faces is followed by one with fewer rules.
_LEAST_SHARE: Final = 0.02
_LAST_LEVEL: Final = 3


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """The triangles of one level.

    Attributes:
        vertices: float32 [N, 3], as many as the mesh has; those that the faces have may have moved.
        faces: int32 [F, 3], vertices of the mesh.
        sources: int32 [P], ascending, the vertex of each pair of a vertex and a row of the atlas.
        footpoints: of the P pairs, where the finest level shows what is to be seen there.
        uv_faces: int32 [F, 3], pairs.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    sources: NDArray[np.int32]
    footpoints: Footpoints
    uv_faces: NDArray[np.int32]


def coarser_levels(  # noqa: PLR0913, PLR0917 - one argument per input
    mesh: Mesh,
    atlas: Atlas,
    finest: GltfGeometry,
    targets: Sequence[int],
    original: Mesh,
    resolution: int,
    report: Report | None = None,
) -> tuple[list[GltfGeometry], list[dict[str, float]]]:
    """Return coarser levels of detail, and how far every level is from the original.

    Args:
        mesh: checked; the finest level.
        atlas: of the mesh.
        finest: triangles of the mesh.
        targets: see `create_levels`.
        original: checked; the full surface.
        resolution: voxels along an edge of the unit cube.
        report: stage "levels".

    Returns:
        The levels without the finest one.
        Of all levels: `faces`, `error_voxels` (p99) and `normal_degrees` (median).
    """
    index = index_faces(original)

    def measure(level: Mesh) -> dict[str, float]:
        return {
            "faces": len(level.faces),
            "error_voxels": round(deviation(original, level, resolution).p99, 4),
            "normal_degrees": round(normal_deviation(original, level, index), 3),
        }

    levels: list[GltfGeometry] = []
    measured = [measure(mesh)]
    for level in create_levels(mesh, atlas, targets, report):
        levels.append(
            level_geometry(
                finest, atlas, level.vertices, level.sources, level.footpoints, level.uv_faces
            )
        )
        measured.append(measure(Mesh(level.vertices, level.faces)))
    return levels, measured


def create_levels(
    mesh: Mesh, atlas: Atlas, targets: Sequence[int], report: Report | None = None
) -> Iterator[Level]:
    """Yield a level for each target, finest first.

    Args:
        mesh: checked.
        atlas: of the mesh.
        targets: maximum numbers of faces, descending. A level that would have more than the one
            before is the same again.
        report: stage "levels".
    """
    work = _Work(mesh, atlas)
    for number, target in enumerate(targets):
        if report:
            report("levels", number, len(targets))
        work.reduce(target)
        yield work.level()
    if report:
        report("levels", len(targets), len(targets))


class _Work:
    """A mesh that is being decimated.

    Attributes:
        vertices: float32 [N, 3].
        faces: int32 [F, 3], vertices of the mesh.
        rows: int32 [F, 3], rows of the atlas.
    """

    def __init__(self, mesh: Mesh, atlas: Atlas) -> None:
        self._mesh, self._atlas = mesh, atlas
        self.vertices: NDArray[np.float32] = mesh.vertices.copy()
        self.faces: NDArray[np.int32] = mesh.faces
        self.rows: NDArray[np.int32] = np.ascontiguousarray(atlas.faces)
        count = len(mesh.vertices)
        twin = twins(self.faces, count)
        first, corners = corner_lists(self.faces, count)
        self._quadrics = np.zeros((count, 10))
        parallel_for(
            kernels.sum_quadrics, count, mesh.vertices, self.faces, first, corners,
            _face_weights(mesh), _edge_weights(self.faces, self.rows, twin), self._quadrics,
        )  # fmt: skip

    def level(self) -> Level:
        """Return a copy of the present triangles."""
        sources, rows, pairs = pair_rows(self.faces, self.rows, len(self.vertices))
        feet = find_footpoints(
            self.vertices[sources], rows, self._atlas.source[rows] != sources, self._mesh,
            self._atlas, gutter_px(self._atlas.size_px),
        )  # fmt: skip
        return Level(self.vertices.copy(), self.faces, sources, feet, pairs)

    def reduce(self, target: int) -> None:
        """Remove faces until there are at most `target`."""
        level = 0
        while len(self.faces) > target:
            before = len(self.faces)
            self._pass(before - target, level)
            if before - len(self.faces) < max(1, min(before - target, _LEAST_SHARE * before)):
                if level == _LAST_LEVEL and before == len(self.faces):
                    break
                level = min(_LAST_LEVEL, level + 1)

    def _pass(self, wanted: int, level: int) -> None:
        count = len(self.vertices)
        first, corners = corner_lists(self.faces, count)
        kinds = np.zeros(count, np.uint8)
        call(kernels.mark_vertices, self.faces, twins(self.faces, count), kinds)
        targets, places, costs = np.empty(count, np.int32), np.empty((count, 3)), np.empty(count)
        parallel_for(
            kernels.find_targets, count, level, _HOLD, self._mesh.vertices, self.vertices,
            self._quadrics, self.faces, self.rows, self._atlas.uv, first, corners, kinds, targets,
            places, costs, grain=512,
        )  # fmt: skip
        ready = np.flatnonzero(targets >= 0)
        order = ready[np.argsort(costs[ready], kind="stable")]
        check()
        used = int(np.count_nonzero(first[1:] > first[:-1]))
        faces, rows = self.faces.copy(), self.rows.copy()
        call(
            kernels.collapse_all, order[: 1 + int(_PASS_SHARE * used)], wanted, targets, places,
            self.vertices, faces, rows, first, corners, self._quadrics, np.zeros(count, np.bool_),
        )  # fmt: skip
        kept = faces[:, 0] >= 0
        self.faces, self.rows = faces[kept], rows[kept]


def _face_weights(mesh: Mesh) -> NDArray[np.float32]:
    """Return the curvature of each face's surroundings relative to the mean, float32 [F]."""
    faces, count = mesh.faces, len(mesh.vertices)
    normals, places = smooth_normals(mesh), mesh.vertices
    curvature, squares = np.zeros(len(faces)), []
    for k in range(3):
        here, there = faces[:, k], faces[:, (k + 1) % 3]
        turn = np.linalg.norm(normals[there] - normals[here], axis=1)
        length = np.linalg.norm(places[there] - places[here], axis=1)
        curvature += turn / np.maximum(length, 1e-10)
        squares.append(length.astype(np.float64) ** 2)
    check()
    a, b, c = squares  # Heron's formula
    area = np.sqrt(np.maximum(2 * (a * b + b * c + c * a) - a * a - b * b - c * c, 1e-30))
    # The mean of the faces at each vertex, and of the vertices of each face: less noise.
    flat = faces.reshape(-1)
    sums, areas = (
        np.bincount(flat, np.repeat(values, 3), count) for values in (curvature * area, area)
    )
    around = (sums / np.maximum(areas, 1e-30))[faces].mean(axis=1)
    mean = float((around * area).sum() / area.sum())
    weights = np.clip(around / max(mean, 1e-30), _LEAST_WEIGHT, _LARGEST_WEIGHT)
    check()
    return weights.astype(np.float32)


def _edge_weights(
    faces: NDArray[np.int32], rows: NDArray[np.int32], twin: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Return the weight of the plane that holds each half-edge, float32 [3 F]; 0: none."""
    flat, texture = faces.reshape(-1), rows.reshape(-1)
    after = next_half_edges(np.arange(flat.size))
    other = np.maximum(twin, 0)
    beyond = next_half_edges(other)
    check()
    is_turned = flat[other] == flat  # wound in the same direction
    starts, ends = np.where(is_turned, other, beyond), np.where(is_turned, beyond, other)
    is_seam = (texture[starts] != texture) | (texture[ends] != texture[after])
    weights = np.where(is_seam, np.float32(_SEAM_WEIGHT), np.float32(0))
    weights[twin < 0] = _BORDER_WEIGHT
    return weights
