"""Rasterizing triangles.

Does not know: cameras, textures, lights, files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

#: Samples that are tested at once; more of them take more memory, fewer take more time.
BATCH_SAMPLES: Final = 1_000_000
#: How far outside a face a sample may lie, relative to the face, so that there are no gaps.
SLACK: Final = 1e-9


def rasterize(
    points: NDArray[Any],
    faces: NDArray[np.int32],
    n: int,
    *,
    cull: bool,
    beyond: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return the nearest face at each sample, int32 [n * n], and its depth, float64 [n * n].

    Without a face, -1 and -infinity. Of two equally near faces, the first one is returned.

    Args:
        points: vertices in samples, see `camera.project`, [N, 3].
        faces: vertex indices, [F, 3].
        n: samples along an edge.
        cull: whether to omit faces that are seen from behind.
        beyond: depth at each sample, [n * n], of which only faces farther away count; None: all.
    """
    x, y, z = (points[:, k][faces] for k in range(3))
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (y[:, 1] - y[:, 0]) * (x[:, 2] - x[:, 0])
    left = np.maximum(np.ceil(x.min(1) - 0.5), 0).astype(np.int32)
    top = np.maximum(np.ceil(y.min(1) - 0.5), 0).astype(np.int32)
    wide = np.minimum(np.floor(x.max(1) - 0.5), n - 1).astype(np.int32) - left + 1
    high = np.minimum(np.floor(y.max(1) - 0.5), n - 1).astype(np.int32) - top + 1
    # Rows count downward, so a face that is counter-clockwise in the model has a negative area.
    drawn = np.flatnonzero((wide > 0) & (high > 0) & (area < 0 if cull else area != 0))
    x, y, z, area, left, top, wide, high = (
        values[drawn] for values in (x, y, z, area, left, top, wide, high)
    )
    # Barycentric coordinates of the first sample of each face's bounding box, and their slopes.
    u_x, u_y = (y[:, 1] - y[:, 2]) / area, (x[:, 2] - x[:, 1]) / area
    v_x, v_y = (y[:, 2] - y[:, 0]) / area, (x[:, 0] - x[:, 2]) / area
    from_x, from_y = left + 0.5 - x[:, 2], top + 0.5 - y[:, 2]
    u_0, v_0 = u_x * from_x + u_y * from_y, v_x * from_x + v_y * from_y

    depth = np.full(n * n, -np.inf)
    owner = np.full(n * n, -1, np.int32)
    samples = wide.astype(np.int64) * high
    for begin, end in _batches(samples):
        count = samples[begin:end]
        face = np.repeat(np.arange(begin, end), count)
        nth = np.arange(len(face)) - np.repeat(np.cumsum(count) - count, count)
        row = nth // wide[face]
        column = nth - row * wide[face]
        u = u_0[face] + u_x[face] * column + u_y[face] * row
        v = v_0[face] + v_x[face] * column + v_y[face] * row
        inside = np.flatnonzero((u > -SLACK) & (v > -SLACK) & (u + v < 1 + SLACK))
        # Reversed: of two equally near faces, the first one is written last.
        inside = inside[::-1]
        face, u, v = face[inside], u[inside], v[inside]
        near = u * z[face, 0] + v * z[face, 1] + (1 - u - v) * z[face, 2]
        sample = (top[face] + row[inside]) * n + left[face] + column[inside]
        order = np.argsort(near, kind="stable")
        is_drawn = near[order] > depth[sample[order]]
        if beyond is not None:
            is_drawn &= near[order] < beyond[sample[order]]
        order = order[is_drawn]
        depth[sample[order]] = near[order]
        owner[sample[order]] = drawn[face[order]]
    return owner, depth


def _batches(samples: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield ranges of faces with at most `BATCH_SAMPLES` samples, or of a single face."""
    total = np.cumsum(samples)
    begin, before = 0, 0
    while begin < len(total):
        end = max(int(np.searchsorted(total, before + BATCH_SAMPLES, "right")), begin + 1)
        yield begin, end
        begin, before = end, int(total[end - 1])
