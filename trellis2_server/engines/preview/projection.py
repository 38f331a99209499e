"""A picture on a given mesh: laid on from the front, and on the rest what may be there.

What this module does not know: files, scenes, where the mesh comes from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from trellis2_server.mesh import VoxelField

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from trellis2_server.inputs.images import Cutout
    from trellis2_server.mesh import Mesh

    Report = Callable[[str, int, int], None]
    #: Picture, its kernels, and the field's size → colours of front and back [x, z, RGB].
    Sheets = Callable[
        [Any, NDArray[np.uint8], int], tuple[NDArray[np.float32], NDArray[np.float32]]
    ]

#: Alpha of the object's box, as `images` cuts it.
_OPAQUE_ALPHA: Final = 204
#: Free voxels around what `Sheets` sees as the picture.
_MARGIN_VOXELS: Final = 2
MAX_RESOLUTION: Final = 768
MIN_RESOLUTION: Final = 32
#: Area of all faces, in voxels' sides, above which a coarser field is taken; a face counts
#: for its longest edge at least.
MAX_AREA: Final = 8e6
#: Voxels behind the first surface that still count as seen, and over which that ends.
REACH_VOXELS: Final = 3


def resolution(mesh: Mesh, wanted: int) -> int:
    """Voxels along the cube's edge: as wanted, or fewer where the mesh has too large a surface."""
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    sides = corners[:, [1, 2, 0]] - corners
    area = 0.5 * np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1)
    longest = np.linalg.norm(sides, axis=2).max(axis=1)
    size = min(wanted, MAX_RESOLUTION)
    while size > MIN_RESOLUTION and np.maximum(area * size * size, longest * size).sum() > MAX_AREA:
        size = max(size * 3 // 4 // 4 * 4, MIN_RESOLUTION)
    return size


def surface_kernels() -> Any:
    """The compiled loops; compiled or read from numba's cache at the first call."""
    from trellis2_server.engines.preview import _surface

    return _surface


def project(  # noqa: PLR0913, PLR0917 - one argument per thing that is joined here
    kernels: Any,
    sheets: Sheets,
    mesh: Mesh,
    cutout: Cutout,
    wanted: int,
    roughness: float,
    report: Report,
) -> VoxelField:
    """A field around the mesh, coloured by the picture as seen from -Y.

    The object's box in the picture is laid on the mesh's box. What the mesh itself hides
    from there, and its back, get what `sheets` knows of the other side.

    Args:
        kernels: for `sheets`.
        sheets: makes the two sides' colours of a picture.
        mesh: in the model frame, filling the cube.
        cutout: the picture.
        wanted: voxels along the cube's edge.
        roughness: of everything.
        report: stages "colours" and "voxels".
    """
    loops = surface_kernels()
    size = resolution(mesh, wanted)
    voxels = (mesh.vertices.astype(np.float64) + 0.5) * size
    report("colours", 0, 3)
    front, back = sheets(kernels, _on_box(cutout.rgba, voxels, size), size)
    report("voxels", 1, 3)
    bits = np.zeros((size**3 + 7) // 8, np.uint8)
    loops.mark(np.ascontiguousarray(voxels), mesh.faces, size, bits)
    depth = np.full((size, size), size, np.int32)
    count = loops.first_depths(bits, size, depth)
    report("voxels", 2, 3)
    coords, attributes = np.empty((count, 3), np.int32), np.empty((count, 6), np.float32)
    loops.paint(bits, depth, REACH_VOXELS, front, back, np.float32(roughness), coords, attributes)
    report("voxels", 3, 3)
    return VoxelField(coords=coords, attributes=attributes, resolution=size)


def _on_box(
    picture: NDArray[np.uint8], voxels: NDArray[np.float64], size: int
) -> NDArray[np.uint8]:
    """The object in the picture, stretched over the mesh's box as seen from the front."""
    rows, columns = np.nonzero(picture[..., 3] > _OPAQUE_ALPHA)
    if not len(rows):
        rows, columns = np.nonzero(np.ones(picture.shape[:2], bool))
    box = int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
    low, high = voxels.min(axis=0), voxels.max(axis=0)
    left, right = round(float(low[0])), round(float(high[0]))
    bottom, top = round(float(low[2])), round(float(high[2]))
    shape = max(right - left, 1), max(top - bottom, 1)
    # Premultiplied, so that what is clear does not count.
    object_ = (
        Image.fromarray(picture).convert("RGBa").resize(shape, Image.Resampling.LANCZOS, box=box)
    )
    edge = size - 2 * _MARGIN_VOXELS
    canvas = Image.new("RGBA", (edge, edge))
    canvas.paste(object_.convert("RGBA"), (left - _MARGIN_VOXELS, edge - (top - _MARGIN_VOXELS)))
    return np.array(canvas)
