"""Normals of a model with a normal map, at the samples of a picture.

The tangents are those of the faces, and not the file's: on smooth surfaces the two hardly differ.

Does not know: cameras, lights, files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trellis2_server.drawing.model import NORMAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.drawing.model import DrawnModel


def mapped_normals(
    model: DrawnModel, face: NDArray[np.int32], texels: NDArray[np.float32], normal: NDArray[Any]
) -> NDArray[np.float32]:
    """Return the normals that the map shows, not of unit length, float32 [S, 3].

    Args:
        model: the model.
        face: at each sample, [S].
        texels: its texture there, see `DrawnModel.texture`, 0 to 255, [S, C]. Without a normal map
            the normals are returned as they are.
        normal: interpolated normals, [S, 3].
    """
    if texels.shape[1] <= NORMAL.start:
        return normal
    a, b, c = np.moveaxis(model.positions[model.faces[face]], 1, 0)
    p, q, r = np.moveaxis(model.uvs[model.uv_faces[face]], 1, 0)
    along, across = b - a, c - a
    (du, dv), (eu, ev) = (q - p).T[..., None], (r - p).T[..., None]
    area = du * ev - dv * eu
    # To the right and up in the image, whose rows count downward (glTF 2.0, 3.7.2.1).
    right = (along * ev - across * dv) * np.sign(area)
    up = (along * eu - across * du) * np.sign(area)
    unit = _unit(normal)
    tangent = _unit(right - unit * _dot(right, unit))
    bitangent = np.cross(unit, tangent)
    bitangent *= np.where(_dot(bitangent, up) < 0, -1, 1)
    x, y, z = (texels[:, NORMAL] * np.float32(2 / 255) - 1).T[..., None]
    return np.where(area == 0, unit, x * tangent + y * bitangent + z * unit).astype(np.float32)


def _dot(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    return (one * other).sum(axis=1, keepdims=True)


def _unit(vectors: NDArray[Any]) -> NDArray[Any]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-20)
