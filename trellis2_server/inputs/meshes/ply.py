"""Read PLY files: positions and faces, text or binary.

G. Turk, "The PLY Polygon File Format" (1994).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes.scene import (
    MAX_FACES,
    check_count,
    check_size,
    make_part,
    single_part_scene,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    for element in elements:
        # In text, a value takes at least a digit and a space.
        row_bytes = 2 * len(element.properties) if encoding == "ascii" else element.min_bytes
        if element.count * max(row_bytes, 1) > len(content) - end.end() + 1:
            raise InputError("mesh: the PLY file declares more than it contains")
    counts = {element.name: element.count for element in elements}
    check_size(counts.get("vertex", 0), counts.get("face", 0))
    if encoding == "ascii":
        positions, faces = _read_text(content[end.end() :], elements)
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
    content: bytes, elements: list[_Element]
) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    lines = iter(content.splitlines())
    positions = faces = None
    for element in elements:
        names = [name for name, _, _ in element.properties]
        if element.name == "vertex":
            columns = [names.index(axis) for axis in "xyz"]
            positions = np.empty((element.count, 3))
            for row in range(element.count):
                words = _next_line(lines)
                positions[row] = [float(words[at]) for at in columns]
        elif element.name == "face" and element.properties:
            before = _corners_position(element)
            corners: list[tuple[int, int, int]] = []
            for _ in range(element.count):
                words = _next_line(lines)[before:]
                polygon = [int(word) for word in words[1 : 1 + int(words[0])]]
                if len(polygon) != int(words[0]):
                    raise InputError("mesh: the PLY file is cut short")
                corners += [(polygon[0], a, b) for a, b in pairwise(polygon[1:])]
            faces = np.array(corners, np.int64).reshape(-1, 3)
        else:
            for _ in range(element.count):
                _next_line(lines)
    return positions, faces


def _next_line(lines: Iterator[bytes]) -> list[bytes]:
    line = next(lines, None)
    if line is None:
        raise InputError("mesh: the PLY file is cut short")
    return line.split()


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
            at = _skip_lists(content, at, element, order)
        else:
            dtype = np.dtype([(name, order + kind) for name, kind, _ in element.properties])
            _check_remaining(content, at, element.count * dtype.itemsize)
            if element.name == "vertex":
                rows = np.frombuffer(content, dtype, element.count, at)
                positions = np.stack([rows[axis].astype(np.float64) for axis in "xyz"], axis=1)
            at += element.count * dtype.itemsize
    return positions, faces


def _check_remaining(content: memoryview, at: int, size: int) -> None:
    if at + size > len(content):
        raise InputError("mesh: the PLY file is cut short")


def _read_faces(
    content: memoryview, at: int, element: _Element, order: str
) -> tuple[NDArray[np.int64], int]:
    _corners_position(element)
    uniform = _read_uniform_faces(content, at, element, order)
    if uniform is not None:
        return uniform
    corners: list[tuple[int, int, int]] = []
    for _ in range(element.count):
        for name, kind, length in element.properties:
            if length is None:
                at += int(kind[1])
                continue
            values, at = _read_list(content, at, order + kind, order + length)
            if name in {"vertex_indices", "vertex_index"}:
                polygon = [int(value) for value in values]
                corners += [(polygon[0], a, b) for a, b in pairwise(polygon[1:])]
                if len(corners) > MAX_FACES:
                    check_size(0, len(corners))
    return np.array(corners, np.int64).reshape(-1, 3), at


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
    polygons = rows[f"l{_corners_position(element)}"].reshape(element.count, -1).astype(np.int64)
    sides = polygons.shape[1]
    check_size(0, element.count * max(sides - 2, 0))
    fans = [polygons[:, [0, i, i + 1]] for i in range(1, sides - 1)]
    faces = np.stack(fans, axis=1).reshape(-1, 3) if fans else np.empty((0, 3), np.int64)
    return faces, at + element.count * dtype.itemsize


def _read_list(content: memoryview, at: int, kind: str, length: str) -> tuple[NDArray[Any], int]:
    size_of_length, size = np.dtype(length).itemsize, np.dtype(kind).itemsize
    _check_remaining(content, at, size_of_length)
    count = check_count(int(np.frombuffer(content, length, 1, at)[0]))
    at += size_of_length
    _check_remaining(content, at, count * size)
    return np.frombuffer(content, kind, count, at), at + count * size


def _skip_lists(content: memoryview, at: int, element: _Element, order: str) -> int:
    for _ in range(element.count):
        for _, kind, length in element.properties:
            if length is None:
                at += int(kind[1])
            else:
                _, at = _read_list(content, at, order + kind, order + length)
    return at
