"""Colours at the places of a model: the mean of its texture around each.

Does not know: file formats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.export.cancellation import check

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.export.formats.model import Model

#: Points of a face whose texels count for its first corner, as barycentric coordinates: the part
#: of the face that is nearer to that corner than to the others. They stay within the face's chart.
_POINTS: Final = np.array(
    [[0.9, 0.05, 0.05], [0.7, 0.2, 0.1], [0.7, 0.1, 0.2], [0.5, 0.25, 0.25]], np.float32
)
#: Faces read at a time.
_FACES: Final = 1 << 16
#: Weight of the colour of texels that cannot be seen.
_CLEAR: Final = 1e-4


def place_colors(model: Model) -> NDArray[np.uint8] | None:
    """Return the base colour at each place, uint8 [N, 4], sRGB; None: no texture.

    Texels are averaged in linear light, weighted by the areas of the faces and by alpha.
    """
    picture = model.base_color
    if picture is None or model.uv is None or model.uv_faces is None:
        return None
    pixels = np.asarray(picture)
    size = np.array([pixels.shape[1], pixels.shape[0]])
    linear = _to_linear(np.arange(256) / 255).astype(np.float32)
    count = len(model.positions)
    #: Light of three channels, its weight, area by alpha, area.
    sums = np.zeros((6, count))
    for start in range(0, len(model.faces), _FACES):
        faces = model.faces[start : start + _FACES]
        corners = model.uv[model.uv_faces[start : start + _FACES]]
        area = _areas(model.positions, faces)
        for corner in range(3):
            check()
            rows = np.zeros((6, len(faces)))
            for point in np.roll(_POINTS, corner, axis=1):
                texel = np.clip(np.einsum("c,fcd->fd", point, corners) * size, 0, size - 1)
                x, y = texel.astype(np.int32).T
                texels = pixels[y, x]
                alpha = area * (texels[:, 3] / 255.0)
                seen = alpha + area * _CLEAR
                rows[:3] += seen * linear[texels[:, :3].T]
                rows[3:] += seen, alpha, area
            for at, row in enumerate(rows):
                sums[at] += np.bincount(faces[:, corner], row, count)
    light = sums[:3].T / np.maximum(sums[3], 1e-300)[:, None]
    colors = np.empty((count, 4), np.uint8)
    factor = np.array(model.material.color)
    colors[:, :3] = np.rint(255 * _to_srgb(light * factor[:3]))
    colors[:, 3] = np.rint(255 * factor[3] * sums[4] / np.maximum(sums[5], 1e-300))
    return colors


def _areas(positions: NDArray[np.float32], faces: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return areas, float64 [F]; those without have a tiny one, so that places have colours."""
    corners = positions[faces].astype(np.float64)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return np.linalg.norm(cross, axis=1) + 1e-30


def _to_linear(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """IEC 61966-2-1, sRGB → linear light, 0 … 1."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)  # noqa: PLR2004


def _to_srgb(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """IEC 61966-2-1, linear light → sRGB, 0 … 1."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)  # noqa: PLR2004
