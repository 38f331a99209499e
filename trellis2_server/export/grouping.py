"""Group the faces of a mesh by the direction of their normals.

Each face gets one of 14 directions, smoothed over its neighbours. Connected faces with the same
direction form a group. Adjacent groups are merged while their normals stay within a cone.

Does not know: textures, how groups become charts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.export.adjacency import next_half_edges
from trellis2_server.export.cancellation import call
from trellis2_server.export.kernels import grouping as kernels
from trellis2_server.export.parallel import parallel_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

_THIRD: Final = 3**-0.5
#: Directions of the faces and corners of a cube. No direction is more than 37 degrees from one of
#: them.
DIRECTIONS: Final = np.array(
    [[s, 0, 0] for s in (1, -1)]
    + [[0, s, 0] for s in (1, -1)]
    + [[0, 0, s] for s in (1, -1)]
    + [[x, y, z] for x in (_THIRD, -_THIRD) for y in (_THIRD, -_THIRD) for z in (_THIRD, -_THIRD)],
    np.float32,
)
#: Maximum bend of a group, the mean squared sine between its normals and their mean: a cap of about
#: 19 degrees, or a bend of 23.
MAX_BEND: Final = 0.05
#: Maximum bend of a group so small that the gutter of its chart costs more than its distortion.
MAX_BEND_SMALL: Final = 0.22
#: Groups with a smaller area are small, texels.
SMALL_TEXELS: Final = 150.0
#: Number of iterations that smooth the directions.
SMOOTHINGS: Final = 12
#: Number of rounds in which groups are merged.
_MERGE_ROUNDS: Final = 8


def count_components(twin: NDArray[np.int32]) -> int:
    """Return into how many parts, connected by edges with two faces, a mesh falls.

    Args:
        twin: int32 [3 F], see `adjacency.twins`.
    """
    label, groups, stack = (np.zeros(len(twin) // 3, np.int32) for _ in range(3))
    return call(kernels.connected_components, twin, label, groups, stack)


def group_faces(
    vertices: NDArray[np.float32],
    faces: NDArray[np.int32],
    twin: NDArray[np.int32],
    normals: NDArray[np.float32],
    density: float,
) -> NDArray[np.int32]:
    """Return a group for each face. Groups are connected, their normals within one cone.

    Args:
        vertices: float32 [N, 3].
        faces: int32 [F, 3].
        twin: int32 [3 F], see `adjacency.twins`.
        normals: float32 [F, 4], unit normals and areas.
        density: texels per unit of length.

    Returns:
        int32 [F], numbered from 0 without gaps.
    """
    label = np.empty(len(faces), np.int32)
    parallel_for(kernels.assign_directions, len(faces), normals, DIRECTIONS, label)
    smoothed = np.empty_like(label)
    for _ in range(SMOOTHINGS):
        parallel_for(kernels.smooth_labels, len(faces), normals, DIRECTIONS, twin, label, smoothed)
        label, smoothed = smoothed, label
    groups = np.empty(len(faces), np.int32)
    count = call(kernels.connected_components, twin, label, groups, np.empty(len(faces), np.int32))
    small = SMALL_TEXELS / (density * density)
    for _ in range(_MERGE_ROUNDS):
        sums = np.zeros((count, 10))
        call(kernels.sum_group_normals, normals, groups, sums)
        low, high, length = _borders(vertices, faces, twin, groups, count)
        if low.size == 0:
            break
        perimeter = np.bincount(low, length, count) + np.bincount(high, length, count)
        share = length / np.minimum(perimeter[low], perimeter[high])
        best = np.argsort(-share, kind="stable")
        parent = np.arange(count, dtype=np.int32)
        merged = call(
            kernels.merge_groups, low[best].astype(np.int32), high[best].astype(np.int32), sums,
            parent, MAX_BEND, MAX_BEND_SMALL, small,
        )  # fmt: skip
        if merged == 0:
            break
        names, parent = np.unique(parent, return_inverse=True)
        groups = parent.astype(np.int32)[groups]
        count = len(names)
    return groups


def _borders(
    vertices: NDArray[np.float32],
    faces: NDArray[np.int32],
    twin: NDArray[np.int32],
    group: NDArray[np.int32],
    count: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the pairs of adjacent groups and the lengths of their common borders."""
    half = np.empty(twin.size, np.int32)
    half = half[: call(kernels.list_borders, twin, group, half)]
    if half.size == 0:
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, np.zeros(0)
    a, b = group[half // 3].astype(np.int64), group[twin[half] // 3].astype(np.int64)
    corner = faces.reshape(-1)
    ends = next_half_edges(half)
    length = np.linalg.norm(vertices[corner[half]] - vertices[corner[ends]], axis=1)
    keys, inverse = np.unique(np.minimum(a, b) * count + np.maximum(a, b), return_inverse=True)
    return (
        keys // count,
        keys % count,
        np.bincount(inverse, length.astype(np.float64)).astype(np.float64) + 1e-12,
    )
