"""Files in every layout that a format allows: the same triangles, whatever the program wrote."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from trellis2_server.inputs.meshes import read_scene

Polygons = list[list[int]]

#: Names of PLY's types, and the codes of `struct` for them.
INTEGERS = {
    "char": "b", "int8": "b", "uchar": "B", "uint8": "B", "short": "h", "int16": "h",
    "ushort": "H", "uint16": "H", "int": "i", "int32": "i", "uint": "I", "uint32": "I",
}  # fmt: skip
NUMBERS = INTEGERS | {"float": "f", "float32": "f", "double": "d", "float64": "d"}
ENCODINGS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


def fans(polygons: Polygons) -> list[list[int]]:
    return [[polygon[0], a, b] for polygon in polygons for a, b in pairwise(polygon[1:])]


def curve(vertices: int) -> np.ndarray:
    """Points on a parabola: any of them, in this order, are a convex polygon."""
    at = np.arange(vertices)
    return np.stack([at, at * at, np.full(vertices, 7)], axis=1)


def polygons(random: np.random.Generator, vertices: int, *, is_uniform: bool) -> Polygons:
    """Some polygons of a curve, few enough for their vertices that copies stay."""
    sides = [3, 4, 5]
    length = int(random.choice(sides))
    found = [
        np.sort(random.permutation(vertices)[: length if is_uniform else random.choice(sides)])
        for _ in range(4)
    ]
    # The last uses the last point: what no face uses is not read.
    found[-1][-1] = vertices - 1
    return [np.roll(each, random.integers(5)).tolist() for each in found]


class PlyWriter:
    """Writes elements of a PLY with random types.

    Args:
        random: chooses the types.
        encoding: of `ENCODINGS`.
    """

    def __init__(self, random: np.random.Generator, encoding: str) -> None:
        self._random = random
        self._encoding = encoding
        self._header = ["ply", f"format {encoding} 1.0", "comment made by a test"]
        self._body: list[bytes] = []

    def add(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Add an element whose rows have numbers and lists, by the name of their property."""
        self._header.append(f"element {name} {len(rows)}")
        kinds: dict[str, tuple[str, str]] = {}
        for key, value in rows[0].items():
            kind = str(self._random.choice(list(NUMBERS if key in "xyz" else INTEGERS)))
            length = str(self._random.choice(list(INTEGERS)))
            kinds[key] = length, kind
            what = f"list {length} {kind}" if isinstance(value, list) else kind
            self._header.append(f"property {what} {key}")
        for row in rows:
            for key, value in row.items():
                length, kind = kinds[key]
                if isinstance(value, list):
                    self._write(length, len(value))
                for each in value if isinstance(value, list) else [value]:
                    self._write(kind, each)
            self._body += [b"\n"] if self._encoding == "ascii" else []

    def to_bytes(self) -> bytes:
        return "\n".join([*self._header, "end_header", ""]).encode() + b"".join(self._body)

    def _write(self, kind: str, value: int) -> None:
        if self._encoding == "ascii":
            self._body.append(f"{value} ".encode())
        else:
            self._body.append(struct.pack(f"{ENCODINGS[self._encoding]}{NUMBERS[kind]}", value))


def ply_file(
    random: np.random.Generator, encoding: str, points: np.ndarray, faces: Polygons
) -> bytes:
    """A PLY with further properties and elements at random places."""
    file = PlyWriter(random, encoding)
    vertices = [
        {"x": x, "y": y, "z": z, "nx": 1, "red": 2, "quality": 3} for x, y, z in points.tolist()
    ]
    order = random.permutation(list(vertices[0])).tolist()
    before: list[dict[str, Any]] = [{}, {"flags": 7, "weight": 1}, {"material": 4}]
    after: list[dict[str, Any]] = [{}, {"texcoord": [1, 2, 3, 4]}, {"last": 9}]
    name = str(random.choice(["vertex_indices", "vertex_index"]))
    first, last = before[random.integers(3)], after[random.integers(3)]
    if random.random() < 0.5:
        file.add("camera", [{"view": 5, "list": [1, 2]}, {"view": 6, "list": [3]}])
    file.add("vertex", [{key: row[key] for key in order} for row in vertices])
    if random.random() < 0.5:
        file.add("edge", [{"vertex1": 0, "vertex2": 1}] * 3)
    file.add("face", [first | {name: face} | last for face in faces])
    return file.to_bytes()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_ply_of_any_types_and_properties_is_read(encoding: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    points = curve(9)
    faces = polygons(random, 9, is_uniform=seed % 2 == 0)
    (part,) = read_scene(ply_file(random, encoding, points, faces)).parts
    assert part.positions[part.faces].tolist() == points[np.array(fans(faces))].tolist()
    assert len(part.positions) == len({corner for face in faces for corner in face})


def obj_file(random: np.random.Generator, points: np.ndarray, faces: Polygons) -> bytes:
    """An OBJ whose vertices and faces alternate, with all forms of corners and lines."""
    lines = ["# made by a test", "mtllib some.mtl", ""]
    written = 0
    for face in faces:
        while written <= max(face):
            x, y, z = points[written].tolist()
            lines += [f"v\t{x} {y:.3f}  {z:g} 1.0", f"vt 0.5 {written}", "vn 0 0 1"]
            written += 1
        words: list[str] = []
        for corner in face:
            index = corner - written if random.random() < 0.5 else corner + 1
            words.append(f"{index}{random.choice(['', '/1', '/1/1', '//1'])}")
        lines += ["s 1", f"  f {' '.join(words)}"]
    return "\n".join([*lines, ""]).encode()


@pytest.mark.parametrize("seed", range(12))
def test_an_obj_of_any_form_is_read(seed: int) -> None:
    random = np.random.default_rng(seed)
    points = curve(9) - 30
    faces = polygons(random, 9, is_uniform=False)
    (part,) = read_scene(obj_file(random, points, faces)).parts
    corners = points[np.array(fans(faces))]
    assert part.positions[part.faces].tolist() == corners.tolist()


@pytest.mark.parametrize("seed", range(4))
def test_a_text_stl_of_any_form_has_the_triangles_of_the_binary_one(seed: int) -> None:
    random = np.random.default_rng(seed)
    corners = random.integers(-9, 9, (5, 3, 3)).astype("<f4")
    rows = [bytes(12) + face.tobytes() + bytes(2) for face in corners]
    binary = b"solid, but binary".ljust(80) + struct.pack("<I", len(rows)) + b"".join(rows)
    end = str(random.choice(["\n", "\r\n"]))
    lines = ["", "solid a name"]
    for face in corners.tolist():
        lines += ["\tfacet normal 0 0 1", "outer loop"]
        lines += [f"\t vertex  {x:e}\t{y} {z}" for x, y, z in face]
        lines += ["endloop", "endfacet"]
    text = end.join([*lines, "endsolid", ""]).encode()
    for content in (binary, text):
        (part,) = read_scene(content).parts
        found = part.positions[part.faces].tolist()
        assert found == [face for face in corners.tolist() if len({*map(tuple, face)}) == 3]
        assert len({*map(tuple, part.positions.tolist())}) == len(part.positions)
