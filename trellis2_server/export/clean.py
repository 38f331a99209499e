"""A mesh as an engine hands it over, made fit for decimation and unwrapping.

What this module does not know: colours, textures, files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import ExportError
from trellis2_server.export.adjacency import BOUNDARY, NON_MANIFOLD, following, twins
from trellis2_server.export.kernel import spread
from trellis2_server.export.kernels import clean as kernels
from trellis2_server.mesh import Mesh, VoxelField

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Holes with a shorter rim than this, in model units, are closed.
HOLE_PERIMETER: Final = 0.03
#: A part and what it goes on into are floaters when their box' diagonal is under this share of
#: the whole …
FLOATER_SIZE: Final = 0.02
#: … and they have less than this share of the area of the largest ones.
FLOATER_AREA: Final = 1e-3
#: The list of faces is joined to parts in so many pieces, on whatever threads there are.
_PIECES: Final = 16
#: A mesh is meant to be wound as it is when no more of its area than this is wound against the
#: rest of its part; the winding of dual grids says nothing.
_AS_GIVEN: Final = 0.1
#: … and neither does that of a part with more than this.
_AT_RANDOM: Final = 0.4
#: A part bulges when its volume is more than so many edges high.
_BULGE: Final = 0.1


def clean(mesh: Mesh) -> Mesh:
    """The mesh without duplicate or degenerate faces, floaters, small holes, stray vertices.

    Faces that share an edge are wound alike where the surface allows it, outward where it
    is closed. An open part keeps the winding that most of its area had; where the winding of
    the mesh as a whole means nothing, as that of dual grids, it bulges outward if it bulges.
    Vertices keep their order and are not moved.

    Raises:
        ExportError: the arrays are no mesh, or nothing is left of it.
    """
    mesh = checked(mesh)
    vertices, faces = mesh.vertices, mesh.faces
    # Pairing edges is what takes long: only where a step changed something.
    twin = twins(faces, len(vertices))
    welded = drop_repeated(_weld_rims(vertices, faces, twin), len(vertices))
    if len(welded) == 0:
        raise ExportError("The mesh has no face with an area.")
    if welded is not faces:
        faces, twin = welded, twins(welded, len(vertices))
    parts = _Parts(vertices, faces, twin)
    floats = parts.floating()
    if bool(floats.any()):
        # What an edge of several sheets joins depends on how many of them are left.
        joins_anew = bool((twin.reshape(-1, 3)[floats] == NON_MANIFOLD).any())
        faces = faces[~floats]
        twin = twins(faces, len(vertices))
        turned = _Parts(vertices, faces, twin).turned() if joins_anew else parts.turned()[~floats]
    else:
        turned = parts.turned()
    vertices, faces = drop_unused(vertices, faces)
    if bool(turned.any()):
        wound = np.empty_like(faces)
        spread(kernels.turn, len(faces), faces, turned, wound)
        faces = wound
    rim = np.flatnonzero(twin == BOUNDARY)
    if rim.size:
        # A turned face has its three edges in reverse.
        rim = np.sort(np.where(turned[rim // 3], 3 * (rim // 3) + 2 - rim % 3, rim))
        vertices, faces = _close_holes(vertices, faces, rim)
    return Mesh(vertices, faces)


def checked(mesh: Mesh) -> Mesh:
    """The same mesh in the one memory layout that the kernels are compiled for.

    Raises:
        ExportError: a shape, an index or a coordinate is wrong; the sentence says which.
    """
    vertices, faces = _on_host(mesh.vertices), _on_host(mesh.faces)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:  # noqa: PLR2004
        raise ExportError("A mesh needs vertices [N, 3] and faces [F, 3].")
    if len(faces) == 0:
        raise ExportError("The mesh has no faces.")
    if int(faces.min()) < 0 or int(faces.max()) >= len(vertices):
        raise ExportError("A face of the mesh names a vertex that is not there.")
    if not bool(np.isfinite(vertices).all()):
        raise ExportError("A vertex of the mesh is not finite.")
    return Mesh(
        np.require(vertices, np.float32, ["C", "W"]), np.require(faces, np.int32, ["C", "W"])
    )


def checked_field(field: VoxelField) -> VoxelField:
    """The same field in the one memory layout that the kernels are compiled for.

    Raises:
        ExportError: a shape, a coordinate or a value is wrong; the sentence says which.
    """
    coords, attributes = _on_host(field.coords), _on_host(field.attributes)
    if coords.ndim != 2 or coords.shape[1] != 3 or attributes.shape != (len(coords), 6):  # noqa: PLR2004
        raise ExportError("A field needs coords [V, 3] and attributes [V, 6].")
    if len(coords) == 0:
        raise ExportError("The field has no voxels.")
    if int(coords.min()) < 0 or int(coords.max()) >= field.resolution:
        raise ExportError("A voxel of the field lies outside its resolution.")
    if not bool(np.isfinite(attributes).all()):
        raise ExportError("An attribute of the field is not finite.")
    return VoxelField(
        np.require(coords, np.int32, ["C", "W"]),
        np.require(attributes, np.float32, ["C", "W"]),
        int(field.resolution),
    )


def _on_host(array: Any) -> NDArray[Any]:
    """The array itself, or a tensor's values as one."""
    return np.asarray(array.cpu()) if hasattr(array, "cpu") else array


def _weld_rims(
    vertices: NDArray[np.float32], faces: NDArray[np.int32], twin: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Join open edges whose ends lie at exactly the same place."""
    open_edges = np.flatnonzero(twin == BOUNDARY)
    if open_edges.size == 0:
        return faces
    corner = faces.reshape(-1)
    ends = following(open_edges)
    rim = np.unique(np.concatenate([corner[open_edges], corner[ends]]))
    place = vertices[rim] + np.float32(0)  # -0.0 and 0.0 are one place
    order = np.lexsort(place.T)
    place = place[order]
    is_new = np.empty(len(rim), bool)
    is_new[0] = True
    np.any(place[1:] != place[:-1], axis=1, out=is_new[1:])
    group = np.cumsum(is_new) - 1
    # The smallest index stands for its group, so that the order of the vertices is kept.
    if int(group[-1]) + 1 == len(rim):
        return faces
    keeper = np.full(int(group[-1]) + 1, len(vertices), np.int32)
    np.minimum.at(keeper, group, rim[order].astype(np.int32))
    name = np.arange(len(vertices), dtype=np.int32)
    name[rim[order]] = keeper[group]
    return _renamed(faces, name)


def _renamed(faces: NDArray[np.int32], name: NDArray[np.int32]) -> NDArray[np.int32]:
    """The faces with other names for their vertices, int32 [F, 3]."""
    renamed = np.empty_like(faces)
    spread(kernels.rename, len(faces), faces, name, renamed)
    return renamed


def drop_repeated(faces: NDArray[np.int32], vertex_count: int) -> NDArray[np.int32]:
    """Faces with three different corners, the first of those with the same three."""
    keep = np.ones(len(faces), bool)
    kernels.mark_repeated(
        faces, np.full(vertex_count, -1, np.int32), np.empty(len(faces), np.int32), keep
    )
    return faces if bool(keep.all()) else faces[keep]


def _sheets(
    vertices: NDArray[np.float32], faces: NDArray[np.int32], twin: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """How sheets go on where several meet: the smoothest two faces of each such edge, and so on.

    Returns:
        int64 [P], half-edges that `twin` calls `NON_MANIFOLD`, the first of each pair.
        int64 [P], the second.
        float64 [P], the cosine of the turn between their faces, above 0.5.
    """
    half = np.flatnonzero(twin == NON_MANIFOLD)
    corner = faces.reshape(-1)
    edge = np.sort(np.stack([corner[half], corner[following(half)]]), axis=0)
    order = np.lexsort(edge)
    half, edge = half[order], edge[:, order]
    is_first = np.ones(half.size + 1, bool)
    is_first[1:-1] = (edge[:, 1:] != edge[:, :-1]).any(axis=0)
    partner, turn = np.empty(half.size, np.int64), np.empty(half.size)
    kernels.pair_smoothest(vertices, faces, half, np.flatnonzero(is_first), partner, turn)
    is_one = partner > half
    return half[is_one], partner[is_one], turn[is_one]


class _Parts:
    """What is joined through edges of exactly two faces.

    A part with only one side has faces that cannot be wound like their neighbours. They are put
    where it folds, not where it is smooth.

    Where more sheets meet in an edge, parts go on into one another, the smoothest two first.
    How they are wound there says nothing about which side is out: touching tubes seem to go on
    into each other's inside. So a part that bulges decides by itself, and the others, mostly
    strips along such edges, follow their neighbours.

    Attributes:
        count: of them.
    """

    def __init__(
        self, vertices: NDArray[np.float32], faces: NDArray[np.int32], twin: NDArray[np.int32]
    ) -> None:
        other, is_alike = np.empty(twin.size, np.int32), np.empty(twin.size, bool)
        spread(kernels.compare, len(faces), faces, twin, other, is_alike)
        # How sharp an edge is matters only where some faces cannot agree.
        fold = np.zeros(twin.size, np.uint8)
        root = np.empty(len(faces), np.int32)
        if _join(other, is_alike, fold, root, 0):
            spread(kernels.find_folds, len(faces), vertices, faces, other, is_alike, fold)
            _join(other, is_alike, fold, root, 2)
        self._label, self._flip = np.empty(len(faces), np.int32), np.empty(len(faces), bool)
        self.count = kernels.number_parts(root, self._label, self._flip)
        self._is_open = np.zeros(self.count, bool)
        self._low = np.full((self.count, 3), np.inf, np.float32)
        self._high = np.full((self.count, 3), -np.inf, np.float32)
        self._sums = np.zeros((self.count, 10))
        origin = np.full(self.count, -1, np.int32)
        kernels.measure_parts(
            vertices, faces, other, is_alike, self._label, self._flip, self._is_open, origin,
            self._low, self._high, self._sums,
        )  # fmt: skip
        self._ends, self._votes = self._neighbours(vertices, faces, twin)

    def _neighbours(
        self, vertices: NDArray[np.float32], faces: NDArray[np.int32], twin: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """The pairs of parts that go on into one another, those that do so most first.

        Returns:
            int32 [2, P], the parts.
            float64 [P], positive where both are wound alike now: by how long their common edge
                is, and how smooth.
        """
        one, two, turn = _sheets(vertices, faces, twin)
        f, g = one // 3, two // 3
        corner = faces.reshape(-1)
        start = corner[one]
        weight = turn * np.linalg.norm(vertices[corner[following(one)]] - vertices[start], axis=1)
        is_alike = start != corner[two]
        weight[is_alike != (self._flip[f] == self._flip[g])] *= -1.0
        low, high = np.sort(np.stack([self._label[f], self._label[g]]), axis=0).astype(np.int64)
        pair, where = np.unique(low * self.count + high, return_inverse=True)
        votes = np.bincount(where, weight, len(pair)).astype(np.float64)
        order = np.argsort(-np.abs(votes), kind="stable")
        ends = np.stack(np.divmod(pair[order], self.count)).astype(np.int32)
        is_two = ends[0] != ends[1]
        return np.ascontiguousarray(ends[:, is_two]), votes[order][is_two]

    def floating(self) -> NDArray[np.bool_]:
        """Which faces belong to floaters, bool [F]: they and what they go on into are small."""
        root = 2 * np.arange(self.count, dtype=np.int32)
        one, other = self._ends
        kernels.join_parts(one, other, self._votes > 0.0, root)
        name, flip = np.empty(self.count, np.int32), np.empty(self.count, bool)
        count = kernels.number_parts(root, name, flip)
        area = np.bincount(name, self._sums[:, :2].sum(axis=1), count)
        low = np.full((3, count), np.inf, np.float32)
        high = np.full((3, count), -np.inf, np.float32)
        for axis in range(3):  # NumPy is slow with all at once
            np.minimum.at(low[axis], name, self._low[:, axis])
            np.maximum.at(high[axis], name, self._high[:, axis])
        size = np.linalg.norm(high - low, axis=0)
        whole = float(np.linalg.norm(high.max(axis=1) - low.min(axis=1)))
        floats = (size < FLOATER_SIZE * whole) & (area < FLOATER_AREA * area.max())
        return floats[name][self._label]

    def turned(self) -> NDArray[np.bool_]:
        """Which faces have to be turned, bool [F], to be wound alike and outward."""
        stays, turned = self._sums[:, :2].T
        area = stays + turned
        # The volume of an open part depends on where it is taken from: its middle.
        bulge = self._sums[:, 2] - (self._sums[:, 3:6] * self._sums[:, 6:9]).sum(axis=1) / (
            3.0 * area + 1e-300
        )
        if np.minimum(stays, turned).sum() < _AS_GIVEN * area.sum():
            is_sure = np.ones(self.count, bool)
            is_inside_out = np.where(self._is_open, turned > stays, bulge < 0.0)
        else:
            edge = np.sqrt(area / self._sums[:, 9])
            is_sure = ~self._is_open | (np.abs(bulge) > 3.0 * _BULGE * area * edge)
            is_inside_out = bulge < 0.0
        # One more part, to which all others are joined that are sure which side is out.
        root = 2 * np.arange(self.count + 1, dtype=np.int32)
        sure = np.flatnonzero(is_sure).astype(np.int32)
        kernels.join_parts(sure, np.full_like(sure, self.count), ~is_inside_out[sure], root)
        is_decided = self._votes != 0.0
        one, other = self._ends[:, is_decided]
        kernels.join_parts(one, other, self._votes[is_decided] > 0.0, root)
        names, flips = np.empty(len(root), np.int32), np.empty(len(root), bool)
        count = kernels.number_parts(root, names, flips)
        name, flip = names[:-1], flips[:-1]
        # What no part that is sure goes on into keeps the winding of most of it, if it has one.
        first = np.bincount(name, np.where(flip, turned, stays), count)
        second = np.bincount(name, np.where(flip, stays, turned), count)
        volume = np.bincount(name, np.where(flip, -bulge, bulge), count)
        at_random = np.minimum(first, second) >= _AT_RANDOM * (first + second)
        is_turned = np.where(at_random, volume < 0.0, second > first)
        is_turned[names[-1]] = flips[-1]
        return (is_turned[name] != flip)[self._label] != self._flip


def _join(
    other: NDArray[np.int32],
    is_alike: NDArray[np.bool_],
    fold: NDArray[np.uint8],
    root: NDArray[np.int32],
    folds: int,
) -> bool:
    """Join the faces to parts, which `root` tells; whether some of them cannot be wound alike.

    Args:
        other: int32 [3 F], the face across each edge.
        is_alike: bool [3 F], whether that one is wound alike.
        fold: uint8 [3 F], how sharp the edge is: 0, or up to `folds`.
        root: int32 [F], written.
        folds: 0 or more.
    """
    is_twisted = np.zeros(_PIECES, bool)
    spread(kernels.join_within, _PIECES, _PIECES, other, is_alike, fold, root, is_twisted, grain=1)
    return kernels.join_across(_PIECES, folds, other, is_alike, fold, root) or bool(
        is_twisted.any()
    )


def drop_unused(
    vertices: NDArray[np.float32], faces: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Only the vertices that a face names, in their old order."""
    used = np.zeros(len(vertices), bool)
    kernels.mark_used(faces, used)
    if bool(used.all()):
        return vertices, faces
    name = np.cumsum(used, dtype=np.int32)
    name -= 1
    return vertices[used], _renamed(faces, name)


def _close_holes(
    vertices: NDArray[np.float32], faces: NDArray[np.int32], rim: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Close rims shorter than `HOLE_PERIMETER` with a fan about their middle.

    Args:
        vertices: float32 [N, 3].
        faces: int32 [F, 3].
        rim: int64 [R], the half-edges without another face, ascending.
    """
    corner = faces.reshape(-1)
    ends = following(rim)
    start, stop = corner[rim], corner[ends]
    new_vertices = np.empty((rim.size, 3), np.float32)
    new_faces = np.empty((rim.size, 3), np.int32)
    vertex_count, face_count = kernels.fan(
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
