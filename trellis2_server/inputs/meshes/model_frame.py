"""Bring a scene into the frame in which models are textured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.meshes.welding import weld

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.inputs.meshes.scene import Scene
    from trellis2_server.mesh import Mesh
    from trellis2_server.request_fields import UpAxis

#: Share of the cube's edge that the mesh fills, as in TRELLIS.2.
FILL: Final = 0.99999
#: A face has an area if that is more than this share of the square of its longest edge. Rounding
#: gives a line about 1e-16.
MIN_SHARE: Final = 1e-12
#: Maximum area of all faces, in sides of the cube. A voxelised mesh takes work and memory in
#: proportion to it: at a resolution of 1024, a million voxels for each side. A closed box has 6.
MAX_AREA: Final = 200.0
#: Maximum sum of the longest edges of all faces, in sides of the cube: what thin faces cost, which
#: have little area. Four million even faces with the area of a closed box have 7,000.
MAX_LENGTH: Final = 100_000.0

_FACES_AT_ONCE: Final = 65_536


@np.errstate(all="ignore")
def to_model_frame(scene: Scene, rotation_deg: float = 0.0, up_axis: UpAxis = "auto") -> Mesh:
    """Merge all parts into one mesh in the model frame that fills the cube.

    The scene's front, +Z if Y points up and -Y if Z does, faces -Y. Vertices at the same position
    are merged, those that no face uses left out; faces are in the order of the parts.

    Args:
        scene: not changed.
        rotation_deg: rotation, counter-clockwise seen from above, in degrees.
        up_axis: axis that points up in the scene; "auto": that of the scene.

    Raises:
        InputError: the extent of the scene is zero or not finite, or its faces have no area.
        TooLargeError: the faces have more than `MAX_AREA`, they lie in many layers; or more than
            `MAX_LENGTH`, many are long and thin.
    """
    positions, faces = scene.merge()
    is_used = np.zeros(len(positions), bool)
    is_used[faces] = True
    angle = np.deg2rad(rotation_deg)
    sine, cosine = np.sin(angle), np.cos(angle)
    x, y, z = positions.T
    # In place from here on: each copy takes 24 bytes a vertex.
    points = np.empty_like(positions)
    if (scene.up_axis if up_axis == "auto" else up_axis) == "z":
        points[:, 0] = x * cosine - y * sine
        points[:, 1] = x * sine + y * cosine
        points[:, 2] = z
    else:
        points[:, 0] = x * cosine + z * sine
        points[:, 1] = x * sine - z * cosine
        points[:, 2] = y
    del positions, x, y, z
    low, high = np.array([[f(column[is_used]) for column in points.T] for f in (np.min, np.max)])
    extent, center = float((high - low).max()), (low + high) / 2
    if not np.isfinite([extent, *center]).all():
        raise InputError("mesh: its size exceeds the range of numbers")
    if extent <= 0 or not np.isfinite(FILL / extent):
        raise InputError("mesh: it has no size, its faces have no area")
    points -= center
    points *= FILL / extent
    # Before they are rounded: faces far apart may be points in single precision.
    if not _has_area(points, faces):
        raise InputError("mesh: it has no surface, its faces have no area")
    # A vertex that no face uses may lie anywhere. It would count in the mesh's bounds.
    points[~is_used] = points[faces[0, 0]]
    mesh = weld(points.astype(np.float32), faces)
    area, length = _measure(mesh)
    if area > MAX_AREA:
        raise TooLargeError(
            f"mesh: its faces have {area:.0f} times the area of the side of a cube around it, "
            f"over the limit of {MAX_AREA:.0f}"
        )
    if length > MAX_LENGTH:
        raise TooLargeError(
            f"mesh: the longest edges of its faces are together {length:.0f} times as long as the "
            f"side of a cube around it, over the limit of {MAX_LENGTH:.0f}"
        )
    return mesh


def _has_area(points: NDArray[np.float64], faces: NDArray[np.int32]) -> bool:
    """Return whether any face is more than a line or a point."""
    for start in range(0, len(faces), _FACES_AT_ONCE):
        corners = points[faces[start : start + _FACES_AT_ONCE]]
        sides = corners[:, [1, 2, 0]] - corners
        # Each face in its own size: the squares of tiny edges would be zero.
        size = np.abs(sides).max(axis=(1, 2))
        sides = sides[size > 0] / size[size > 0, None, None]
        double = np.linalg.norm(np.cross(sides[:, 0], sides[:, 2]), axis=1)
        if (double > 2 * MIN_SHARE * np.square(sides).sum(axis=2).max(axis=1)).any():
            return True
    return False


def _measure(mesh: Mesh) -> tuple[float, float]:
    """Return the area of all faces, and the sum of their longest edges, in sides of the cube."""
    area = length = 0.0
    for start in range(0, len(mesh.faces), _FACES_AT_ONCE):
        corners = mesh.vertices[mesh.faces[start : start + _FACES_AT_ONCE]].astype(np.float64)
        sides = corners[:, [1, 2, 0]] - corners
        area += float(np.linalg.norm(np.cross(sides[:, 0], sides[:, 2]), axis=1).sum()) / 2
        length += float(np.sqrt(np.square(sides).sum(axis=2).max(axis=1)).sum())
    return area, length
