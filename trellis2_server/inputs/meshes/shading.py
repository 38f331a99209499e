"""Normals of the corners of polygons: the file's, those of flat faces and of smoothing groups.

Does not know: file formats, triangles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Group of polygons that are flat.
FLAT = 0
#: Group of polygons of which the file says nothing: they are smooth.
UNSAID = -1


@dataclass(frozen=True, slots=True, eq=False)
class Polygons:
    """Polygons of a file.

    Attributes:
        corners: integers [C], vertices of all polygons.
        sizes: integers [P], numbers of corners, each at least 3.
        directions: integers [C], rows of the file's normals; -1: none. None: none has one.
        groups: integers [P], smoothing groups, `FLAT` or `UNSAID`. None: nothing is said.
    """

    corners: NDArray[Any]
    sizes: NDArray[Any]
    directions: NDArray[Any] | None
    groups: NDArray[Any] | None

    @property
    def are_flat(self) -> bool:
        """Whether all are flat, and the file has no normals."""
        return self.directions is None and self.groups is not None and not self.groups.any()

    @property
    def are_smooth(self) -> bool:
        """Whether all are smooth at all edges, and the file has no normals."""
        if self.directions is not None:
            return False
        return self.groups is None or bool(
            self.groups[0] != FLAT and (self.groups == self.groups[0]).all()
        )


@dataclass(frozen=True, slots=True, eq=False)
class Shaded:
    """Vertices that have one normal each.

    Attributes:
        source: int64 [V], the vertex of the file.
        normals: float32 [V, 3], of length 1.
        corners: int64 [C], rows of the two.
    """

    source: NDArray[np.int64]
    normals: NDArray[np.float32]
    corners: NDArray[np.int64]


def shade(
    polygons: Polygons, positions: NDArray[np.float64], directions: NDArray[np.float64]
) -> Shaded:
    """Return vertices for each normal that corners have at a vertex of the file.

    Args:
        polygons: their corners refer to vertices that exist.
        positions: float64 [N, 3].
        directions: float64 [M, 3], normals of the file; those of no length are left out.
    """
    rows = np.full(len(polygons.corners), -1, np.int64)
    normals, is_valid = _unit(directions)
    if polygons.directions is not None:
        given = polygons.directions
        exists = (given >= 0) & (given < len(directions))
        rows[exists] = np.where(is_valid[given[exists]], given[exists], -1)
    missing = np.flatnonzero(rows < 0)
    if len(missing):
        more, rows[missing] = _computed(polygons, positions, missing)
        rows[missing] += len(normals)
        normals = np.concatenate([normals, more])
    elif len(normals) == len(positions) and bool((rows == polygons.corners).all()):
        return Shaded(np.arange(len(positions)), normals, rows)
    keys = polygons.corners.astype(np.int64) * len(normals) + rows
    found, corners = np.unique(keys, return_inverse=True)
    return Shaded(found // len(normals), normals[found % len(normals)], corners.reshape(-1))


def _unit(vectors: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return vectors of length 1, and which have a direction; the others are (0, 0, 1)."""
    largest = np.abs(vectors).max(axis=1, initial=0)
    is_valid = np.isfinite(largest) & (largest > 0)
    scaled = vectors / np.where(is_valid, largest, 1)[:, None]
    scaled[~is_valid] = (0, 0, 1)
    scaled /= np.linalg.norm(scaled, axis=1, keepdims=True)
    return scaled.astype(np.float32), is_valid


def _computed(
    polygons: Polygons, positions: NDArray[np.float64], missing: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return normals for corners without, and the row of each.

    Args:
        polygons: all.
        positions: of the vertices.
        missing: int64 [K], the corners.
    """
    sizes = polygons.sizes.astype(np.int64)
    areas = _area_vectors(polygons.corners, sizes, positions)
    owner = np.repeat(np.arange(len(sizes)), sizes)[missing]
    groups = np.full(len(sizes), UNSAID) if polygons.groups is None else polygons.groups
    group = groups[owner].astype(np.int64)
    # Flat faces have a normal of their own; others share it at a vertex within their group.
    vertex = np.where(group == FLAT, owner, polygons.corners[missing])
    _, group = np.unique(group, return_inverse=True)
    keys = vertex * (int(group.max()) + 1) + group.reshape(-1)
    _, rows = np.unique(keys, return_inverse=True)
    rows = rows.reshape(-1)
    sums = [np.bincount(rows, areas[owner, axis]) for axis in range(3)]
    return _unit(np.stack(sums, axis=1).astype(np.float64))[0], rows


def _area_vectors(
    corners: NDArray[Any], sizes: NDArray[np.int64], positions: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the normals of polygons, as long as twice their areas, float64 [P, 3]."""
    first = np.cumsum(sizes) - sizes
    following = np.arange(1, len(corners) + 1)
    following[first + sizes - 1] = first
    points = positions[corners] - np.repeat(positions[corners[first]], sizes, axis=0)
    return np.add.reduceat(np.cross(points, points[following]), first)
