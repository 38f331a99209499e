"""Triangles as a GLB stores them: in glTF's frame, with normals and texture coordinates.

The model frame's (x, y, z) becomes (x, z, -y): Y up, front toward +Z. Only this module converts
between the two.

Does not know: materials, bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trellis2_server.export.adjacency import corner_lists, is_watertight, twins
from trellis2_server.export.cancellation import call
from trellis2_server.export.kernels import geometry as kernels
from trellis2_server.export.parallel import parallel_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.export.atlas import Atlas
    from trellis2_server.export.footpoints import Footpoints
    from trellis2_server.mesh import Mesh


@dataclass(frozen=True, slots=True, eq=False)
class GltfGeometry:
    """An indexed triangle list in glTF's frame.

    Attributes:
        positions: float32 [N, 3].
        normals: float32 [N, 3], unit length; [0, 3] for flat shading.
        uv: float32 [N, 2] in [0, 1], (0, 0) the upper left corner of the image; None: no texture.
        faces: uint32 [F, 3].
        is_double_sided: whether faces are visible from both sides, because the winding does not
            separate inside and outside.
        tangents: float32 [N, 4], as glTF has them; None: no normal map.
    """

    positions: NDArray[np.float32]
    normals: NDArray[np.float32]
    uv: NDArray[np.float32] | None
    faces: NDArray[np.uint32]
    is_double_sided: bool
    tangents: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class GltfParts:
    """Indexed triangle lists one after the other, in glTF's frame: the primitives of a scene.

    Attributes:
        mesh: int64 [P], index of the mesh of each part, ascending.
        vertices: int64 [P], number of vertices of each part.
        triangles: int64 [P], number of faces of each part, at least one.
        has_normals: bool [P].
        positions: float32 [N, 3], of all parts.
        normals: float32 [M, 3], unit length; of the parts that have normals, others are flat.
        uv: as that of `GltfGeometry`, of all parts; None: no texture.
        faces: int32 or uint32 [F, 3], rows of the part's own vertices.
        is_double_sided: as that of `GltfGeometry`.
        tangents: as those of `GltfGeometry`, of all parts.
    """

    mesh: NDArray[np.int64]
    vertices: NDArray[np.int64]
    triangles: NDArray[np.int64]
    has_normals: NDArray[np.bool_]
    positions: NDArray[np.float32]
    normals: NDArray[np.float32]
    uv: NDArray[np.float32] | None
    faces: NDArray[np.int32] | NDArray[np.uint32]
    is_double_sided: bool
    tangents: NDArray[np.float32] | None = None


def single_part(geometry: GltfGeometry) -> GltfParts:
    """Return a triangle list as the only part."""
    return GltfParts(
        np.zeros(1, np.int64),
        np.array([len(geometry.positions)]),
        np.array([len(geometry.faces)]),
        np.array([len(geometry.normals) > 0]),
        geometry.positions,
        geometry.normals,
        geometry.uv,
        geometry.faces,
        geometry.is_double_sided,
        geometry.tangents,
    )


def smooth_normals(mesh: Mesh) -> NDArray[np.float32]:
    """Return unit normals at the vertices, float32 [N, 3].

    Face normals are weighted by the angle of the face at the vertex. If they cancel out, the normal
    of the largest face is used; without any face, +Z.
    """
    vertices, faces = mesh.vertices, mesh.faces
    first, corners = corner_lists(faces, len(vertices))
    normals = np.empty((len(vertices), 3), np.float32)
    parallel_for(kernels.vertex_normals, len(vertices), vertices, faces, first, corners, normals)
    return normals


def geometry(  # noqa: PLR0913, PLR0917 - one argument per input
    mesh: Mesh,
    uv: NDArray[np.float32] | None = None,
    source: NDArray[np.int32] | None = None,
    faces: NDArray[np.int32] | None = None,
    tangents: NDArray[np.float32] | None = None,
    normals: NDArray[np.float32] | None = None,
) -> GltfGeometry:
    """Convert a mesh to glTF's frame; repeat vertices that have several texture coordinates.

    Args:
        mesh: in the model frame.
        uv: float32 [M, 2] in [0, 1].
        source: int32 [M], the vertex of each row of `uv`.
        faces: int32 [F, 3], rows of `uv`.
        tangents: float32 [M, 4], of the rows of `uv`, in the model frame.
        normals: from `smooth_normals`; None: call it.
    """
    twin = twins(mesh.faces, len(mesh.vertices))
    normals = smooth_normals(mesh) if normals is None else normals
    positions = mesh.vertices
    if source is not None:
        positions, normals = positions[source], normals[source]
    return GltfGeometry(
        _to_gltf(positions),
        _to_gltf(normals),
        uv,
        np.ascontiguousarray(mesh.faces if faces is None else faces).astype(np.uint32),
        not is_watertight(mesh.faces, twin),
        None if tangents is None else _tangents_to_gltf(tangents),
    )


def level_geometry(  # noqa: PLR0913, PLR0917 - one argument per input
    finest: GltfGeometry,
    atlas: Atlas,
    vertices: NDArray[np.float32],
    sources: NDArray[np.int32],
    footpoints: Footpoints,
    faces: NDArray[np.int32],
) -> GltfGeometry:
    """Return a coarser level of detail, with normals and texture of the finest one.

    Args:
        finest: of the atlas.
        atlas: of the finest level.
        vertices: float32 [N, 3] of the level, in the model frame.
        sources: int32 [P], ascending, the vertex of each row of the level.
        footpoints: of those P rows, in the finest level. All rows of a vertex get the normal of the
            closest one.
        faces: int32 [F, 3], rows of the level.
    """
    first = np.flatnonzero(np.diff(sources, prepend=-1))
    order = np.lexsort((footpoints.distances, sources))
    closest = np.repeat(order[first], np.diff(first, append=len(sources)))
    own = np.zeros(len(vertices), np.int64)
    own[atlas.source] = np.arange(len(atlas.source))
    own_normals = finest.normals[own[sources]]
    found = footpoints.interpolate(finest.normals, atlas.faces)[closest]
    found[np.isinf(footpoints.distances[closest])] = 0
    normals = _units(found, own_normals)
    tangents = None
    if finest.tangents is not None:
        found = footpoints.interpolate(finest.tangents, atlas.faces)
        along = found[:, :3] - normals * (found[:, :3] * normals).sum(axis=1, keepdims=True)
        others = finest.tangents[atlas.faces[footpoints.faces, 0], :3]
        sides = np.where(found[:, 3:] < 0, np.float32(-1), np.float32(1))
        tangents = np.append(_units(along, others), sides, axis=1)
    return GltfGeometry(
        _to_gltf(vertices[sources]),
        normals,
        None if finest.uv is None else footpoints.interpolate(finest.uv, atlas.faces),
        faces.astype(np.uint32),
        finest.is_double_sided,
        tangents,
    )


def _units(vectors: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors of unit length, others in the place of those that are nearly zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(lengths > 1e-3, vectors / np.maximum(lengths, 1e-30), others)  # noqa: PLR2004


def pair_rows(
    faces: NDArray[np.int32], uv_faces: NDArray[np.int32], vertex_count: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """List the different pairs of a vertex and a row of texture coordinates, ascending.

    Args:
        faces: int32 [F, 3], vertices.
        uv_faces: int32 [F, 3], rows.
        vertex_count: greater than the largest vertex.

    Returns:
        int32 [P], the vertex of each pair.
        int32 [P], the row of each pair.
        int32 [F, 3], pairs.
    """
    faces, uv_faces = (np.require(rows, np.int32, ["C", "W"]) for rows in (faces, uv_faces))
    first, corners = corner_lists(faces, vertex_count)
    vertices, rows = np.empty(faces.size, np.int32), np.empty(faces.size, np.int32)
    pairs = np.empty(faces.size, np.int32)
    count = call(kernels.pair_corners, first, corners, uv_faces.reshape(-1), vertices, rows, pairs)
    return vertices[:count], rows[:count], pairs.reshape(-1, 3)


def _tangents_to_gltf(tangents: NDArray[np.float32]) -> NDArray[np.float32]:
    # A copy: `numpy.negative` of a slice of four columns into three is wrong in some versions.
    vectors = np.ascontiguousarray(tangents[:, :3])
    return np.append(_to_gltf(vectors), tangents[:, 3:], axis=1)


def _to_gltf(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    converted = np.empty(rows.shape, np.float32)
    converted[:, 0] = rows[:, 0]
    converted[:, 1] = rows[:, 2]
    np.negative(rows[:, 1], out=converted[:, 2])
    return converted
