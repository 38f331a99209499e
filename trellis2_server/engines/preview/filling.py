"""A texture for the middle of the back, made of patches of the front's band along the outline.

From coarse to fine, patches of the band are sought that are like the present middle, and the middle
becomes what they have (PatchMatch, see `kernels.patches`). The search begins with colours that
continue those around the middle. The same picture gives the same texture.

Does not know: meshes, voxels, when a back is filled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.engines.preview import kernels
from trellis2_server.export.cancellation import call

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: Width of the band of which the texture is made, share of the picture's edge.
_BAND: Final = 0.08
#: The same, around a face.
_FACE_BAND: Final = 0.055
#: Least width of the band on the coarsest level, columns.
_LEAST_BAND_COLUMNS: Final = 7.0
#: Lines along the outline are narrower, columns of the coarsest level.
_LINE_COLUMNS: Final = 4.0
#: On finer levels than of this many columns, patches are not sought again.
_MAX_SEARCHED_COLUMNS: Final = 320
_ROUNDS_FIRST: Final = 6
_ROUNDS_LATER: Final = 2
#: Cost of a patch from above or below by a tenth of the picture's edge.
_AWAY_COST: Final = 1.0
_SEED: Final = 0x9E3779B9


def fill(
    fronts: Sequence[NDArray[np.float32]],
    distance: NDArray[np.float32],
    face: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Return the colours of a back, as large as the finest level, float32 [x, z, RGB].

    Args:
        fronts: the front's colours, from the coarsest to the finest level; each level has twice
            the columns of the one before.
        distance: of the finest columns from the outline, 0 outside, float32 [x, z].
        face: finest columns that are filled wherever they are, bool [x, z].
    """
    size = len(fronts[-1])
    band = _BAND * size
    filled = ((distance > band) | (face & (distance > _FACE_BAND * size))).astype(np.uint8)
    back, field = fronts[-1], None
    first = 1 << max(int(np.log2(band / _LEAST_BAND_COLUMNS)), 0)
    if not filled.any():
        return back
    for front in fronts:
        scale = size // len(front)
        if scale > first:  # too coarse for patches
            continue
        level = np.ascontiguousarray(distance[::scale, ::scale])
        level = level / np.float32(scale)
        hole = np.ascontiguousarray(filled[::scale, ::scale])
        if field is None:
            back = _continued(front, hole, level)
            field = np.full((*hole.shape, 2), -1, np.int32)
        else:
            field = _doubled(field)
            back = _voted(front, hole, field)
        if len(front) > _MAX_SEARCHED_COLUMNS:
            continue
        sources = _sources(hole, level)
        if not len(sources):
            return _continued(fronts[-1], filled, distance)
        rounds = _ROUNDS_FIRST if scale == first else _ROUNDS_LATER
        back = _search(back, hole, sources, field, rounds)
    return back


def _sources(hole: NDArray[np.uint8], distance: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the middles [N, 2] of the patches that a level may take, which have no hole."""
    radius = int(kernels.load("patches").RADIUS)
    inside = np.zeros_like(hole, bool)
    inside[radius:-radius, radius:-radius] = True
    inside &= (distance > 1) & (_grown(hole, radius) == 0)
    if (inside & (distance > _LINE_COLUMNS)).any():
        inside &= distance > _LINE_COLUMNS
    return np.ascontiguousarray(np.argwhere(inside), np.int32)


def _search(
    picture: NDArray[np.float32],
    hole: NDArray[np.uint8],
    sources: NDArray[np.int32],
    field: NDArray[np.int32],
    rounds: int,
) -> NDArray[np.float32]:
    """Return a level's colours; `field` becomes where the patches of the hole are from.

    Args:
        picture: the colours so far, float32 [x, z, RGB].
        hole: columns to change.
        sources: see `_sources`.
        field: where patches are from, int32 [x, z, 2]; negative: anywhere.
        rounds: how often patches are sought and the hole becomes what they have.
    """
    loops = kernels.load("patches")
    n = len(picture)
    wanted = _grown(hole, int(loops.RADIUS))
    costs = np.zeros((n, n), np.float32)
    away = _AWAY_COST / (0.1 * n) ** 2
    for turn in range(rounds):
        seed = np.uint32(_SEED + turn)
        call(loops.match, picture, wanted, sources, field, costs, away, 2, seed)
        softness = max(float(np.median(costs[wanted != 0])) / (2 + turn), 1e-4)
        out = np.empty_like(picture)
        call(loops.vote, picture, hole, wanted, field, costs, softness, out)
        picture = out
    return picture


def _continued(
    front: NDArray[np.float32], hole: NDArray[np.uint8], distance: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return a level's colours, with those around the hole continued smoothly into it."""
    # A line along the outline is not what the object is like.
    known = (hole == 0) & (distance > _LINE_COLUMNS)
    if not known.any():
        known = hole == 0
    levels = [np.dstack([np.where(known[..., None], front, 0), known.astype(np.float32)])]
    while len(levels[-1]) % 2 == 0 and len(levels[-1]) > 2:  # noqa: PLR2004 - columns
        levels.append(halved(levels[-1]))
    mean = levels[-1].reshape(-1, 4).sum(0)
    coarse = np.full(((len(levels[-1]) + 1) // 2,) * 2 + (3,), mean[:3] / mean[3], np.float32)
    for level in reversed(levels):
        out = np.empty((*level.shape[:2], 3), np.float32)
        call(kernels.load("colors").refine, coarse, np.ascontiguousarray(level), out)
        coarse = out
    return np.where(hole[..., None] != 0, coarse, front)


def halved(fine: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return means of 2 by 2. Colours are premultiplied, so that empty columns do not count."""
    rows = fine[::2] + fine[1::2]
    return np.float32(0.25) * (rows[:, ::2] + rows[:, 1::2])


def _voted(
    front: NDArray[np.float32], hole: NDArray[np.uint8], field: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Return a level's colours, with the patches as they are."""
    loops = kernels.load("patches")
    wanted = (_grown(hole, int(loops.RADIUS)) & (field[..., 0] >= 0)).astype(np.uint8)
    out = np.empty_like(front)
    call(loops.vote, front, hole, wanted, field, np.zeros(hole.shape, np.float32), 1.0, out)
    return out


def _doubled(field: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return where patches are from on the level with twice the columns."""
    fine = np.repeat(np.repeat(field, 2, 0), 2, 1)
    missing = fine[..., :1] < 0
    fine *= 2
    fine[1::2, :, 0] += 1
    fine[:, 1::2, 1] += 1
    return np.ascontiguousarray(np.where(missing, np.int32(-1), fine), np.int32)


def _grown(mask: NDArray[np.uint8], by: int) -> NDArray[np.uint8]:
    """Return a mask with all columns that are at most so far away on both axes."""
    grown: NDArray[Any] = mask.copy()
    for axis in range(2):
        lines = np.moveaxis(grown, axis, 0)
        found = lines.copy()
        for shift in range(1, by + 1):
            found[shift:] |= lines[:-shift]
            found[:-shift] |= lines[shift:]
        grown = np.moveaxis(found, 0, axis)
    return np.ascontiguousarray(grown)
