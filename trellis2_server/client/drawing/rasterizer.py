"""Rasterizing triangles, and interpolating their attributes at samples.

Does not know: cameras, lights, files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from trellis2_server.client.drawing.model import DrawnModel

#: Samples that are tested at once; more of them take more memory, fewer take more time.
BATCH_SAMPLES: Final = 1_000_000
#: How far outside a face a sample may lie, relative to the face, so that there are no gaps.
_SLACK: Final = 1e-9


def rasterize(
    points: NDArray[Any], faces: NDArray[np.int32], n: int, *, cull: bool
) -> NDArray[np.int32]:
    """Return the nearest face at each sample, int32 [n * n]; -1 without a face.

    Args:
        points: vertices in samples, see `camera.project`, [N, 3].
        faces: vertex indices, [F, 3].
        n: samples along an edge.
        cull: whether to omit faces that are seen from behind.
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
        inside = np.flatnonzero((u > -_SLACK) & (v > -_SLACK) & (u + v < 1 + _SLACK))
        # Reversed: of two equally near faces, the first one is written last.
        inside = inside[::-1]
        face, u, v = face[inside], u[inside], v[inside]
        near = u * z[face, 0] + v * z[face, 1] + (1 - u - v) * z[face, 2]
        sample = (top[face] + row[inside]) * n + left[face] + column[inside]
        order = np.argsort(near, kind="stable")
        order = order[near[order] > depth[sample[order]]]
        depth[sample[order]] = near[order]
        owner[sample[order]] = drawn[face[order]]
    return owner


def _batches(samples: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield ranges of faces with at most `BATCH_SAMPLES` samples, or of a single face."""
    total = np.cumsum(samples)
    begin, before = 0, 0
    while begin < len(total):
        end = max(int(np.searchsorted(total, before + BATCH_SAMPLES, "right")), begin + 1)
        yield begin, end
        begin, before = end, int(total[end - 1])


def interpolate(
    model: DrawnModel,
    points: NDArray[Any],
    faces: NDArray[np.int32],
    sample: NDArray[np.intp],
    n: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return base colours and normals at samples.

    Args:
        model: the model.
        points: its vertices in samples, see `camera.project`, [N, 3].
        faces: vertex indices of the face at each sample, [S, 3].
        sample: indices of the samples, row by row, [S].
        n: samples along an edge.

    Returns:
        RGBA from 0 to 255, float32 [S, 4], and normals, not of unit length, float32 [S, 3].
    """
    a, b, c = (points[faces[:, k]] for k in range(3))
    x, y = sample % n + 0.5, sample // n + 0.5
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    u = ((b[:, 0] - x) * (c[:, 1] - y) - (b[:, 1] - y) * (c[:, 0] - x)) / area
    v = ((c[:, 0] - x) * (a[:, 1] - y) - (c[:, 1] - y) * (a[:, 0] - x)) / area
    weights = np.stack([u, v, 1 - u - v]).astype(np.float32)[..., None]
    normal = sum(weights[k] * model.normals[faces[:, k]] for k in range(3))
    uv = sum(weights[k] * model.uvs[faces[:, k]] for k in range(3))
    return _texels(model.base_color, np.asarray(uv)), np.asarray(normal)


def _texels(texture: NDArray[np.uint8], uv: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sample a texture bilinearly, repeated as by glTF's default sampler, float32 [S, 4]."""
    height, width = texture.shape[:2]
    if height == width == 1:
        return np.broadcast_to(texture[0, 0].astype(np.float32), (len(uv), 4))
    s, t = uv[:, 0] * width - 0.5, uv[:, 1] * height - 0.5
    left, top = np.floor(s), np.floor(t)
    right_part, low_part = (s - left)[:, None], (t - top)[:, None]
    i, j = left.astype(np.int64) % width, top.astype(np.int64) % height
    i_1, j_1 = (i + 1) % width, (j + 1) % height
    upper = texture[j, i] * (1 - right_part) + texture[j, i_1] * right_part
    lower = texture[j_1, i] * (1 - right_part) + texture[j_1, i_1] * right_part
    return (upper * (1 - low_part) + lower * low_part).astype(np.float32)
