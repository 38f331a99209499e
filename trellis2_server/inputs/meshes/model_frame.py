"""Bring a scene into the frame in which models are textured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes.welding import weld

if TYPE_CHECKING:
    from trellis2_server.inputs.meshes.scene import Scene
    from trellis2_server.mesh import Mesh

#: Share of the cube's edge that the mesh fills, as in TRELLIS.2.
FILL: Final = 0.99999


@np.errstate(all="ignore")
def to_model_frame(scene: Scene, rotation_deg: float = 0.0) -> Mesh:
    """Merge all parts into one mesh in the model frame that fills the cube.

    The scene's front, +Z, faces -Y. Vertices at the same position are merged; faces are in the
    order of the parts.

    Args:
        scene: not changed.
        rotation_deg: rotation, counter-clockwise seen from above, in degrees.

    Raises:
        InputError: the extent of the scene is zero or not finite.
    """
    positions, faces = scene.merge()
    x, y, z = positions.T
    angle = np.deg2rad(rotation_deg)
    sine, cosine = np.sin(angle), np.cos(angle)
    points = np.stack([x * cosine + z * sine, x * sine - z * cosine, y], axis=1)
    used = points[np.unique(faces)]
    low, high = used.min(axis=0), used.max(axis=0)
    extent = float((high - low).max())
    if not np.isfinite(extent) or extent <= 0:
        raise InputError("mesh: it has no size")
    points = ((points - (low + high) / 2) * (FILL / extent)).astype(np.float32)
    return weld(points, faces)
