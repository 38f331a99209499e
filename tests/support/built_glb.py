"""A GLB that a test puts together, chunk by chunk."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_JSON, _BIN = 0x4E4F534A, 0x004E4942
TYPES = {"<f4": 5126, "<u2": 5123, "<u4": 5125, "u1": 5121, "i1": 5120, "<i2": 5122}
_SHAPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}
CORNERS = np.float32([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


class Glb:
    """A GLB that a test puts together, chunk by chunk."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = {
            "asset": {"version": "2.0"},
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": []}],
            "accessors": [],
            "bufferViews": [],
        }
        self.data = b""

    def view(self, content: bytes, **more: Any) -> int:
        """Append bytes; return the index of their view."""
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content), **more}
        self.document["bufferViews"].append(view)
        self.data += content + bytes(-len(content) % 4)
        return len(self.document["bufferViews"]) - 1

    def accessor(self, values: NDArray[Any], dtype: str = "<f4", **more: Any) -> int:
        """Append values [count, width]; return the index of their accessor."""
        shape = values.reshape(len(values), -1)
        view = self.view(shape.astype(dtype).tobytes())
        return self.accessor_of(view, len(shape), shape.shape[1], dtype, **more)

    def accessor_of(self, view: int, count: int, width: int, dtype: str, **more: Any) -> int:
        self.document["accessors"].append(
            {"bufferView": view, "count": count, "type": _SHAPES[width],
             "componentType": TYPES[dtype], **more}
        )  # fmt: skip
        return len(self.document["accessors"]) - 1

    def primitive(self, indices: int | None = None, **more: Any) -> dict[str, Any]:
        """Append a tetrahedron with these further keys and attributes; return it."""
        attributes = {"POSITION": self.accessor(CORNERS), **more.pop("attributes", {})}
        if indices is None:
            indices = self.accessor(FACES.reshape(-1, 1), "<u2")
        primitive = {"attributes": attributes, "indices": indices, **more}
        self.document["meshes"][0]["primitives"].append(primitive)
        return primitive

    def material(self, content: bytes = b"", **material: Any) -> None:
        """Add the material, and its image if there is one, and use it for the first primitive."""
        self.document["materials"] = [{}, material]
        self.document["meshes"][0]["primitives"][0]["material"] = 1
        if content:
            self.document["images"] = [{}, {"bufferView": self.view(content)}]
            self.document["textures"] = [{}, {"source": 1}]

    def __bytes__(self) -> bytes:
        text = json.dumps(self.document).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<II", len(text), _JSON) + text
        if self.data:
            chunks += struct.pack("<II", len(self.data), _BIN) + self.data
        return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
