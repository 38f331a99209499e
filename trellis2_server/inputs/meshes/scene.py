"""`Scene`: the triangles of a mesh file and the tree of nodes that places them.

Does not know: file formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.meshes.visibility import used_vertices, visible_faces

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.request_fields import UpAxis

#: The axis that points up.
Axis = Literal["y", "z"]

MAX_VERTICES: Final = 12_000_000
MAX_FACES: Final = 4_000_000
#: Maxima of a file of this server, whose edges have int32 numbers: three for each face.
MAX_OWN_VERTICES: Final = 2**31 - 1
MAX_OWN_FACES: Final = (2**31 - 1) // 3
#: Maximum number of nodes, and of primitives.
MAX_NODES: Final = 10_000
#: Maximum number of corners of a polygon. An outline in a CAD file has some thousands.
MAX_CORNERS: Final = 65_536
#: Faces, and vertices, that a file may have, however small it is.
_FREE_FACES: Final = 100_000
_FREE_VERTICES: Final = 300_000
#: Beyond that, a face or a vertex has to take so many bytes of the file. In files that programs
#: write, faces take nine and more; fewer if they share few vertices, or primitives share all.
_BYTES_PER_FACE: Final = 8
_BYTES_PER_VERTEX: Final = 3
#: Faces that a file may declare, for each that it may have: strips have many that show nothing.
_DECLARED: Final = 2
#: Distance from the origin, in extents of the mesh, beyond which float32 loses more than a
#: millionth of the extent.
_FAR: Final = 16.0


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One indexed triangle list of a scene, in its node's frame.

    Attributes:
        mesh: index of its mesh in the scene.
        positions: float32 [N, 3].
        normals: float32 [N, 3], or None if the file has none and faces are flat.
        uv: float32 [N, 2], as in glTF, or None.
        faces: int32 [F, 3].
        placement: float64 [4, 4], transform from the node's frame to the scene's.
    """

    mesh: int
    positions: NDArray[np.float32]
    normals: NDArray[np.float32] | None
    uv: NDArray[np.float32] | None
    faces: NDArray[np.int32]
    placement: NDArray[np.float64]

    @property
    def is_mirrored(self) -> bool:
        """Whether the placement turns the outside of the faces inside."""
        return bool(are_mirrored(self.placement[None])[0])


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """Content of a mesh file, in the file's own frame.

    Attributes:
        parts: at least one, ordered by mesh.
        nodes: glTF nodes: `name`, the transform, `children`, `mesh`.
        roots: indices of the nodes without a parent.
        meshes: names of the meshes; None for a mesh without a name.
        is_smooth: whether parts without normals are smooth and need computed normals.
        is_double_sided: whether the file declares faces visible from both sides.
        up_axis: the axis that points up in most files of that format.
        stored_bytes: about the size that the file would have without compression; 0: it has none.
        is_up_axis_declared: whether the file itself says which axis points up.
        unread: names of extensions of the file, with geometry that is left out.
    """

    parts: tuple[Part, ...]
    nodes: tuple[dict[str, Any], ...]
    roots: tuple[int, ...]
    meshes: tuple[str | None, ...]
    is_smooth: bool = False
    is_double_sided: bool = False
    up_axis: Axis = "y"
    stored_bytes: int = 0
    is_up_axis_declared: bool = False
    unread: tuple[str, ...] = ()

    def upward_axis(self, asked: UpAxis) -> Axis:
        """Return the axis that points up: the one that is asked for, or else that of the format."""
        return self.up_axis if asked == "auto" else asked

    def merge(self) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        """Return the vertices and faces of all parts, in the scene's frame.

        A placement that mirrors its part keeps the outside of the faces outside.

        Returns:
            positions: float64 [N, 3].
            faces: int32 [F, 3], rows of the positions; in the order of the parts.
        """
        positions = np.empty((sum(len(part.positions) for part in self.parts), 3))
        faces: list[NDArray[np.int32]] = []
        count = 0
        flipped = are_mirrored(np.array([part.placement for part in self.parts])).tolist()
        for part, is_flipped in zip(self.parts, flipped, strict=True):
            linear, translation = part.placement[:3, :3], part.placement[:3, 3]
            placed = positions[count : count + len(part.positions)]
            np.matmul(part.positions.astype(np.float64), linear.T, out=placed)
            placed += translation
            corners = part.faces[:, ::-1] if is_flipped else part.faces
            faces.append(corners + np.int32(count))
            count += len(part.positions)
        return positions, np.concatenate(faces)


def are_mirrored(placements: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which placements turn the outside of faces inside, bool [P].

    Args:
        placements: float64 [P, 4, 4].
    """
    linear = placements[:, :3, :3]
    # Scaled first: a determinant of large or small numbers exceeds the range of numbers.
    scale = np.abs(linear).max(axis=(1, 2), keepdims=True)
    return np.linalg.det(linear / np.where(scale == 0, 1.0, scale)) < 0


@dataclass(frozen=True, slots=True, eq=False)
class Vertices:
    """Vertices of a file with one part, before those that no face uses are left out.

    Attributes:
        positions: [N, 3], of any dtype, in the scene's frame.
        normals: float32 [N, 3], or None.
        uv: float32 [N, 2], NaN for a vertex without texture coordinates, or None.
    """

    positions: NDArray[Any]
    normals: NDArray[np.float32] | None = None
    uv: NDArray[np.float32] | None = None

    def take(self, rows: NDArray[np.int64]) -> Vertices:
        """Return some of them."""
        return Vertices(
            self.positions[rows],
            None if self.normals is None else self.normals[rows],
            None if self.uv is None else self.uv[rows],
        )


def make_part(
    vertices: Vertices,
    faces: NDArray[Any],
    mesh: int = 0,
    offset: NDArray[np.float64] | None = None,
) -> Part:
    """Make a part.

    Faces that show nothing are left out, see `visible_faces`; so are vertices that no face uses,
    and texture coordinates that not all of the others have.

    Args:
        vertices: of the faces.
        faces: [F, 3], of any dtype, rows of the vertices.
        mesh: index of its mesh in the scene.
        offset: from `far_offset`; the origin of the node's frame. None: that of the scene.
    """
    count = len(vertices.positions)
    corners = visible_faces(np.ascontiguousarray(faces, np.int32), count)
    used = used_vertices(corners, count)
    if used is not None:
        vertices = vertices.take(used)
        index = np.empty(int(used[-1]) + 1 if len(used) else 0, np.int32)
        index[used] = np.arange(len(used), dtype=np.int32)
        corners = index[corners]
    positions, uv = vertices.positions, vertices.uv
    placement = np.eye(4)
    if offset is not None:
        positions = positions - offset
        placement[:3, 3] = offset
    if uv is not None and np.isnan(uv).any():
        uv = None
    rows = np.ascontiguousarray(positions, np.float32)
    return Part(mesh, rows, vertices.normals, uv, corners, placement)


def far_offset(positions: NDArray[Any], faces: NDArray[Any]) -> NDArray[np.float64] | None:
    """Return the middle of a mesh that lies so far away that float32 would damage it; else None.

    Geographic coordinates have millions of metres: float32 is exact to half a metre there.

    Args:
        positions: [N, 3]. What is float32 already has no more digits.
        faces: integers [F, 3]; vertices that none of them uses do not count.

    Returns:
        float64 [3], of values that float32 holds exactly, as many programs read nodes.
    """
    if positions.dtype == np.float32 or not len(faces):
        return None
    used = used_vertices(faces, len(positions))
    rows = positions if used is None else positions[used]
    # By columns: several times faster than along the first axis.
    low, high = (np.array([each(column) for column in rows.T]) for each in (np.min, np.max))
    extent, distance = float((high - low).max()), float(np.abs([low, high]).max())
    middle = (low / 2 + high / 2).astype(np.float32).astype(np.float64)
    if not (np.isfinite(distance) and np.isfinite(middle).all()) or distance <= _FAR * extent:
        return None
    return middle


def make_node(mesh: int, name: str | None, offset: NDArray[np.float64] | None) -> dict[str, Any]:
    """Return a node for parts that have that offset."""
    node: dict[str, Any] = {"name": name} if name else {}
    if offset is not None:
        node["translation"] = offset.tolist()
    return node | {"mesh": mesh}


def single_part_scene(vertices: Vertices, faces: NDArray[Any], *, is_smooth: bool) -> Scene:
    """Make a scene of one node with one part; see `make_part`."""
    offset = far_offset(vertices.positions, faces)
    part = make_part(vertices, faces, 0, offset)
    return Scene((part,), (make_node(0, None, offset),), (0,), (None,), is_smooth)


def check_size(vertices: int, faces: int, nodes: int = 0, *, is_own: bool = False) -> None:
    """Check counts against the limits.

    Args:
        vertices: of the file.
        faces: of the file.
        nodes: of the file, or primitives.
        is_own: whether the file is one of this server's, which bounds its faces when it makes them.

    Raises:
        TooLargeError: one of them is over its limit.
    """
    most_vertices = MAX_OWN_VERTICES if is_own else MAX_VERTICES
    most_faces = MAX_OWN_FACES if is_own else MAX_FACES
    if vertices > most_vertices:
        raise TooLargeError(f"mesh: over the limit of {most_vertices} vertices")
    if faces > most_faces:
        raise TooLargeError(f"mesh: over the limit of {most_faces} faces")
    if nodes > MAX_NODES:
        raise TooLargeError(f"mesh: over the limit of {MAX_NODES} nodes")


def check_corners(count: int) -> None:
    """Check the number of corners of a polygon.

    Raises:
        TooLargeError: it is over `MAX_CORNERS`.
    """
    if count > MAX_CORNERS:
        raise TooLargeError(f"mesh: a face over the limit of {MAX_CORNERS} corners")


def density_limits(file_bytes: int) -> tuple[int, int]:
    """Return how many faces, and vertices, the scene of a file may have."""
    return (
        min(MAX_FACES, _FREE_FACES + file_bytes // _BYTES_PER_FACE),
        min(MAX_VERTICES, _FREE_VERTICES + file_bytes // _BYTES_PER_VERTEX),
    )


def check_density(vertices: int, faces: int, file_bytes: int) -> None:
    """Check that the scene is in proportion to its file: memory and time grow with the scene.

    Raises:
        TooLargeError: a small file has many faces or vertices.
    """
    for what, count, free, each in (
        ("faces", faces, _FREE_FACES, _BYTES_PER_FACE),
        ("vertices", vertices, _FREE_VERTICES, _BYTES_PER_VERTEX),
    ):
        limit = free + file_bytes // each
        if count > limit:
            raise TooLargeError(
                f"mesh: {count} {what} in a file of {file_bytes} bytes, over the limit of {limit}"
            )


def check_declared(faces: int, file_bytes: int) -> None:
    """Check a number of declared faces, before they are read; see `check_density`.

    Raises:
        TooLargeError: a small file declares many faces.
    """
    limit = _DECLARED * (_FREE_FACES + file_bytes // _BYTES_PER_FACE)
    if faces > limit:
        raise TooLargeError(
            f"mesh: {faces} faces in a file of {file_bytes} bytes, over the limit of {limit}"
        )


def check_count(value: object, least: int = 0) -> int:
    """Return a count or index from a file, if it is a whole number of at least `least`.

    Raises:
        InputError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError("mesh: a count or an index in the file is not valid")
    return value
