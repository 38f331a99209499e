"""`Glb`: the JSON of a glTF file, and the bytes of its buffer views.

A file is a GLB, or glTF as JSON text that embeds its data.

Khronos, "glTF 2.0 Specification", chapters 3.6.1 and 4.4.

Does not know: which nodes and meshes a file has, what is in a view.
"""

from __future__ import annotations

import struct
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.meshes.data_uris import DataUris
from trellis2_server.inputs.meshes.glb_json import parse_document
from trellis2_server.inputs.meshes.glb_meshopt import MeshoptViews, compression_of, import_meshopt
from trellis2_server.inputs.meshes.scene import check_count

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_JSON_BYTES: Final = 16_777_216
#: Chunks among which the binary one is looked for. A file can have millions of empty ones.
_MAX_CHUNKS: Final = 100
_SPACE: Final = b" \t\r\n"
_BOM: Final = b"\xef\xbb\xbf"
#: Bytes within which JSON text begins.
_BEGINNING: Final = 65_536


def is_glb(content: bytes) -> bool:
    """Whether the file begins like a GLB."""
    return content.startswith(b"glTF")


def is_gltf_text(content: bytes) -> bool:
    """Whether the file begins like a JSON object."""
    return content[:_BEGINNING].removeprefix(_BOM).lstrip(_SPACE).startswith(b"{")


def _chunks(content: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield type and content of a GLB's chunks."""
    at = 12
    while at + 8 <= len(content):
        size, kind = struct.unpack_from("<I4s", content, at)
        at += 8
        if at + size > len(content):
            raise InputError("mesh: the GLB is cut short")
        yield kind, content[at : at + size]
        at += size


def _split(content: bytes) -> tuple[bytes, memoryview | None]:
    """Return the JSON and the binary chunk of a GLB.

    Raises:
        InputError: the file is not a GLB of version 2, or is truncated.
        TooLargeError: the JSON exceeds `MAX_JSON_BYTES`.
    """
    magic, version, length = struct.unpack_from("<4sII", content)
    if magic != b"glTF" or version != 2:  # noqa: PLR2004
        raise InputError(f"mesh: GLB version {version} is not supported; only version 2 is")
    if length > len(content):
        raise InputError("mesh: the GLB is cut short")
    chunks = islice(_chunks(memoryview(content)[:length]), _MAX_CHUNKS)
    kind, text = next(chunks, (b"", memoryview(b"")))
    if kind != b"JSON":
        raise InputError("mesh: the GLB does not begin with its JSON")
    _check_json_size(len(text))
    binary = next((chunk for kind, chunk in chunks if kind == b"BIN\0"), None)
    return bytes(text), binary


def _check_json_size(size: int) -> None:
    if size > MAX_JSON_BYTES:
        raise TooLargeError(f"mesh: over the limit of {MAX_JSON_BYTES} bytes of JSON")


class Glb:
    """Parsed container of a glTF file.

    Args:
        content: the file.

    Attributes:
        json: the glTF JSON.
        size: of the file, bytes.

    Raises:
        InputError: the file is not a GLB of version 2 or truncated, or its JSON is not valid.
        TooLargeError: the JSON exceeds `MAX_JSON_BYTES`.
    """

    def __init__(self, content: bytes) -> None:
        self.size = len(content)
        self._uris = DataUris(len(content))
        self._bin: memoryview | None = None
        if is_gltf_text(content):
            text = self._uris.cut_out(content)
            _check_json_size(len(text))
            self.json = parse_document(text, "glTF file")
        else:
            text, self._bin = _split(content)
            self.json = parse_document(text, "GLB")
        self._buffers: dict[int, memoryview] = {}
        self._meshopt = MeshoptViews(self.size)
        self._decompressed: dict[int, memoryview] = {}

    def item(self, name: str, index: object) -> dict[str, Any]:
        """Return an object of one of the JSON's lists, such as `meshes`.

        Raises:
            InputError: there is none at this index.
        """
        items = self.json.get(name)
        at = check_count(index)
        if not isinstance(items, list) or at >= len(items):
            raise InputError(f"mesh: the GLB refers to {name}[{at}], which it does not have")
        item = items[at]
        if not isinstance(item, dict):
            raise InputError(f"mesh: {name}[{at}] of the GLB is not an object")
        return item

    def view(self, index: object) -> memoryview:
        """Return the bytes of a buffer view, decompressed if they are compressed.

        Raises:
            InputError: the view is outside its buffer, that is in another file, or the compressed
                bytes are damaged.
            TooLargeError: the file has too much content when decompressed.
            MissingPackageError: the package that decompresses it is not installed.
        """
        view, name = self.item("bufferViews", index), f"bufferViews[{index}]"
        packed = compression_of(view)
        if packed is None or (import_meshopt() is None and self.has_buffer(view.get("buffer"))):
            return self.slice(view, name)
        at = check_count(index)
        if at not in self._decompressed:
            content = self.slice(packed, f"the compression of {name}")
            self._decompressed[at] = self._meshopt.decompress(view, content, name)
        return self._decompressed[at]

    def slice(self, view: dict[str, Any], name: str) -> memoryview:
        """Return the bytes that an object with `buffer`, `byteOffset` and `byteLength` selects.

        Args:
            view: the object.
            name: of the object, for error messages.

        Raises:
            InputError: they are outside the buffer, or that is in another file.
        """
        content = self._buffer(check_count(view.get("buffer")))
        start, size = check_count(view.get("byteOffset", 0)), check_count(view.get("byteLength"))
        if start + size > len(content):
            raise InputError(f"mesh: {name} of the GLB declares more data than it contains")
        return content[start : start + size]

    def has_buffer(self, index: object) -> bool:
        """Whether the file contains the data of a buffer."""
        buffer = self.item("buffers", index)
        if "uri" in buffer:
            return self._uris.is_data(buffer["uri"])
        return index == 0 and self._bin is not None

    def _buffer(self, index: int) -> memoryview:
        buffer = self.item("buffers", index)
        if index not in self._buffers:
            self._buffers[index] = self._open(buffer, index)
        return self._buffers[index]

    def _open(self, buffer: dict[str, Any], index: int) -> memoryview:
        if "uri" in buffer:
            return memoryview(self._uris.decode(buffer["uri"], f"buffers[{index}]"))
        if index == 0 and self._bin is not None:
            return self._bin
        raise InputError(f"mesh: buffers[{index}] of the GLB has no data")
