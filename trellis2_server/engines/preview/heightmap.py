"""The heights of the front and the back over the picture's plane.

Does not know: triangles, colours of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.engines.preview.depth import Base, find_balls, find_base
from trellis2_server.engines.preview.pixels import blurred, read_pixels
from trellis2_server.engines.preview.relief import find_relief

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.engines.preview.depth import Form

#: Share of its relief that a flat object keeps.
_FLAT_RELIEF: Final = 0.25
#: Share of the height that relief leaves.
_LEAST: Final = 0.3
#: Longest edge of cells, in those at the outline, where the surface bends by 1 / pixel.
_BEND: Final = 0.9
#: How much of the front's relief the back has.
_BACK_RELIEF: Final = 0.4
#: Deviation of the Gaussian that limits relief to what triangles show, in their edges; the least,
#: in pixels, which smooths the steps of the outline.
_DETAIL: Final = 0.3
_SMOOTH_PX: Final = 0.7
#: Least signed square outside: the outline is between this and the height inside.
_FARTHEST: Final = -400.0
#: Radii of balls, pixels, from which and above which the grid is fine enough for them.
_COARSE, _FINE = 2.0, 4.0


@dataclass(frozen=True, slots=True, eq=False)
class Heightmap:
    """Heights on a grid, as signed squares, which are about linear at the outline.

    Attributes:
        front: float32 [G, G], squares of pixels of the grid, negative outside.
        back: the same of the back.
        trust: how well the grid shows the object, 0 to 1, float32 [G, G].
        curvature: of the front, 1 / pixel of the grid, float32 [G, G].
        scale: pixels of the picture in one of the grid.
        depth: 0, flat, to 1, as deep as wide.
        form: what suits the object, see `depth.Form`.
    """

    front: NDArray[np.float32]
    back: NDArray[np.float32]
    trust: NDArray[np.float32]
    curvature: NDArray[np.float32]
    scale: float
    depth: float
    form: Form

    def at(self, values: NDArray[np.float32], points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Interpolate values linearly.

        Args:
            values: of the grid.
            points: pixels of the picture from its upper left corner, x to the right and y down,
                float64 [N, 2].
        """
        last = len(values) - 1.001
        x, y = np.clip(points.T / self.scale + 0.5, 0, last)
        j, i = x.astype(np.intp), y.astype(np.intp)
        u, v = x - j, y - i
        upper = (1 - u) * values[i, j] + u * values[i, j + 1]
        lower = (1 - u) * values[i + 1, j] + u * values[i + 1, j + 1]
        return (1 - v) * upper + v * lower


def make_heightmap(
    picture: NDArray[np.uint8], mask: NDArray[np.float32], depth: float | None, faces: int
) -> Heightmap:
    """Make the heights of a picture's object.

    Args:
        picture: RGBA uint8 [S, S, 4].
        mask: alpha without specks, float32 [S, S].
        depth: 0, flat, to 1, as deep as wide; None: what suits the object.
        faces: of the solid. Relief finer than these would turn into noise, and is left out.
    """
    pixels = read_pixels(picture, mask)
    inside = pixels.inside
    balls = find_balls(pixels.alpha)
    if inside.any():
        base = find_base(pixels, balls, depth)
    else:  # all parts are thinner than a pixel of the grid
        base = Base(np.zeros_like(pixels.alpha), "round", 1.0 if depth is None else depth)
    relief = find_relief(pixels, balls.distance)
    relief *= np.float32(_FLAT_RELIEF + (1 - _FLAT_RELIEF) * base.depth)
    front, back = (
        np.maximum(base.height + share * relief, _LEAST * base.height)
        for share in (np.float32(1), np.float32(_BACK_RELIEF))
    )
    outside = np.maximum(np.minimum(balls.squared, 0), _FARTHEST)
    sigma = max(_DETAIL * float(np.sqrt(4 * inside.sum() / faces)), _SMOOTH_PX)
    squares = [blurred(np.where(inside, each**2, outside), sigma) for each in (front, back)]
    trust = np.clip((balls.radius - _COARSE) / (_FINE - _COARSE), 0, 1)
    trust[balls.squared < -3 * balls.radius] = 0
    smooth = blurred(front, 1.0)
    bends = [np.gradient(np.gradient(smooth, axis=axis), axis=axis) for axis in (0, 1)]
    return Heightmap(
        front=squares[0],
        back=squares[1],
        trust=trust,
        curvature=blurred(np.hypot(*bends), 1.5),
        scale=pixels.scale,
        depth=base.depth,
        form=base.form,
    )


def cell_sizes(heightmap: Heightmap, nodes: int) -> NDArray[np.float32]:
    """Return the largest edges of cells that show the relief, see `silhouette.triangulate`."""
    centre = np.arange(nodes // 2) * 2 + 1 - 1.5
    last = len(heightmap.curvature) - 1
    at = np.clip(np.rint(centre / heightmap.scale + 0.5).astype(np.intp), 0, last)
    bend = heightmap.curvature[np.ix_(at, at)]
    return (_BEND * heightmap.scale / np.sqrt(bend + np.float32(1e-4))).astype(np.float32)
