"""Triangles of a glTF primitive that Draco compresses.

What the head of the compressed bytes declares is checked before the library sees them.

Khronos, KHR_draco_mesh_compression; Google, "Draco Bitstream Specification" 2.2, chapters 4 to 7.

Does not know: where the compressed bytes are, what attributes mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import InputError, MissingPackageError

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

_EXTENSION: Final = "KHR_draco_mesh_compression"
_MAGIC: Final = b"DRACO"
#: The version that glTF refers to, and that encoders write since 2017.
_VERSION: Final = (2, 2)
_MESH: Final = 1
_SEQUENTIAL, _EDGEBREAKER = 0, 1
_HAS_METADATA: Final = 0x8000
#: Bytes of a number of up to 32 bits, 7 bits each.
_MAX_DIGITS: Final = 5
#: Objects in the metadata, and bytes of it, that are passed over.
_MAX_METADATA: Final = 1000


@dataclass(frozen=True, slots=True, eq=False)
class DracoMesh:
    """Decompressed triangles.

    Attributes:
        attributes: rows of the vertices, [N, width], by Draco's id.
        faces: uint32 [F, 3].
    """

    attributes: dict[int, NDArray[Any]]
    faces: NDArray[np.uint32]


def draco_of(primitive: dict[str, Any]) -> dict[str, Any] | None:
    """Return what a primitive says of its compression; None if it has none."""
    return primitive.get("extensions", {}).get(_EXTENSION)


def import_draco() -> ModuleType | None:
    """Return the package `DracoPy`, or None if it is not installed."""
    try:
        import DracoPy
    except ImportError:
        return None
    return DracoPy


def decompress(content: bytes, name: str, *, faces: int, vertices: int) -> DracoMesh:
    """Decompress triangles.

    Args:
        content: compressed bytes.
        name: of the primitive, for error messages.
        faces: number that the file declares; it is within the limits.
        vertices: number that the file declares.

    Raises:
        InputError: the bytes are damaged, or contain other numbers of faces or vertices.
        MissingPackageError: `DracoPy` is not installed.
    """
    library: Any = import_draco()
    if library is None:
        raise MissingPackageError(
            "a mesh that Draco compresses needs a package: run `pip install DracoPy`."
        )
    damaged = f"mesh: the Draco compression of {name} of the GLB is damaged"
    try:
        head = _Head(content, name)
    except IndexError as error:
        raise InputError(damaged) from error
    if head.faces != faces:
        raise _different(name, "faces", faces, head.faces)
    # Other vertices belong to no face. Several may have one position.
    if head.vertices > min(3 * faces, vertices):
        raise _different(name, "vertices", vertices, head.vertices)
    try:
        mesh = library.decode(content)
        found = {item["unique_id"]: np.asarray(item["data"]) for item in mesh.attributes}
        corners = np.asarray(mesh.faces, np.uint32).reshape(-1, 3)
    except (
        library.FileTypeException, ArithmeticError, AttributeError, LookupError, TypeError,
        ValueError, RuntimeError,
    ) as error:  # fmt: skip
        raise InputError(damaged) from error
    if len(corners) != faces:
        raise _different(name, "faces", faces, len(corners))
    for rows in found.values():
        if len(rows) != vertices:
            raise _different(name, "vertices", vertices, len(rows))
    return DracoMesh({at: rows.reshape(len(rows), -1) for at, rows in found.items()}, corners)


def _different(name: str, what: str, declared: int, found: int) -> InputError:
    return InputError(
        f"mesh: {name} of the GLB declares {declared} {what}, but its Draco compression has {found}"
    )


class _Head:
    """The first values of the compressed bytes.

    Args:
        content: compressed bytes.
        name: of the primitive, for error messages.

    Attributes:
        faces: number of faces.
        vertices: number of vertices, without those that share a position with another.

    Raises:
        InputError: they are no mesh of the version that glTF uses.
        IndexError: there are too few bytes.
    """

    def __init__(self, content: bytes, name: str) -> None:
        self._content = content
        self._at = len(_MAGIC)
        if not content.startswith(_MAGIC):
            raise InputError(f"mesh: the compression of {name} of the GLB is not Draco's")
        version = (self._byte(), self._byte())
        if version != _VERSION:
            raise InputError(
                f"mesh: {name} of the GLB has Draco version {version[0]}.{version[1]}; glTF has 2.2"
            )
        kind, method = self._byte(), self._byte()
        if kind != _MESH or method not in {_SEQUENTIAL, _EDGEBREAKER}:
            raise InputError(f"mesh: the Draco compression of {name} of the GLB has no triangles")
        flags = self._byte() | self._byte() << 8
        if flags & _HAS_METADATA:
            self._skip_metadata()
        if method == _EDGEBREAKER:
            self._byte()  # how the triangles are walked through
            self.vertices, self.faces = self._number(), self._number()
        else:
            self.faces, self.vertices = self._number(), self._number()

    def _byte(self) -> int:
        self._at += 1
        return self._content[self._at - 1]

    def _number(self) -> int:
        value = 0
        for digit in range(_MAX_DIGITS):
            byte = self._byte()
            value |= (byte & 0x7F) << 7 * digit
            if byte < 0x80:  # noqa: PLR2004 - the highest bit says that more follow
                return value
        raise IndexError

    def _skip(self, count: int) -> None:
        self._at += count

    def _skip_metadata(self) -> None:
        """Go on behind the metadata of the attributes and of the mesh."""
        left = _MAX_METADATA
        # Each object has entries, then further objects: how many are still to come.
        attributes = self._number()
        for is_attribute in [True] * min(attributes, left) + [False]:
            if is_attribute:
                self._number()  # which attribute
            objects = 1
            is_nested = False
            while objects:
                left -= 1
                if left < 0:
                    raise IndexError
                if is_nested:
                    self._skip(self._byte())  # its name
                is_nested = True
                for _ in range(min(self._number(), len(self._content))):
                    self._skip(self._byte())
                    self._skip(self._number())
                objects += self._number() - 1
