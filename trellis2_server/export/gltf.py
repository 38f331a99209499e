"""Builder of a binary glTF 2.0 file.

Format: Khronos, "glTF 2.0 Specification", chapters 3 and 4.4 (binary container).

Does not know: meshes, materials.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.errors import ExportError
from trellis2_server.export.cancellation import check
from trellis2_server.export.chunks import byte_chunks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

#: Component types of accessors.
BYTE: Final = 5120
SHORT: Final = 5122
USHORT: Final = 5123
UINT: Final = 5125
FLOAT: Final = 5126
#: Targets of buffer views.
ARRAY_BUFFER: Final = 34962
ELEMENT_ARRAY_BUFFER: Final = 34963
#: Number of vertices up to which 16-bit indices suffice: 65535 is the primitive restart value.
MAX_SHORT_VERTICES: Final = 0xFFFF
#: Items of a list that are written as JSON at a time; other threads can run between two slices.
_ITEMS_AT_ONCE: Final = 512


@dataclass(slots=True, eq=False)
class GltfBuilder:
    """The JSON document and the binary chunk of a file that is being built.

    Attributes:
        json: the document, without `buffers`.
        chunks: bytes of the binary chunk, in order.
        buffers: the document's `buffers`; the first one is the binary chunk.
    """

    json: dict[str, Any]
    chunks: list[bytes] = field(default_factory=list)
    buffers: list[dict[str, Any]] = field(default_factory=lambda: [{"byteLength": 0}])

    def add(self, name: str, item: dict[str, Any]) -> int:
        """Append an item to a list of the document and return its index."""
        items = self.json.setdefault(name, [])
        items.append(item)
        return len(items) - 1

    def append(self, content: bytes | NDArray[Any]) -> int:
        """Append bytes, or those of an array, to the binary chunk and return their offset."""
        start = self.buffers[0]["byteLength"]
        chunks = [content] if isinstance(content, bytes) else byte_chunks(content)
        size = sum(map(len, chunks))
        padding = -size % 4
        self.chunks += [*chunks, bytes(padding)]
        self.buffers[0]["byteLength"] = start + size + padding
        return start

    def add_bytes(self, content: bytes | NDArray[Any], **properties: int) -> int:
        """Append bytes, or those of an array, and return the index of their buffer view."""
        size = len(content) if isinstance(content, bytes) else content.nbytes
        view = {"buffer": 0, "byteOffset": self.append(content), "byteLength": size}
        return self.add("bufferViews", view | properties)

    def require(self, extension: str) -> None:
        """Declare an extension as used and required."""
        for name in ("extensionsUsed", "extensionsRequired"):
            if extension not in self.json.setdefault(name, []):
                self.json[name].append(extension)

    def to_glb(self) -> bytes:
        """Return the bytes of the GLB.

        Raises:
            ExportError: the document is not JSON, or the file would reach 4 GiB.
        """
        self.json["buffers"] = self.buffers
        size = self.buffers[0]["byteLength"]
        try:
            head = to_json(self.json).encode()
        except (TypeError, ValueError) as error:
            raise ExportError("The metadata of the file is not valid JSON.") from error
        head += b" " * (-len(head) % 4)
        total = 12 + 8 + len(head) + 8 + size
        if total >= 1 << 32:
            raise ExportError("The file would exceed 4 GiB, the maximum size of a GLB.")
        return b"".join(
            [
                struct.pack("<4sII", b"glTF", 2, total),
                struct.pack("<I4s", len(head), b"JSON"),
                head,
                struct.pack("<I4s", size, b"BIN\0"),
                *self.chunks,
            ]
        )


def to_json(document: Mapping[str, Any]) -> str:
    """Return an object as JSON, its lists in slices: `dumps` holds the interpreter lock."""
    members: list[str] = []
    for name, value in document.items():
        if isinstance(value, list) and len(value) > _ITEMS_AT_ONCE:
            slices: list[str] = []
            for start in range(0, len(value), _ITEMS_AT_ONCE):
                check()
                slices.append(_json(value[start : start + _ITEMS_AT_ONCE])[1:-1])
            text = f"[{','.join(slices)}]"
        else:
            text = _json(value)
        members.append(f"{_json(name)}:{text}")
    return f"{{{','.join(members)}}}"


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def new_document(extras: Mapping[str, object], generator: str) -> GltfBuilder:
    """Return a builder whose document has only an asset.

    Args:
        extras: JSON values, written to `asset.extras`.
        generator: name and version of the program.
    """
    builder = GltfBuilder({"asset": {"version": "2.0", "generator": generator}})
    if extras:
        builder.json["asset"]["extras"] = dict(extras)
    return builder


def read_warnings(glb: bytes) -> tuple[str, ...]:
    """Return the sentences for the client in `asset.extras.warnings` of a GLB of this server."""
    try:
        (size,) = struct.unpack_from("<12xI", glb)
        warnings = json.loads(glb[20 : 20 + size])["asset"]["extras"]["warnings"]
    except (struct.error, ValueError, KeyError, TypeError):
        return ()
    return tuple(map(str, warnings))


def set_asset(glb: bytes, *, extras: Mapping[str, object], generator: str) -> bytes:
    """Replace the generator and the extras of a GLB that another exporter wrote.

    Args:
        glb: the file.
        extras: JSON values, written to `asset.extras`.
        generator: name and version of the program.

    Raises:
        ExportError: it is not a GLB.
    """
    try:
        magic, _, _, size, _ = struct.unpack_from("<4sIII4s", glb)
        document = json.loads(glb[20 : 20 + size])
        document["asset"] |= {"generator": generator, "extras": dict(extras)}
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise ExportError("the exporter did not write a GLB") from error
    if magic != b"glTF":
        raise ExportError("the exporter did not write a GLB")
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    binary = glb[20 + size :]
    start = struct.pack("<4sIII4s", b"glTF", 2, 20 + len(text) + len(binary), len(text), b"JSON")
    return start + text + binary
