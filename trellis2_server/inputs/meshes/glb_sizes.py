"""`StoredSize`: how large a glTF file with compressed triangles would be without compression.

Limits on faces and vertices are in proportion to a file's size.

Does not know: how triangles are decompressed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from trellis2_server.errors import TooLargeError
from trellis2_server.inputs.meshes.glb_draco import draco_of
from trellis2_server.inputs.meshes.glb_meshopt import compression_of
from trellis2_server.inputs.meshes.scene import check_count

if TYPE_CHECKING:
    from trellis2_server.inputs.meshes.glb_container import Glb

#: Bytes as which a compressed byte counts. meshopt stores at least a byte for each face, and so
#: does this: a face may take an eighth of the bytes that it takes otherwise.
_MESHOPT: Final = 8
#: Draco makes 21 faces of a byte of flat grids, and 2 to 16 of other regular meshes.
_DRACO: Final = 256
#: Times the file's size that the Draco streams of all primitives may have: they may share one.
_MAX_SHARED: Final = 16


class StoredSize:
    """Adds up the compressed bytes of a file's triangles, each buffer view once.

    Args:
        file: the file.
    """

    def __init__(self, file: Glb) -> None:
        self._file = file
        self._views: set[int] = set()
        self._meshopt = 0
        self._draco = 0
        self._streams = 0

    @property
    def bytes(self) -> int:
        """Size of the file, as if the primitives so far were not compressed."""
        size = self._file.size
        more = (_MESHOPT - 1) * min(self._meshopt, size)
        return size + more + (_DRACO - 1) * min(self._draco, size)

    def add(self, primitive: dict[str, Any]) -> None:
        """Add a primitive.

        Raises:
            TooLargeError: primitives share so large Draco streams that reading them takes long.
        """
        about = draco_of(primitive)
        if about is not None:
            self._add_stream(about.get("bufferView"))
        for index in (primitive["attributes"]["POSITION"], primitive.get("indices")):
            if index is not None:
                self._add_accessor(self._file.item("accessors", index))

    def _add_stream(self, index: object) -> None:
        size = check_count(self._file.item("bufferViews", index).get("byteLength"))
        self._streams += size
        if self._streams > _MAX_SHARED * self._file.size:
            raise TooLargeError(
                "mesh: too many primitives of the GLB share their Draco compression"
            )
        if index not in self._views:
            self._views.add(check_count(index))
            self._draco += size

    def _add_accessor(self, accessor: dict[str, Any]) -> None:
        if "bufferView" not in accessor or accessor["bufferView"] in self._views:
            return
        self._views.add(check_count(accessor["bufferView"]))
        about = compression_of(self._file.item("bufferViews", accessor["bufferView"]))
        if about is not None:
            self._meshopt += check_count(about.get("byteLength"))
