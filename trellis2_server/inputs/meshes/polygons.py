"""Split polygons into triangles.

Does not know: file formats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trellis2_server.inputs.meshes.scene import check_corners, check_size

if TYPE_CHECKING:
    from numpy.typing import NDArray


def triangulate(corners: NDArray[Any], sizes: NDArray[Any]) -> NDArray[np.int64]:
    """Return the triangles of all polygons, as fans around their first corners.

    Args:
        corners: integers [C], of all polygons.
        sizes: numbers of corners; polygons with fewer than three have no triangle.

    Returns:
        int64 [F, 3], in the order of the polygons.

    Raises:
        TooLargeError: there are more triangles, or corners of a polygon, than the limit allows.
    """
    sizes = np.asarray(sizes, np.int64)
    check_corners(int(sizes.max(initial=0)))
    triangles = np.maximum(sizes - 2, 0)
    count = int(triangles.sum())
    check_size(0, count)
    corners = np.asarray(corners)
    first = np.cumsum(sizes) - sizes
    # The second corner of the triangle that follows is the next corner of the polygon.
    hubs = np.repeat(first, triangles)
    second = hubs + 1 + np.arange(count) - np.repeat(np.cumsum(triangles) - triangles, triangles)
    faces = np.empty((count, 3), np.int64)
    faces[:, 0] = corners[hubs]
    faces[:, 1] = corners[second]
    second += 1
    faces[:, 2] = corners[second]
    return faces
