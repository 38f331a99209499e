"""Colours an uploaded mesh with a picture: from the front, continued on the other sides.

Does not know: files, scenes, where the mesh comes from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.engines.preview import kernels
from trellis2_server.engines.preview.sheets import sheets, stretched
from trellis2_server.export.cancellation import call
from trellis2_server.inputs.images.transparency import Box, find_box
from trellis2_server.mesh import VoxelField

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.engines.preview.back import BackMode
    from trellis2_server.inputs.images import Cutout
    from trellis2_server.mesh import Mesh
    from trellis2_server.reports import Report

_MAX_RESOLUTION: Final = 768
_MIN_RESOLUTION: Final = 32
#: Sum of the faces' areas and longest edges, in voxels, above which a coarser field is used. The
#: time that marking their voxels takes grows with it: at this limit about .2 s.
_MAX_WORK: Final = 8e6
#: Depth behind the first surface that still gets the front's colour, voxels; over the same depth
#: behind that, the colour changes to that of the back.
_FRONT_DEPTH_VOXELS: Final = 3


def resolution(mesh: Mesh, wanted: int) -> int:
    """Return the edge of the field: `wanted` voxels, or fewer for a mesh of large or long faces."""
    totals = np.zeros(2)
    call(kernels.load("surface").measure, mesh.vertices, mesh.faces, totals)
    area, length = totals.tolist()
    size = min(wanted, _MAX_RESOLUTION)
    while size > _MIN_RESOLUTION and area * size * size + length * size > _MAX_WORK:
        size = max(size * 3 // 4 // 4 * 4, _MIN_RESOLUTION)
    return size


def project(  # noqa: PLR0913, PLR0917 - one argument for each input
    mesh: Mesh, cutout: Cutout, wanted: int, back: BackMode, roughness: float, report: Report
) -> VoxelField:
    """Make a field around the mesh, coloured by the picture as seen from -Y.

    The object's box in the picture is stretched over the mesh's box. Parts that the mesh hides
    from there, and its back, have the colours of `sheets`' back.

    Args:
        mesh: in the model frame, filling the cube.
        cutout: the picture.
        wanted: voxels along the cube's edge.
        back: what the parts have that the picture does not show.
        roughness: roughness of the whole surface, 0 to 1.
        report: stages "colours" and "voxels".
    """
    loops = kernels.load("surface")
    size = resolution(mesh, wanted)
    report("colours", 0, 3)
    colors = sheets(_on_box(cutout.rgba, mesh, size), size, back)
    report("voxels", 1, 3)
    bits = np.zeros((size**3 + 7) // 8, np.uint8)
    call(loops.mark, mesh.vertices, mesh.faces, size, bits)
    depth = np.full((size, size), size, np.int32)
    count = call(loops.first_depths, bits, size, depth)
    report("voxels", 2, 3)
    coords, attributes = np.empty((count, 3), np.int32), np.empty((count, 6), np.float32)
    call(
        loops.paint, bits, depth, _FRONT_DEPTH_VOXELS, colors.front, colors.back,
        np.float32(roughness), coords, attributes,
    )  # fmt: skip
    report("voxels", 3, 3)
    return VoxelField(coords=coords, attributes=attributes, resolution=size, details={"back": back})


def _on_box(picture: NDArray[np.uint8], mesh: Mesh, size: int) -> NDArray[np.uint8]:
    """Stretch the object in the picture over the mesh's box as seen from the front."""
    found, _ = find_box(picture)
    columns, rows = (
        (round((float(ends.min()) + 0.5) * size), round((float(ends.max()) + 0.5) * size))
        for ends in (mesh.vertices[:, 0], mesh.vertices[:, 2])
    )
    return stretched(picture, found or Box(0, 0, *picture.shape[:2]), size, columns, rows)
