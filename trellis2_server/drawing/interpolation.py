"""Interpolating texture and normals at the samples of a picture.

Does not know: cameras, lights, files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.drawing.model import DrawnModel, Pyramid


def interpolate(
    model: DrawnModel,
    pyramid: Pyramid,
    points: NDArray[Any],
    owner: NDArray[np.int32],
    sample: NDArray[np.intp],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return texture and normals at samples.

    Args:
        model: the model.
        pyramid: that of its texture.
        points: its vertices in samples, see `camera.project`, [N, 3].
        owner: face at each sample, row by row, [n * n].
        sample: indices of the samples, which have a face, [S].

    Returns:
        Texture, see `DrawnModel`, from 0 to 255, float32 [S, C], and normals, not of unit length,
        float32 [S, 3].
    """
    n = int(np.sqrt(len(owner)))
    face = owner[sample]
    faces, normal_faces, uv_faces = (
        model.faces[face],
        model.normal_faces[face],
        model.uv_faces[face],
    )
    a, b, c = (points[faces[:, k]] for k in range(3))
    x, y = sample % n + 0.5, sample // n + 0.5
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    u = ((b[:, 0] - x) * (c[:, 1] - y) - (b[:, 1] - y) * (c[:, 0] - x)) / area
    v = ((c[:, 0] - x) * (a[:, 1] - y) - (c[:, 1] - y) * (a[:, 0] - x)) / area
    weights = np.stack([u, v, 1 - u - v]).astype(np.float32)[..., None]
    normal = sum(weights[k] * model.normals[normal_faces[:, k]] for k in range(3))
    corners = model.uvs[uv_faces]
    uv = sum(weights[k] * corners[:, k] for k in range(3))
    level = _levels(corners, area, pyramid)
    return _texels(pyramid, level, np.asarray(uv)), np.asarray(normal)


def _levels(corners: NDArray[np.float32], area: NDArray[Any], pyramid: Pyramid) -> NDArray[np.intp]:
    """Return the level of which a sample covers about one texel, [S].

    Args:
        corners: texture coordinates of the corners of the face at each sample, [S, 3, 2].
        area: twice its area in the picture, samples, [S].
        pyramid: of the texture.
    """
    edges = corners[:, 1:].astype(np.float64) - corners[:, :1]
    cross = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
    _, width, height = pyramid.levels[0]
    texels = np.abs(cross) * (width * height) / np.abs(area)
    limits = 2.0 * 4.0 ** np.arange(len(pyramid.levels) - 1)
    return np.searchsorted(limits, texels)


def _texels(
    pyramid: Pyramid, level: NDArray[np.intp], uv: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Sample the levels bilinearly, repeated as by glTF's default sampler, float32 [S, C]."""
    texels = pyramid.texels
    if len(texels) == 1:
        return np.broadcast_to(texels[0].astype(np.float32), (len(uv), texels.shape[1]))
    first, width, height = pyramid.levels[level].T
    s = uv[:, 0] * width.astype(np.float32) - np.float32(0.5)
    t = uv[:, 1] * height.astype(np.float32) - np.float32(0.5)
    left, top = np.floor(s), np.floor(t)
    right_part, low_part = (s - left)[:, None], (t - top)[:, None]
    i, j = left.astype(np.int64) % width, top.astype(np.int64) % height
    i_1, upper_row, lower_row = (i + 1) % width, first + j * width, first + (j + 1) % height * width
    upper = texels[upper_row + i] * (1 - right_part) + texels[upper_row + i_1] * right_part
    lower = texels[lower_row + i] * (1 - right_part) + texels[lower_row + i_1] * right_part
    return (upper * (1 - low_part) + lower * low_part).astype(np.float32)
