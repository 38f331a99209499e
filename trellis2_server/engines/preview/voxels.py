"""Colours of front and back → a sparse field around a mesh of two sheets.

Where the surface turns away at the outline, the last columns of the picture would be stretched
over all of its depth. There the colour comes from further inside: from as far inside of the rim's
end as the place is beyond it, measured along the surface.

Does not know: pictures, how the colours are made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.engines.preview import kernels
from trellis2_server.engines.preview.sheets import widened
from trellis2_server.export.cancellation import call
from trellis2_server.mesh import VoxelField

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.engines.preview.sheets import Sheets
    from trellis2_server.mesh import Mesh
    from trellis2_server.reports import Report

#: Distance from the surface, voxels, within which trilinear sampling finds all corners.
_SAMPLING_REACH_VOXELS: Final = 0.5
#: Columns that are nearer to the outline are its rim: those that touch it, also at a corner.
_RIM_COLUMNS: Final = 1.45


def paint(  # noqa: PLR0913, PLR0917 - one argument for each input
    mesh: Mesh, front: int, colors: Sheets, roughness: np.float32, size: int, report: Report
) -> VoxelField:
    """Make the field of a closed mesh of two sheets that meet at the outline.

    Args:
        mesh: in the model frame. The front sheet is not behind the plane y = 0, the back sheet is
            not before it; both cover the same columns.
        front: number of faces of the front sheet, which are the first ones.
        colors: of the columns.
        roughness: of the whole surface.
        size: edge of the field, voxels.
        report: stages "surface" and "voxels", of 3 steps.
    """
    loops = kernels.load("voxels")
    report("surface", 1, 3)
    voxels = (mesh.vertices.astype(np.float64) + 0.5) * size
    points = np.ascontiguousarray(voxels[:, [0, 2, 1]])
    points[:, 2] = 0.5 * size - points[:, 2]
    ranges = np.empty((4, size, size), np.float32)
    heights: list[NDArray[np.float32]] = []
    # Both counter-clockwise as seen from the front.
    sides = mesh.faces[:front], np.ascontiguousarray(mesh.faces[front:, ::-1])
    for side, faces in enumerate(sides):
        low = np.full((size, size), np.inf, np.float32)
        high = np.full((size, size), -1.0, np.float32)
        call(loops.height_ranges, points, faces, low, high)
        points[:, 2] *= -1
        heights.append(np.where(high < 0, np.float32(0), np.float32(0.5) * (low + high)))
        for axis in range(2):
            low = widened(low, axis, np.minimum)
            high = widened(high, axis, np.maximum)
        ranges[2 * side : 2 * side + 2] = low, high
    report("voxels", 2, 3)
    rims = np.empty((size, size, 6), np.float32)
    call(loops.find_rims, colors.distance, *heights, _RIM_COLUMNS, rims)
    opacity = np.ones((size, size), np.float32) if colors.opacity is None else colors.opacity
    columns = ranges, _SAMPLING_REACH_VOXELS, rims, colors.front, colors.back, opacity, roughness
    coords, attributes = np.empty((0, 3), np.int32), np.empty((0, 6), np.float32)
    count = call(loops.fill_voxels, *columns, coords, attributes)
    coords, attributes = np.empty((count, 3), np.int32), np.empty((count, 6), np.float32)
    call(loops.fill_voxels, *columns, coords, attributes)
    report("voxels", 3, 3)
    return VoxelField(coords=coords, attributes=attributes, resolution=size)
