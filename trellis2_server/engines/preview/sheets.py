"""Colours of the object's front and back, on the columns of the voxel field.

The front grows from a coarse picture to the full one by adding detail level by level, where the
picture has any (push and pull).

Does not know: meshes, voxels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from PIL import Image

from trellis2_server.engines.preview import kernels
from trellis2_server.engines.preview.face import find_face
from trellis2_server.engines.preview.filling import fill, halved
from trellis2_server.engines.preview.silhouette import ISO
from trellis2_server.export.cancellation import call

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.engines.preview.back import BackMode
    from trellis2_server.inputs.images.transparency import Box

#: Free voxels between the picture's square and the cube's faces.
MARGIN_VOXELS: Final = 2
#: What is more opaque is opaque, and the least share of the object that is not, if it has glass.
_OPAQUE: Final = 0.96
_GLASS_SHARE: Final = 0.01
#: Columns along the edge of the coarsest level.
_MIN_COLUMNS: Final = 8


class Sheets(NamedTuple):
    """Colours of both sides, sRGB from 0 to 1.

    Attributes:
        front: float32 [x, z, RGB].
        back: the same; may be the same array.
        distance: of each column from the outline, in columns, 0 outside; float32 [x, z].
        opacity: of both sides, 0 to 1, float32 [x, z]; None: all of it is opaque.
    """

    front: NDArray[np.float32]
    back: NDArray[np.float32]
    distance: NDArray[np.float32]
    opacity: NDArray[np.float32] | None = None


def sheets(
    picture: NDArray[np.uint8], size: int, mode: BackMode, *, has_alpha: bool = False
) -> Sheets:
    """Return the colours of front and back.

    Args:
        picture: RGBA uint8 [S, S, 4].
        size: columns along an edge of the field.
        mode: "mirror": the back has the front's colours. "fill": it has them at the outline, and
            away from it a texture that is made of them.
        has_alpha: whether the picture's alpha says how transparent the object is, not only where
            it is.
    """
    loops = kernels.load("colors")
    scale = len(picture) / (size - 2 * MARGIN_VOXELS)
    base = np.empty((size, size, 4), np.float32)
    trusted = _trusted(picture)
    call(loops.resample, trusted, float(MARGIN_VOXELS), scale, base)
    distance = np.where(base[..., 3] > ISO, np.float32(1e6), np.float32(0))
    call(kernels.load("distance").chamfer, distance)
    fronts = _grown(base)
    front = fronts[-1]
    opacity = _opacity(picture, trusted, size) if has_alpha else None
    if mode == "mirror":
        return Sheets(front, front, distance, opacity)
    back = fill(fronts, distance, _face_columns(picture, size))
    return Sheets(front, back, distance, opacity)


def _grown(base: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return colours for all columns, the coarsest level first, from premultiplied ones."""
    levels = [base]
    while len(levels[-1]) % 2 == 0 and len(levels[-1]) > _MIN_COLUMNS:
        levels.append(halved(levels[-1]))
    total = levels[-1].reshape(-1, 4).sum(0)
    edge = (len(levels[-1]) + 1) // 2
    colors = np.full((edge, edge, 3), total[:3] / max(float(total[3]), 1e-6), np.float32)
    grown: list[NDArray[np.float32]] = []
    for level in reversed(levels):
        coarse, colors = colors, np.empty((*level.shape[:2], 3), np.float32)
        call(kernels.load("colors").refine, coarse, level, colors)
        grown.append(colors)
    return grown


def _opacity(
    picture: NDArray[np.uint8], trusted: NDArray[np.uint8], size: int
) -> NDArray[np.float32] | None:
    """Return the opacity of the columns, float32 [x, z]; None: there is no glass."""
    inside = trusted[..., 3] > 0
    alpha = picture[..., 3]
    if (alpha[inside] < 255 * _OPAQUE).mean() < _GLASS_SHARE:  # noise of a cut-out
        return None
    grey = np.dstack([np.repeat(alpha[..., None], 3, 2), trusted[..., 3]])
    base = np.empty((size, size, 4), np.float32)
    scale = len(picture) / (size - 2 * MARGIN_VOXELS)
    call(
        kernels.load("colors").resample, np.ascontiguousarray(grey), float(MARGIN_VOXELS), scale,
        base,
    )  # fmt: skip
    found = _grown(base)[-1][..., 0]
    return np.where(found > _OPAQUE, np.float32(1), np.clip(found, 0, 1)).astype(np.float32)


def _face_columns(picture: NDArray[np.uint8], size: int) -> NDArray[np.bool_]:
    """Return the columns of the face in a picture, bool [x, z]; none if it has no face."""
    face = find_face(picture)
    if face is None:
        return np.zeros((size, size), bool)
    edge = size - 2 * MARGIN_VOXELS
    center = MARGIN_VOXELS + face.x * edge, size - MARGIN_VOXELS - face.y * edge
    eyes = face.eyes * edge
    x, z = np.ogrid[:size, :size]
    # From the forehead to the chin, which are not equally far from the eyes.
    across, along = (x - center[0]) / (1.5 * eyes), (z - center[1] + 0.4 * eyes) / (1.9 * eyes)
    return across**2 + along**2 < 1


def widened(values: NDArray[Any], axis: int, choose: np.ufunc) -> NDArray[Any]:
    """Return for each value the minimum or maximum of it and its two neighbours on an axis.

    Args:
        values: of two dimensions.
        axis: 0 or 1.
        choose: `np.minimum` or `np.maximum`.
    """
    out = values.copy()
    ahead, behind = [slice(None)] * 2, [slice(None)] * 2
    ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
    for to, of in ((ahead, behind), (behind, ahead)):
        choose(out[tuple(to)], values[tuple(of)], out=out[tuple(to)])
    return out


def stretched(
    picture: NDArray[np.uint8], box: Box, size: int, columns: tuple[int, int], rows: tuple[int, int]
) -> NDArray[np.uint8]:
    """Return a picture whose object fills a rectangle of the field's columns.

    Args:
        picture: RGBA uint8 [S, S, 4].
        box: of the object in it.
        size: columns along an edge of the field.
        columns: first column in x of the rectangle, and the one after the last.
        rows: the same in z, which points up.

    Returns:
        RGBA uint8 [E, E, 4], as `sheets` needs it for that field.
    """
    shape = max(columns[1] - columns[0], 1), max(rows[1] - rows[0], 1)
    # Premultiplied, so that transparent pixels do not count.
    found = (
        Image.fromarray(picture)
        .convert("RGBa")
        .resize(shape, Image.Resampling.LANCZOS, box=(box.left, box.top, box.right, box.bottom))
    )
    edge = size - 2 * MARGIN_VOXELS
    canvas = Image.new("RGBA", (edge, edge))
    corner = columns[0] - MARGIN_VOXELS, edge - (rows[1] - MARGIN_VOXELS)
    canvas.paste(found.convert("RGBA"), corner)
    return np.array(canvas)


def _trusted(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the picture without pixels whose colour is mixed with the background's.

    A pixel is used if it is about as opaque as the most opaque pixel of the 5 by 5 around it:
    so glass keeps its colour, and the fringe of an outline is left out.
    """
    alpha = picture[..., 3]
    most: NDArray[Any] = alpha
    for axis in range(2):
        for _ in range(2):
            most = widened(most, axis, np.maximum)
    out = picture.copy()
    out[..., 3] = (alpha >= most * np.float32(0.96)) & (alpha > 255 * kernels.load("mask").CLEAR)
    return out
