"""`Glb`: the JSON and the binary chunk of a GLB file.

Khronos, "glTF 2.0 Specification", chapters 3.6 and 4.4.

Does not know: which nodes and meshes a file has.
"""

from __future__ import annotations

import json
import re
import struct
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.meshes.scene import check_count, check_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MAX_JSON_BYTES: Final = 16_777_216

_TYPES: Final = {
    5120: np.dtype("<i1"),
    5121: np.dtype("<u1"),
    5122: np.dtype("<i2"),
    5123: np.dtype("<u2"),
    5125: np.dtype("<u4"),
    5126: np.dtype("<f4"),
}
_WIDTHS: Final = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_parse_value: Final = json.JSONDecoder().raw_decode
_COMPRESSIONS: Final = ("KHR_draco_mesh_compression", "EXT_meshopt_compression")


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


def _parse(content: bytes) -> dict[str, Any]:
    try:
        document = _parse_in_slices(content.decode(json.detect_encoding(content), "surrogatepass"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"mesh: the JSON of the GLB is not valid at character {error.pos}: {error.msg}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError("mesh: the JSON of the GLB is not valid") from error
    if document is None:
        raise InputError("mesh: the JSON of the GLB is not an object")
    return document


def _parse_in_slices(text: str) -> dict[str, Any] | None:
    """Parse JSON as `json.loads` does, the items of the outer lists one by one.

    `json.loads` holds the interpreter lock, for megabytes longer than others can wait.

    Returns:
        The object, or None for another value.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deep.
    """
    at = _after_space(text, 0)
    document: dict[str, Any] = {}
    if text[at : at + 1] != "{":
        json.loads(text)
        return None
    at = _after_space(text, at + 1)
    if text[at : at + 1] == "}":
        at += 1
    else:
        while True:
            if text[at : at + 1] != '"':
                raise json.JSONDecodeError(
                    "Expecting property name enclosed in double quotes", text, at
                )
            name, at = _parse_value(text, at)
            at = _expect(text, at, ":")
            if text[at : at + 1] == "[":
                document[name], at = _parse_list(text, at)
            else:
                document[name], at = _parse_value(text, at)
            at = _after_space(text, at)
            if text[at : at + 1] == "}":
                at += 1
                break
            at = _expect(text, at, ",")
    if _after_space(text, at) != len(text):
        raise json.JSONDecodeError("Extra data", text, _after_space(text, at))
    return document


def _parse_list(text: str, at: int) -> tuple[list[Any], int]:
    """Parse the list that begins at a position; return it, and the position after it."""
    items: list[Any] = []
    at = _after_space(text, at + 1)
    if text[at : at + 1] == "]":
        return items, at + 1
    while True:
        item, at = _parse_value(text, at)
        items.append(item)
        at = _after_space(text, at)
        if text[at : at + 1] == "]":
            return items, at + 1
        at = _expect(text, at, ",")


def _expect(text: str, at: int, sign: str) -> int:
    """Return the position after a sign and the space around it. Raises if it is not there."""
    at = _after_space(text, at)
    if text[at : at + 1] != sign:
        raise json.JSONDecodeError(f"Expecting '{sign}' delimiter", text, at)
    return _after_space(text, at + 1)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


class Glb:
    """Parsed container of a GLB.

    Args:
        content: the file.

    Attributes:
        json: the glTF JSON.

    Raises:
        InputError: the file is not a GLB of version 2, is truncated or compressed, or its JSON is
            not valid.
        TooLargeError: the JSON exceeds `MAX_JSON_BYTES`.
    """

    def __init__(self, content: bytes) -> None:
        magic, version, length = struct.unpack_from("<4sII", content)
        if magic != b"glTF" or version != 2:  # noqa: PLR2004
            raise InputError(f"mesh: GLB version {version} is not supported; only version 2 is")
        if length > len(content):
            raise InputError("mesh: the GLB is cut short")
        # Others may follow; a file can have millions of empty ones.
        chunks = list(islice(_chunks(memoryview(content)[:length]), 2))
        if not chunks or chunks[0][0] != b"JSON":
            raise InputError("mesh: the GLB does not begin with its JSON")
        if len(chunks[0][1]) > MAX_JSON_BYTES:
            raise TooLargeError(f"mesh: over the limit of {MAX_JSON_BYTES} bytes of JSON")
        self.json = _parse(bytes(chunks[0][1]))
        has_data = len(chunks) > 1 and chunks[1][0] == b"BIN\0"
        self._bin = chunks[1][1] if has_data else memoryview(b"")
        for extension in self.json.get("extensionsRequired", []):
            if extension in _COMPRESSIONS:
                raise InputError(f"mesh: compressed with {extension}; send it uncompressed")

    def item(self, name: str, index: object) -> dict[str, Any]:
        """Return an object of one of the JSON's lists, such as `meshes`."""
        return self.json[name][check_count(index)]

    def count(self, index: object) -> int:
        """Return the number of rows that an accessor declares."""
        return check_count(self.item("accessors", index)["count"], 1)

    def view(self, index: object) -> memoryview:
        """Return the bytes of a buffer view.

        Raises:
            InputError: the view is outside the binary chunk or in another file.
        """
        view = self.item("bufferViews", index)
        buffer = check_count(view["buffer"])
        if buffer != 0 or "uri" in self.item("buffers", 0):
            raise InputError("mesh: the GLB refers to other files; embed all data in it")
        start, size = check_count(view.get("byteOffset", 0)), check_count(view["byteLength"])
        if start + size > len(self._bin):
            raise InputError("mesh: the GLB declares more data than it contains")
        return self._bin[start : start + size]

    def rows(self, index: object, kind: str) -> NDArray[Any]:
        """Return an accessor's rows.

        Args:
            index: index of the accessor.
            kind: expected glTF type, such as `VEC3`.

        Returns:
            [N, width], a view with the stored dtype; float32 for normalized integers.

        Raises:
            InputError: the accessor is of another type, sparse, or exceeds its buffer view.
            TooLargeError: the accessor has more rows than the limits allow.
        """
        accessor = self.item("accessors", index)
        if accessor["type"] != kind:
            raise InputError(f"mesh: an accessor of the GLB should be {kind}")
        if "sparse" in accessor or "bufferView" not in accessor:
            raise InputError("mesh: sparse accessors are not supported")
        dtype, width = _TYPES[accessor["componentType"]], _WIDTHS[kind]
        count = check_count(accessor["count"], 1)
        offset = check_count(accessor.get("byteOffset", 0))
        content = self.view(accessor["bufferView"])
        view = self.item("bufferViews", accessor["bufferView"])
        size = dtype.itemsize * width
        stride = check_count(view.get("byteStride", size), 1)
        if stride < size or offset + stride * (count - 1) + size > len(content):
            raise InputError("mesh: the GLB declares more data than it contains")
        check_size(count if kind != "SCALAR" else 0, count // 3 if kind == "SCALAR" else 0)
        strides = (stride, dtype.itemsize)
        rows = np.ndarray((count, width), dtype, content, offset, strides)
        if accessor.get("normalized") and dtype.kind in "iu":
            return np.maximum(
                rows / np.float32(2 ** (8 * dtype.itemsize - (dtype.kind == "i")) - 1),
                np.float32(-1),
            )
        return rows
