"""Camera: its direction, and the part of the view plane that a picture shows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

#: Name in `VIEWS`, or azimuth and elevation in degrees.
View: TypeAlias = "str | tuple[float, float]"
#: Square of the view plane: centre to the right, centre upward, edge; in the model's units.
Frame: TypeAlias = tuple[float, float, float]

#: Azimuth (positive toward the model's +X) and elevation, degrees.
VIEWS: Final[dict[str, tuple[float, float]]] = {
    "front": (0.0, 0.0),
    "three_quarter": (32.0, 18.0),
    "right": (90.0, 0.0),
    "back": (180.0, 0.0),
    "left": (-90.0, 0.0),
    "top": (0.0, 90.0),
    "bottom": (0.0, -90.0),
}
#: Edge of the default frame, relative to the model.
MARGIN: Final = 1.04


def axes_of(view: View) -> NDArray[np.float64]:
    """Return the camera's axes in glTF's frame, float64 [3, 3]; rows: right, up, toward it."""
    azimuth, elevation = VIEWS[view] if isinstance(view, str) else view
    a, e = math.radians(azimuth), math.radians(elevation)
    toward = (math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e))
    right = (math.cos(a), 0.0, -math.sin(a))
    return np.array([right, np.cross(toward, right), toward])


def frame_of(positions: NDArray[Any], axes: NDArray[Any]) -> Frame:
    """Return the frame of these vertices [N, 3], with a small margin."""
    flat = positions @ axes[:2].T
    low, high = flat.min(0), flat.max(0)
    center = (low + high) / 2
    return float(center[0]), float(center[1]), max(float((high - low).max()) * MARGIN, 1e-9)


def frame_around(positions: NDArray[Any], elevation: float) -> Callable[[NDArray[Any]], Frame]:
    """Return a function from a camera's axes to its frame, of one size for a whole turn.

    The model turns about the vertical axis through the middle of its box, which stays where it is.

    Args:
        positions: vertices, [N, 3].
        elevation: that of all cameras, degrees.
    """
    x, y, z = positions.astype(np.float64).T
    center_x, center_z = (x.min() + x.max()) / 2, (z.min() + z.max()) / 2
    radius = np.hypot(x - center_x, z - center_z)
    sin, cos = math.sin(math.radians(elevation)), math.cos(math.radians(elevation))
    # What each vertex reaches upward and downward in the picture while it goes round.
    high = float((y * cos + radius * abs(sin)).max())
    low = float((y * cos - radius * abs(sin)).min())
    edge = max(2 * float(radius.max()), high - low) * MARGIN

    def frame(axes: NDArray[Any]) -> Frame:
        right, up = axes[:2] @ (center_x, 0.0, center_z)
        return float(right), float(up) + (high + low) / 2, max(edge, 1e-9)

    return frame


def project(
    positions: NDArray[Any], axes: NDArray[Any], frame: Frame, n: int
) -> NDArray[np.float64]:
    """Return vertices in samples of a square picture, float64 [N, 3].

    x counts columns, y counts rows downward, and a larger z is nearer.

    Args:
        positions: vertices in glTF's frame, [N, 3].
        axes: the camera's axes, see `axes_of`.
        frame: part of the view plane that the picture shows.
        n: samples along an edge of the picture.
    """
    center_x, center_y, edge = frame
    points = positions @ axes.T
    points[:, 0] = (points[:, 0] - center_x) / edge * n + n / 2
    points[:, 1] = n / 2 - (points[:, 1] - center_y) / edge * n
    return points.astype(np.float32).astype(np.float64)
