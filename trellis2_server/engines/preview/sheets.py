"""Colours of the object's front and back, on the columns of the voxel field.

Both grow from a coarse picture to the full one by adding detail level by level, where the
picture has any (push and pull). A filled back leaves detail out away from the outline.

Does not know: meshes, voxels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.engines.preview import kernels
from trellis2_server.engines.preview.silhouette import ISO
from trellis2_server.export.cancellation import call

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.engines.preview.back import BackMode

#: Free voxels between the picture's square and the cube's faces.
MARGIN_VOXELS: Final = 2
#: The middle of the back has the detail that a picture of this many columns shows.
_BACK_COLUMNS: Final = 20
#: A level of detail ends at this distance from the outline, in columns of that level.
_DETAIL_COLUMNS: Final = 3.0
#: Columns along the edge of the coarsest level.
_MIN_COLUMNS: Final = 8


def sheets(
    picture: NDArray[np.uint8], size: int, mode: BackMode
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the colours of front and back, float32 [x, z, RGB], 0 to 1.

    Args:
        picture: RGBA uint8 [S, S, 4].
        size: columns along an edge of the field.
        mode: "mirror": the back has the front's colours. "fill": it has them at the outline, and
            loses detail away from it.
    """
    loops = kernels.load("colors")
    scale = len(picture) / (size - 2 * MARGIN_VOXELS)
    base = np.empty((size, size, 4), np.float32)
    call(loops.resample, _trusted(picture), float(MARGIN_VOXELS), scale, base)
    distance = np.where(base[..., 3] > ISO, np.float32(1e6), np.float32(0))
    call(kernels.load("distance").chamfer, distance)
    levels = [(base, distance)]
    while len(levels[-1][0]) % 2 == 0 and len(levels[-1][0]) > _MIN_COLUMNS:
        levels.append((_halved(levels[-1][0]), np.ascontiguousarray(levels[-1][1][::2, ::2])))
    total = levels[-1][0].reshape(-1, 4).sum(0)
    mean = total[:3] / max(float(total[3]), 1e-6)
    edge = (len(levels[-1][0]) + 1) // 2
    blurred = int(np.log2(size / _BACK_COLUMNS))
    front = back = np.full((edge, edge, 3), mean, np.float32)
    for k in reversed(range(len(levels))):
        level, distance = levels[k]
        shape = (*level.shape[:2], 3)
        coarse, front = front, np.empty(shape, np.float32)
        call(loops.refine, coarse, level, distance, np.float32(np.inf), front)
        detail = _DETAIL_COLUMNS * 2**k if k < blurred else np.inf
        if mode == "mirror":
            continue
        coarse, back = back, np.empty(shape, np.float32)
        call(loops.refine, coarse, level, distance, np.float32(detail), back)
    return front, front if mode == "mirror" else back


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


def _halved(fine: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return means of 2 by 2. Colours are premultiplied, so that empty columns do not count."""
    rows = fine[::2] + fine[1::2]
    return np.float32(0.25) * (rows[:, ::2] + rows[:, 1::2])
