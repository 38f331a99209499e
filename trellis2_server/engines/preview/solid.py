"""Flat triangles inflated and mirrored: a closed, manifold, outward-oriented mesh.

Does not know: pictures, colours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.engines.preview.heightmap import Heightmap

#: Share of the square of a round part's height that a thin part of a flat object keeps.
_THIN: Final = 0.25
#: Smallest square of a height inside the outline, pixels²: the two sheets do not touch there.
_LEAST_SQUARE: Final = 0.02


def heights(
    u: NDArray[np.float64],
    outline: NDArray[np.uint8],
    heightmap: Heightmap,
    points: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the heights of front and back at points, float64 [N], in pixels of the picture.

    Args:
        u: solution of ∇²u = -4, pixels²; used where the object is too thin for the heightmap.
        outline: whether a point is on the outline, where the height is 0.
        heightmap: on its own grid.
        points: pixels from the picture's upper left corner, float64 [N, 2].
    """
    depth = heightmap.depth
    trust = heightmap.at(heightmap.trust, points)
    thin = u * (_THIN + (1 - _THIN) * depth) * 0.5
    found = []
    for squares in (heightmap.front, heightmap.back):
        broad = heightmap.at(squares, points) * heightmap.scale**2
        height = np.sqrt(np.maximum(thin + trust * (broad - thin), _LEAST_SQUARE))
        height[outline != 0] = 0.0
        found.append(height)
    return found[0], found[1]


def solid(
    flat: NDArray[np.float64],
    front: NDArray[np.float64],
    behind: NDArray[np.float64],
    faces: NDArray[np.int32],
    outline: NDArray[np.uint8],
) -> Mesh:
    """Join a front sheet and a back sheet at the outline.

    Args:
        flat: x and z of the points, float64 [N, 2], in the model frame.
        front: heights of the front toward -Y, float64 [N], in the model frame.
        behind: heights of the back toward +Y, float64 [N].
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
    vertices[: len(flat), 1] = -front
    vertices[: len(flat), 2] = flat[:, 1]
    vertices[len(flat) :] = vertices[inner]
    vertices[len(flat) :, 1] = behind[inner]
    return Mesh(
        vertices=vertices,
        faces=np.concatenate([faces, back[faces[:, ::-1]]]),
    )
