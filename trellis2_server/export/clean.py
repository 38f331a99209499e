"""Clean a mesh of an engine for decimation and unwrapping.

Does not know: colours, textures, files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.errors import ExportError
from trellis2_server.export.adjacency import BOUNDARY, NON_MANIFOLD, next_half_edges, twins
from trellis2_server.export.cancellation import call
from trellis2_server.export.kernels import clean as kernels
from trellis2_server.export.parallel import parallel_for
from trellis2_server.export.parts import Parts, flip_faces
from trellis2_server.export.validation import checked_mesh
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Holes with a shorter perimeter are closed, model units.
HOLE_PERIMETER: Final = 0.03


def clean(mesh: Mesh) -> Mesh:
    """Drop what makes decimation and unwrapping fail, and close small holes.

    Dropped are duplicate and degenerate faces, small detached parts (floaters) and unused vertices.
    Faces that share an edge are wound consistently where the surface allows it, outward where it is
    closed. An open part keeps the winding of most of its area. If the winding of the whole mesh
    carries no information, as with dual grids, a convex open part is wound outward. Vertices keep
    their order and position.

    Raises:
        ExportError: the arrays are not a mesh, or no face has an area.
    """
    mesh = checked_mesh(mesh)
    vertices, faces = mesh.vertices, mesh.faces
    # Finding twins is expensive: only after a step that changed the faces.
    twin = twins(faces, len(vertices))
    welded = drop_repeated(_weld_rims(vertices, faces, twin), len(vertices))
    if len(welded) == 0:
        raise ExportError("The mesh has no face with an area.")
    if welded is not faces:
        faces, twin = welded, twins(welded, len(vertices))
    parts = Parts(vertices, faces, twin)
    is_floater = parts.find_floaters()
    if bool(is_floater.any()):
        # Removing one of several sheets at an edge may turn it into an edge of two faces.
        changes_parts = bool((twin.reshape(-1, 3)[is_floater] == NON_MANIFOLD).any())
        faces = faces[~is_floater]
        twin = twins(faces, len(vertices))
        is_flipped = (
            Parts(vertices, faces, twin).find_flipped()
            if changes_parts
            else parts.find_flipped()[~is_floater]
        )
    else:
        is_flipped = parts.find_flipped()
    vertices, faces = drop_unused(vertices, faces)
    if bool(is_flipped.any()):
        faces = flip_faces(faces, is_flipped)
    rim = np.flatnonzero(twin == BOUNDARY)
    if rim.size:
        # A flipped face has its three edges in reverse order.
        rim = np.sort(np.where(is_flipped[rim // 3], 3 * (rim // 3) + 2 - rim % 3, rim))
        vertices, faces = _close_holes(vertices, faces, rim)
    return Mesh(vertices, faces)


def drop_repeated(faces: NDArray[np.int32], vertex_count: int) -> NDArray[np.int32]:
    """Drop degenerate faces and repetitions of faces with the same three vertices."""
    keep = np.ones(len(faces), bool)
    call(
        kernels.mark_repeated,
        faces,
        np.full(vertex_count, -1, np.int32),
        np.empty(len(faces), np.int32),
        keep,
    )
    return faces if bool(keep.all()) else faces[keep]


def drop_unused(
    vertices: NDArray[np.float32], faces: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Drop vertices without a face; the others keep their order."""
    used = np.zeros(len(vertices), bool)
    call(kernels.mark_used, faces, used)
    if bool(used.all()):
        return vertices, faces
    new_index = np.cumsum(used, dtype=np.int32)
    new_index -= 1
    return vertices[used], _renumbered(faces, new_index)


def _weld_rims(
    vertices: NDArray[np.float32], faces: NDArray[np.int32], twin: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Merge vertices of open edges that have exactly the same position."""
    open_edges = np.flatnonzero(twin == BOUNDARY)
    if open_edges.size == 0:
        return faces
    corner = faces.reshape(-1)
    ends = next_half_edges(open_edges)
    rim = np.unique(np.concatenate([corner[open_edges], corner[ends]]))
    position = vertices[rim] + np.float32(0)  # -0.0 and 0.0 are the same position
    order = np.lexsort(position.T)
    position = position[order]
    is_new = np.empty(len(rim), bool)
    is_new[0] = True
    np.any(position[1:] != position[:-1], axis=1, out=is_new[1:])
    group = np.cumsum(is_new) - 1
    if int(group[-1]) + 1 == len(rim):
        return faces
    # The smallest index represents its group, so that the order of the vertices is preserved.
    smallest = np.full(int(group[-1]) + 1, len(vertices), np.int32)
    np.minimum.at(smallest, group, rim[order].astype(np.int32))
    new_index = np.arange(len(vertices), dtype=np.int32)
    new_index[rim[order]] = smallest[group]
    return _renumbered(faces, new_index)


def _renumbered(faces: NDArray[np.int32], new_index: NDArray[np.int32]) -> NDArray[np.int32]:
    """Replace each vertex index `v` by `new_index[v]`, int32 [F, 3]."""
    renumbered = np.empty_like(faces)
    parallel_for(kernels.renumber, len(faces), faces, new_index, renumbered)
    return renumbered


def _close_holes(
    vertices: NDArray[np.float32], faces: NDArray[np.int32], rim: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Close holes with a perimeter below `HOLE_PERIMETER` by fans around their centres.

    Args:
        vertices: float32 [N, 3].
        faces: int32 [F, 3].
        rim: int64 [R], the half-edges of edges with one face, ascending.
    """
    corner = faces.reshape(-1)
    ends = next_half_edges(rim)
    start, stop = corner[rim], corner[ends]
    new_vertices = np.empty((rim.size, 3), np.float32)
    new_faces = np.empty((rim.size, 3), np.int32)
    vertex_count, face_count = call(
        kernels.fill_holes,
        vertices,
        start,
        stop,
        rim // 3,
        np.full(len(vertices), -1, np.int32),
        np.empty(rim.size, np.int32),
        HOLE_PERIMETER,
        new_vertices,
        new_faces,
    )
    return (
        np.concatenate([vertices, new_vertices[:vertex_count]]),
        np.concatenate([faces, new_faces[:face_count]]),
    )
