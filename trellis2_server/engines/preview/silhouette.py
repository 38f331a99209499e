"""The silhouette of a picture as flat triangles.

Does not know: heights, colours, the model frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.engines.preview import kernels
from trellis2_server.errors import EngineError
from trellis2_server.export.cancellation import call

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

#: Smallest alpha, 0 to 1, of a pixel of the object.
ISO: Final = 0.5
#: Most faces of the solid: a picture of 1024 pixels has no more detail.
_MAX_FACES: Final = 250_000
#: Parts and holes below this share of the object's area are specks.
_SPECK_SHARE: Final = 1 / 20_000
_MIN_SPECK_PX: Final = 4


def mask_field(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return alpha, 0 to 1, at the nodes of the grid, without specks.

    Args:
        picture: RGBA uint8 [S, S, 4].

    Returns:
        float32 [n + 1, n + 1]; pixel (i, j) is node (i + 2, j + 2).

    Raises:
        EngineError: no pixel is opaque.
    """
    size = len(picture)
    edge = 2 << kernels.load("triangulation").TOP_LEVEL
    n = -(-(size + 3) // edge) * edge
    field = np.zeros((n + 1, n + 1), np.float32)
    field[2 : size + 2, 2 : size + 2] = picture[..., 3] / np.float32(255)
    area = int((field >= ISO).sum())
    if not area:
        raise EngineError("nothing in the picture is opaque enough to be an object")
    smallest = max(_MIN_SPECK_PX, int(area * _SPECK_SHARE))
    cleaned = field.copy()
    drop_specks = kernels.load("mask").drop_specks
    if call(drop_specks, cleaned, np.zeros(field.shape, np.uint8), smallest, smallest):
        return cleaned
    return field


def triangulate(
    field: NDArray[np.float32], target: int, room: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int32], NDArray[np.uint8]]:
    """Triangulate the silhouette with about half of `target` faces.

    Args:
        field: from `mask_field`.
        target: faces of the solid, which has two sheets.
        room: largest edge of cells relative to that at the outline, float32 [n / 2, n / 2], for
            each square of 2 by 2 nodes; None: it grows with the distance from the outline.

    Returns:
        Points float64 [N, 2] in nodes' distances, y upward; faces int32 [F, 3]; for each point
        whether it is on the outline, uint8 [N].
    """
    loops = kernels.load("triangulation")
    n = len(field) - 1
    cells = [(n >> k) ** 2 for k in range(loops.TOP_LEVEL + 1)]
    offsets = np.cumsum([0, *cells]).astype(np.int64)
    kind = np.zeros(offsets[-1], np.uint8)
    error = np.zeros(offsets[-1], np.float32)
    split = np.zeros(offsets[-1], np.uint8)
    call(loops.classify, field, offsets, kind, error)
    second = kind[offsets[1] : offsets[2]].reshape(n // 2, n // 2)
    distance = np.where(second == loops.INSIDE, np.float32(1e6), np.float32(0))
    call(kernels.load("distance").chamfer, distance)
    # The height's curvature falls with the distance d from the outline like d to the -1.5,
    # so that equal errors allow d to the 0.75; a little less keeps the shading smooth.
    even = (2 * distance) ** np.float32(0.6)
    room = even if room is None else np.minimum(even, room)
    ids = np.full((3, n + 1, n + 1), -1, np.int32)
    state = np.zeros(2, np.int64)

    def run(
        inner: float,
        outer: float,
        points: NDArray[np.float64],
        faces: NDArray[np.int32],
        outline: NDArray[np.uint8],
    ) -> int:
        return int(
            call(
                loops.triangulate, field, offsets, kind, error, room, inner, outer, split, ids,
                points, faces, outline, state,
            )
        )  # fmt: skip

    nothing = np.empty((0, 2)), np.empty((0, 3), np.int32), np.empty(0, np.uint8)
    wanted = min(target, _MAX_FACES) // 2
    # First both together, then the inside alone: the outline's count changes in large steps.
    outer, _ = _coarseness(lambda value: run(value, value, *nothing), wanted, (0.25, 16.0), 5)
    inner, total = _coarseness(
        lambda value: run(value, outer, *nothing), wanted, (outer / 4, outer), 6
    )
    # One lone pixel has five vertices and four faces, which is the largest ratio.
    points = np.zeros((total + total // 2, 2))
    faces = np.empty((total, 3), np.int32)
    outline = np.zeros(len(points), np.uint8)
    run(inner, outer, points, faces, outline)
    vertices = int(state[0])
    return points[:vertices].copy(), faces, outline[:vertices].copy()


def incidence(
    vertices: int, faces: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """List the faces around each vertex.

    Returns:
        Start int64 [N + 1] and members int32: vertex v has `members[start[v] : start[v + 1]]`,
        each 3 · face + corner.
    """
    corners = faces.ravel()
    start = np.zeros(vertices + 1, np.int64)
    np.cumsum(np.bincount(corners, minlength=vertices), out=start[1:])
    return start, np.argsort(corners, kind="stable").astype(np.int32)


def _coarseness(
    count: Callable[[float], int], wanted: int, bounds: tuple[float, float], rounds: int
) -> tuple[float, int]:
    """Find the smallest coarseness with at most `wanted` faces; return it and its faces.

    If even the upper bound has more faces, return the upper bound and its faces.
    """
    low, high = bounds
    made = count(low)
    if made <= wanted:
        return low, made
    made = None
    for _ in range(rounds):
        middle = (low * high) ** 0.5
        faces = count(middle)
        if faces <= wanted:
            high, made = middle, faces
        else:
            low = middle
    return high, count(high) if made is None else made
