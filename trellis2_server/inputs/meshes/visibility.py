"""Faces and vertices that show nothing: left out when a file is read.

Does not know: file formats, where the faces are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Faces for each vertex, above which repeated faces are looked for. Surfaces have two.
_MANY_FACES: Final = 4
#: Vertices for each corner, above which the few that are used are sorted instead of marked.
_MANY_VERTICES: Final = 8


def visible_faces(faces: NDArray[np.int32], vertices: int) -> NDArray[np.int32]:
    """Return the faces that show something, in their order.

    Faces that use a vertex twice are left out. If there are many faces for their vertices, so are
    those that repeat an earlier face: the same vertices, with the same side outside.

    Args:
        faces: int32 [F, 3].
        vertices: number of vertices.
    """
    a, b, c = faces.T
    is_triangle = (a != b) & (b != c) & (c != a)
    if not is_triangle.all():
        faces = faces[is_triangle]
    if len(faces) <= _MANY_FACES * vertices:
        return faces
    # With the smallest vertex first, equal faces are equal rows.
    columns = (faces.argmin(axis=1)[:, None] + np.arange(3)) % 3
    rows = np.take_along_axis(faces, columns, axis=1)
    order = np.lexsort(rows.T)  # stable: the first of equal rows stays the first
    rows = rows[order]
    is_new = np.ones(len(rows), bool)
    np.any(rows[1:] != rows[:-1], axis=1, out=is_new[1:])
    return faces[np.sort(order[is_new])]


def used_vertices(faces: NDArray[np.int32], vertices: int) -> NDArray[np.int64] | None:
    """Return the vertices that faces use, ascending; None if faces use all.

    Primitives of a file may share all vertices; each has its own in a scene.

    Args:
        faces: int32 [F, 3], rows of vertices.
        vertices: number of vertices.
    """
    is_used = np.zeros(vertices, bool)
    is_used[faces] = True
    return None if is_used.all() else np.flatnonzero(is_used)


def compact(
    faces: NDArray[np.int32], vertices: int
) -> tuple[NDArray[np.int32], NDArray[np.int64] | None]:
    """Return the faces as rows of the vertices that they use, and those vertices.

    Takes time and memory by the number of faces, however many vertices there are.

    Args:
        faces: int32 [F, 3], rows of vertices.
        vertices: number of vertices.

    Returns:
        faces: int32 [F, 3].
        used: see `used_vertices`.
    """
    if faces.size < vertices // _MANY_VERTICES:
        used, inverse = np.unique(faces, return_inverse=True)
        return inverse.reshape(faces.shape).astype(np.int32), used.astype(np.int64)
    used = used_vertices(faces, vertices)
    if used is None:
        return faces, None
    index = np.zeros(vertices, np.int32)
    index[used] = np.arange(len(used), dtype=np.int32)
    return index[faces], used
