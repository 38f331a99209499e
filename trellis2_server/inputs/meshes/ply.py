"""Read PLY files: positions and faces, text or binary.

G. Turk, "The PLY Polygon File Format" (1994).
"""

from __future__ import annotations

import io
import re
from array import array
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes.polygons import triangulate
from trellis2_server.inputs.meshes.scene import (
    MAX_FACES,
    check_corners,
    check_count,
    check_size,
    make_part,
    single_part_scene,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.inputs.meshes.scene import Scene

_TYPES: Final = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip


@dataclass(slots=True)
class _Element:
    """An element of a PLY header.

    Attributes:
        name: `vertex`, `face` or another.
        count: number of rows.
        properties: (name, type, type of the list's length or None for a scalar).
    """

    name: str
    count: int
    properties: list[tuple[str, str, str | None]]

    @property
    def min_bytes(self) -> int:
        """Minimum size of a row in a binary file, in bytes."""
        return sum(int((length or kind)[1]) for _, kind, length in self.properties)


def is_ply(content: bytes) -> bool:
    """Whether the file begins like a PLY."""
    return content[:4] in {b"ply\n", b"ply\r"}


def read_ply(content: bytes) -> Scene:
    """Read a PLY, text or binary of either byte order."""
    end = re.search(rb"\nend_header\r?\n", content[:65_536])
    if end is None:
        raise InputError("mesh: the header of the PLY file has no end")
    encoding, elements = _read_header(content[: end.start()].decode("ascii"))
    if len({element.name for element in elements}) < len(elements):
        raise InputError("mesh: the PLY file declares an element twice")
    for element in elements:
        # In text, a value takes at least a digit and a space.
        row_bytes = 2 * len(element.properties) if encoding == "ascii" else element.min_bytes
        if element.count * max(row_bytes, 1) > len(content) - end.end() + 1:
            raise InputError("mesh: the PLY file declares more than it contains")
    counts = {element.name: element.count for element in elements}
    check_size(counts.get("vertex", 0), counts.get("face", 0))
    if encoding == "ascii":
        positions, faces = _read_text(memoryview(content)[end.end() :], elements)
    else:
        order = "<" if encoding == "binary_little_endian" else ">"
        positions, faces = _read_binary(memoryview(content)[end.end() :], elements, order)
    if positions is None or faces is None:
        raise InputError("mesh: the PLY file has no vertices or no faces")
    check_size(0, len(faces))
    return single_part_scene(make_part(positions, faces), is_smooth=True)


def _read_header(text: str) -> tuple[str, list[_Element]]:
    encoding, elements = "", list[_Element]()
    for line in text.splitlines()[1:]:
        words = line.split()
        if words[:1] == ["format"]:
            encoding = words[1]
        elif words[:1] == ["element"]:
            elements.append(_Element(words[1], check_count(int(words[2][:20])), []))
        elif words[:2] == ["property", "list"]:
            length, kind = _TYPES[words[2]], _TYPES[words[3]]
            elements[-1].properties.append((words[4], kind, length))
        elif words[:1] == ["property"]:
            elements[-1].properties.append((words[2], _TYPES[words[1]], None))
    if encoding not in {"ascii", "binary_little_endian", "binary_big_endian"}:
        raise InputError("mesh: the PLY file does not declare a known format")
    return encoding, elements


def _read_text(
    content: memoryview, elements: list[_Element]
) -> tuple[NDArray[np.float32] | None, NDArray[np.int64] | None]:
    lines = io.BytesIO(content)
    positions = faces = None
    for element in elements:
        names = [name for name, _, _ in element.properties]
        if element.name == "vertex":
            columns = [names.index(axis) for axis in "xyz"]
            positions = np.empty((element.count, 3), np.float32)
            for row in range(element.count):
                words = _next_line(lines).split(None, len(names))
                positions[row] = [float(words[at]) for at in columns]
        elif element.name == "face" and element.properties:
            faces = _read_text_faces(lines, element)
        else:
            for _ in range(element.count):
                _next_line(lines)
    return positions, faces


def _read_text_faces(lines: io.BytesIO, element: _Element) -> NDArray[np.int64]:
    before = _corners_position(element)
    corners, sizes = array("q"), array("q")
    total = 0
    for _ in range(element.count):
        words = _next_line(lines).split(None, before + 1)
        count = check_count(int(words[before]))
        check_corners(count)
        total += max(count - 2, 0)
        if total > MAX_FACES:  # before the line is split: a word takes 40 bytes
            check_size(0, total)
        polygon = words[before + 1].split(None, count)[:count] if count else []
        if len(polygon) != count:
            raise InputError("mesh: the PLY file is cut short")
        corners.extend([int(word) for word in polygon])
        sizes.append(count)
    return triangulate(np.asarray(corners), np.asarray(sizes))


def _next_line(lines: io.BytesIO) -> bytes:
    line = lines.readline()
    if not line:
        raise InputError("mesh: the PLY file is cut short")
    return line


def _corners_position(element: _Element) -> int:
    """Count the scalars before a face's list of corners, which must be its first list."""
    for before, (name, _, length) in enumerate(element.properties):
        if length is not None:
            if name not in {"vertex_indices", "vertex_index"}:
                break
            return before
    raise InputError(
        "mesh: the faces of the PLY file do not have vertex_indices as their first list"
    )


def _read_binary(
    content: memoryview, elements: list[_Element], order: str
) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    positions = faces = None
    at = 0
    for element in elements:
        has_lists = any(length for _, _, length in element.properties)
        if element.name == "face" and has_lists:
            faces, at = _read_faces(content, at, element, order)
        elif has_lists:
            at = _walk_lists(content, at, element, order)
        else:
            dtype = np.dtype([(name, order + kind) for name, kind, _ in element.properties])
            _check_remaining(content, at, element.count * dtype.itemsize)
            if element.name == "vertex":
                rows = np.frombuffer(content, dtype, element.count, at)
                positions = np.empty((element.count, 3), np.float32)
                for column, axis in enumerate("xyz"):
                    positions[:, column] = rows[axis]
            at += element.count * dtype.itemsize
    return positions, faces


def _check_remaining(content: memoryview, at: int, size: int) -> None:
    if at + size > len(content):
        raise InputError("mesh: the PLY file is cut short")


def _read_faces(
    content: memoryview, at: int, element: _Element, order: str
) -> tuple[NDArray[np.int64], int]:
    position = _corners_position(element)
    uniform = _read_uniform_faces(content, at, element, order)
    if uniform is not None:
        return uniform
    corners, sizes = bytearray(), array("q")
    at = _walk_lists(content, at, element, order, _Lists(position, corners, sizes))
    kind = order + element.properties[position][1]
    return triangulate(np.frombuffer(corners, kind), np.asarray(sizes)), at


def _read_uniform_faces(
    content: memoryview, at: int, element: _Element, order: str
) -> tuple[NDArray[np.int64], int] | None:
    """Read all faces at once if all lists have the length of the first; else return None."""
    fields: list[tuple[str, str] | tuple[str, str, int]] = []
    first = at
    for number, (_, kind, length) in enumerate(element.properties):
        if length is None:
            fields.append((f"s{number}", order + kind))
            first += int(kind[1])
            continue
        if not element.count:
            return np.empty((0, 3), np.int64), at
        values, after = _read_list(content, first, order + kind, order + length)
        fields += [(f"n{number}", order + length), (f"l{number}", order + kind, len(values))]
        first = after
    dtype = np.dtype(fields)
    if at + element.count * dtype.itemsize > len(content):
        return None
    rows = np.frombuffer(content, dtype, element.count, at)
    for number, (_, _, length) in enumerate(element.properties):
        if length is not None and (rows[f"n{number}"] != rows[f"n{number}"][0]).any():
            return None
    polygons = rows[f"l{_corners_position(element)}"].reshape(element.count, -1)
    sides = polygons.shape[1]
    check_corners(sides)
    check_size(0, element.count * max(sides - 2, 0))
    faces = np.empty((element.count, max(sides - 2, 0), 3), np.int64)
    if faces.size:
        faces[..., 0] = polygons[:, :1]
        faces[..., 1] = polygons[:, 1:-1]
        faces[..., 2] = polygons[:, 2:]
    return faces.reshape(-1, 3), at + element.count * dtype.itemsize


def _read_list(content: memoryview, at: int, kind: str, length: str) -> tuple[NDArray[Any], int]:
    size_of_length, size = np.dtype(length).itemsize, np.dtype(kind).itemsize
    _check_remaining(content, at, size_of_length)
    count = check_count(int(np.frombuffer(content, length, 1, at)[0]))
    at += size_of_length
    _check_remaining(content, at, count * size)
    return np.frombuffer(content, kind, count, at), at + count * size


@dataclass(slots=True)
class _Lists:
    """Receives the lists of one property of all rows.

    Attributes:
        position: of the property.
        values: bytes of the lists, in the file's type.
        sizes: their lengths.
    """

    position: int
    values: bytearray
    sizes: array[int]


def _walk_lists(
    content: memoryview, at: int, element: _Element, order: str, found: _Lists | None = None
) -> int:
    """Go through an element with lists of different lengths; return where it ends."""
    steps = [
        (
            Struct(order + np.dtype(length).char).unpack_from if length else None,
            int((length or kind)[1]),
            int(kind[1]),
            found is not None and number == found.position,
        )
        for number, (_, kind, length) in enumerate(element.properties)
    ]
    for _ in range(element.count):
        for unpack, size, item_size, is_wanted in steps:
            start = at + size
            if unpack is None:
                at = start
                continue
            (count,) = unpack(content, at)
            at = start + check_count(count) * item_size
            if is_wanted and found is not None:
                _check_remaining(content, start, at - start)
                found.values += content[start:at]
                found.sizes.append(count)
    _check_remaining(content, at, 0)
    return at
