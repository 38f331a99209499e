"""Flat triangles inflated and mirrored: a closed, manifold, outward-oriented mesh.

Does not know: pictures, colours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: In a strip of half width w the solution is u = 2 (w² - x²): 0.71 would make rods round, and
#: 1 would make a disc a ball. A smaller value keeps broad shapes flatter.
_ROUNDNESS: Final = 0.6
#: Roundness at a depth of 0: a surface that is all in one plane encloses nothing.
_FLATTEST: Final = 0.05
#: Approximate limit of the depth to either side, share of the picture's edge.
_MAX_HEIGHT: Final = 0.22


def heights(
    u: NDArray[np.float64], outline: NDArray[np.uint8], size: int, depth: float | None = None
) -> NDArray[np.float64]:
    """Return heights in pixels: round where the object is thin, flatter where it is broad.

    Args:
        u: solution of ∇²u = -4, pixels².
        outline: whether a point is on the outline, where the height is 0.
        size: edge of the picture, pixels.
        depth: 0 (flat) to 1 (a disc becomes a ball); None: as `_ROUNDNESS` says.
    """
    roundness = _ROUNDNESS if depth is None else _FLATTEST + (1 - _FLATTEST) * depth
    height = roundness * np.sqrt(np.maximum(u, 0.05))
    limit = _MAX_HEIGHT * size
    height = limit * np.tanh(height / limit)
    height[outline != 0] = 0.0
    return height


def solid(
    flat: NDArray[np.float64],
    height: NDArray[np.float64],
    faces: NDArray[np.int32],
    outline: NDArray[np.uint8],
) -> Mesh:
    """Join a front sheet and a mirrored back sheet at the outline.

    Args:
        flat: x and z of the points, float64 [N, 2], in the model frame.
        height: toward -Y, in the model frame.
        faces: counter-clockwise as seen from -Y.
        outline: whether a point is on the outline.

    Returns:
        The mesh; its first faces are those of the front.
    """
    inner = np.flatnonzero(outline == 0)
    back = np.arange(len(flat), dtype=np.int32)
    back[inner] = len(flat) + np.arange(len(inner), dtype=np.int32)
    vertices = np.empty((len(flat) + len(inner), 3), np.float32)
    vertices[: len(flat), 0] = flat[:, 0]
    vertices[: len(flat), 1] = -height
    vertices[: len(flat), 2] = flat[:, 1]
    vertices[len(flat) :] = vertices[inner] * np.array([1, -1, 1], np.float32)
    return Mesh(
        vertices=vertices,
        faces=np.concatenate([faces, back[faces[:, ::-1]]]),
    )
