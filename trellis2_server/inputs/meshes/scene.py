"""`Scene`: the triangles of a mesh file and the tree of nodes that places them.

Does not know: file formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.meshes.visibility import visible_faces

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_VERTICES: Final = 12_000_000
MAX_FACES: Final = 4_000_000
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
    """Content of a mesh file, in the file's own frame; Y up, as in glTF.

    Attributes:
        parts: at least one, ordered by mesh.
        nodes: glTF nodes: `name`, the transform, `children`, `mesh`.
        roots: indices of the nodes without a parent.
        meshes: names of the meshes; None for a mesh without a name.
        is_smooth: whether parts without normals are smooth and need computed normals.
        is_double_sided: whether the file declares faces visible from both sides.
    """

    parts: tuple[Part, ...]
    nodes: tuple[dict[str, Any], ...]
    roots: tuple[int, ...]
    meshes: tuple[str | None, ...]
    is_smooth: bool = False
    is_double_sided: bool = False

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


def make_part(positions: NDArray[Any], faces: NDArray[Any], mesh: int = 0) -> Part:
    """Make a part without normals and texture coordinates, in the scene's own frame.

    Faces that show nothing are left out; see `visible_faces`.

    Args:
        positions: [N, 3], of any dtype.
        faces: [F, 3], of any dtype.
        mesh: index of its mesh in the scene.
    """
    rows = np.ascontiguousarray(positions, np.float32)
    corners = visible_faces(np.ascontiguousarray(faces, np.int32), len(rows))
    return Part(mesh, rows, None, None, corners, np.eye(4))


def single_part_scene(part: Part, *, is_smooth: bool) -> Scene:
    """Make a scene of one node with one part."""
    return Scene((part,), ({"mesh": 0},), (0,), (None,), is_smooth)


def check_size(vertices: int, faces: int, nodes: int = 0) -> None:
    """Check counts against the limits.

    Raises:
        TooLargeError: one of them is over its limit.
    """
    if vertices > MAX_VERTICES:
        raise TooLargeError(f"mesh: over the limit of {MAX_VERTICES} vertices")
    if faces > MAX_FACES:
        raise TooLargeError(f"mesh: over the limit of {MAX_FACES} faces")
    if nodes > MAX_NODES:
        raise TooLargeError(f"mesh: over the limit of {MAX_NODES} nodes")


def check_corners(count: int) -> None:
    """Check the number of corners of a polygon.

    Raises:
        TooLargeError: it is over `MAX_CORNERS`.
    """
    if count > MAX_CORNERS:
        raise TooLargeError(f"mesh: a face over the limit of {MAX_CORNERS} corners")


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


def check_count(value: object, least: int = 0) -> int:
    """Return a count or index from a file, if it is a whole number of at least `least`.

    Raises:
        InputError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError("mesh: a count or an index in the file is not valid")
    return value
