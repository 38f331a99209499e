"""`StoredSize`: how large a glTF file with compressed triangles would be without compression.

Limits on faces and vertices are in proportion to a file's size.

Does not know: how triangles are decompressed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from trellis2_server.inputs.meshes.glb_meshopt import compression_of
from trellis2_server.inputs.meshes.scene import check_count

if TYPE_CHECKING:
    from trellis2_server.inputs.meshes.glb_container import Glb

#: Bytes as which a compressed byte counts. meshopt stores at least a byte for each face, and so
#: does this: a face may take an eighth of the bytes that it takes otherwise.
_MESHOPT: Final = 8


class StoredSize:
    """Adds up the compressed bytes of a file's triangles, each buffer view once.

    Args:
        file: the file.
    """

    def __init__(self, file: Glb) -> None:
        self._file = file
        self._views: set[int] = set()
        self._meshopt = 0

    @property
    def bytes(self) -> int:
        """Size of the file, as if the primitives so far were not compressed."""
        size = self._file.size
        return size + (_MESHOPT - 1) * min(self._meshopt, size)

    def add(self, primitive: dict[str, Any]) -> None:
        """Add a primitive."""
        for index in (primitive["attributes"]["POSITION"], primitive.get("indices")):
            if index is not None:
                self._add_accessor(self._file.item("accessors", index))

    def _add_accessor(self, accessor: dict[str, Any]) -> None:
        if "bufferView" not in accessor or accessor["bufferView"] in self._views:
            return
        self._views.add(check_count(accessor["bufferView"]))
        about = compression_of(self._file.item("bufferViews", accessor["bufferView"]))
        if about is not None:
            self._meshopt += check_count(about.get("byteLength"))
