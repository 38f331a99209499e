"""A client's mesh file → a bounded scene: its parts, their places, and the tree they hang in.

GLB, OBJ, PLY and STL are read here and not by a library, because what a header claims must
be held against what the file has before anything is allocated. Coordinates are taken as
they are: a scene is in its file's own frame, Y up as in glTF.

Formats: Khronos, "glTF 2.0 Specification", chapters 3 and 4.4; G. Turk, "The PLY Polygon
File Format" (1994); 3D Systems, "StereoLithography Interface Specification" (1989);
Wavefront, "Advanced Visualizer Manual", appendix B1 (OBJ).

What this module does not know: HTTP, jobs, engines, how a GLB is written.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MAX_VERTICES: Final = 12_000_000
MAX_FACES: Final = 4_000_000
#: Nodes of the tree, and primitives in it.
MAX_NODES: Final = 10_000
MAX_JSON_BYTES: Final = 16_777_216
#: Share of the cube's edge that a placed mesh fills: TRELLIS.2's.
FILL: Final = 0.99999

_GLB_TYPES: Final = {
    5120: np.dtype("<i1"),
    5121: np.dtype("<u1"),
    5122: np.dtype("<i2"),
    5123: np.dtype("<u2"),
    5125: np.dtype("<u4"),
    5126: np.dtype("<f4"),
}
_GLB_WIDTHS: Final = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_COMPRESSIONS: Final = ("KHR_draco_mesh_compression", "EXT_meshopt_compression")

_PLY_TYPES: Final = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_STL_HEAD_BYTES: Final = 84
_STL_FACE: Final = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("flags", "<u2")])


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One indexed triangle list of a scene, in its node's frame.

    Attributes:
        mesh: which of the scene's meshes it belongs to.
        positions: float32 [N, 3].
        normals: float32 [N, 3], or None where the file has none and faces are meant flat.
        uv: float32 [N, 2], glTF's, or None.
        faces: int32 [F, 3].
        placement: float64 [4, 4], from the node's frame to the scene's.
    """

    mesh: int
    positions: NDArray[np.float32]
    normals: NDArray[np.float32] | None
    uv: NDArray[np.float32] | None
    faces: NDArray[np.int32]
    placement: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What a mesh file shows.

    Attributes:
        parts: at least one, ordered by mesh.
        nodes: glTF nodes: `name`, the transform, `children`, `mesh`.
        roots: the nodes that hang in no other.
        meshes: their names; None for one without.
        is_smooth: normals are to be made where a part has none.
        is_double_sided: the file says that its faces are seen from behind too.
    """

    parts: tuple[Part, ...]
    nodes: tuple[dict[str, Any], ...]
    roots: tuple[int, ...]
    meshes: tuple[str | None, ...]
    is_smooth: bool = False
    is_double_sided: bool = False


def read_scene(content: bytes) -> Scene:
    """The scene in a GLB, OBJ, PLY or STL file; the content says which it is.

    Raises:
        InputError: it is none of these, broken, cut short, or has no triangle.
        TooLargeError: it has more vertices, faces or nodes than are taken.
    """
    kind, read = _reader(content)
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused below
            scene = read(content)
    except InputError:
        raise
    except (
        ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
        struct.error,
    ) as error:  # fmt: skip
        raise InputError(f"mesh: a broken {kind} file") from error
    faces = sum(len(part.faces) for part in scene.parts)
    if not faces:
        raise InputError(f"mesh: the {kind} file has no triangle")
    for part in scene.parts:
        if part.faces.size and not 0 <= int(part.faces.min()) <= int(part.faces.max()) < len(
            part.positions
        ):
            raise InputError(f"mesh: a face of the {kind} file names a vertex that is not there")
        if not np.isfinite(part.positions).all():
            raise InputError(f"mesh: a vertex of the {kind} file is not finite")
    return scene


def _reader(content: bytes) -> tuple[str, Any]:
    if content.startswith(b"glTF"):
        return "GLB", _read_glb
    if content[:4] in {b"ply\n", b"ply\r"}:
        return "PLY", _read_ply
    if len(content) >= _STL_HEAD_BYTES:
        (count,) = struct.unpack_from("<I", content, 80)
        if _STL_HEAD_BYTES + count * _STL_FACE.itemsize == len(content):
            return "STL", _read_stl
    if content[:1024].lstrip()[:5] == b"solid" and b"facet" in content[:4096]:
        return "STL", _read_stl_text
    if content.lstrip()[:1] == b"{":
        raise InputError("mesh: a glTF file of text; send it as GLB, which has everything in it")
    if re.search(rb"(?:^|\n)v[ \t]", content[:65_536]) and b"\0" not in content[:65_536]:
        return "OBJ", _read_obj
    raise InputError("mesh: not a GLB, OBJ, PLY or STL file, or its beginning is missing")


@np.errstate(all="ignore")
def placed(scene: Scene, rotation_deg: float = 0.0) -> Mesh:
    """All parts as one mesh in the model frame, filling the cube; faces in the parts' order.

    The front, +Z in the scene, comes to look toward -Y. Vertices at the same place are one.

    Args:
        scene: not changed.
        rotation_deg: by how much it is turned, counter-clockwise seen from above.

    Raises:
        InputError: it has no size, or one beyond numbers.
    """
    places: list[NDArray[np.float64]] = []
    faces: list[NDArray[np.int32]] = []
    count = 0
    for part in scene.parts:
        turn, shift = part.placement[:3, :3], part.placement[:3, 3]
        places.append(part.positions.astype(np.float64) @ turn.T + shift)
        corners = part.faces[:, ::-1] if np.linalg.det(turn) < 0 else part.faces
        faces.append(corners + np.int32(count))
        count += len(part.positions)
    x, y, z = np.concatenate(places).T
    angle = np.deg2rad(rotation_deg)
    sine, cosine = np.sin(angle), np.cos(angle)
    points = np.stack([x * cosine + z * sine, x * sine - z * cosine, y], axis=1)
    used = np.concatenate(faces)
    shown = points[np.unique(used)]
    low, high = shown.min(axis=0), shown.max(axis=0)
    extent = float((high - low).max())
    if not np.isfinite(extent) or extent <= 0:
        raise InputError("mesh: it has no size")
    points = ((points - (low + high) / 2) * (FILL / extent)).astype(np.float32)
    return _welded(points, used)


def _welded(points: NDArray[np.float32], faces: NDArray[np.int32]) -> Mesh:
    points = points + np.float32(0)  # -0.0 and 0.0 are one place
    order = np.lexsort(points.T)
    rows = points[order]
    is_new = np.ones(len(rows), bool)
    np.any(rows[1:] != rows[:-1], axis=1, out=is_new[1:])
    name = np.empty(len(rows), np.int32)
    name[order] = (np.cumsum(is_new) - 1).astype(np.int32)
    return Mesh(np.ascontiguousarray(rows[is_new]), name[faces])


# ---- counting ------------------------------------------------------------------------


def _whole(value: object, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError("mesh: a number in the file is no count")
    return value


def _check_size(vertices: int, faces: int, nodes: int = 0) -> None:
    if vertices > MAX_VERTICES:
        raise TooLargeError(f"mesh: over the limit of {MAX_VERTICES} vertices")
    if faces > MAX_FACES:
        raise TooLargeError(f"mesh: over the limit of {MAX_FACES} faces")
    if nodes > MAX_NODES:
        raise TooLargeError(f"mesh: over the limit of {MAX_NODES} nodes")


def _one_node(part: Part, *, is_smooth: bool) -> Scene:
    return Scene((part,), ({"mesh": 0},), (0,), (None,), is_smooth)


def _part(positions: NDArray[Any], faces: NDArray[Any], mesh: int = 0) -> Part:
    rows = np.ascontiguousarray(positions, np.float32)
    return Part(mesh, rows, None, None, np.ascontiguousarray(faces, np.int32), np.eye(4))


# ---- GLB -----------------------------------------------------------------------------


def _chunks(content: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and content of a GLB's chunks."""
    at = 12
    while at + 8 <= len(content):
        size, kind = struct.unpack_from("<I4s", content, at)
        at += 8
        if at + size > len(content):
            raise InputError("mesh: the GLB is cut short")
        yield kind, content[at : at + size]
        at += size


class Glb:
    """A GLB, opened: its JSON and its binary chunk.

    Raises:
        InputError: it is none, or cut short.
    """

    def __init__(self, content: bytes) -> None:
        magic, version, length = struct.unpack_from("<4sII", content)
        if magic != b"glTF" or version != 2:  # noqa: PLR2004
            raise InputError(f"mesh: a GLB of version {version}; 2 is read")
        if length > len(content):
            raise InputError("mesh: the GLB is cut short")
        chunks = list(_chunks(memoryview(content)[:length]))
        if not chunks or chunks[0][0] != b"JSON":
            raise InputError("mesh: the GLB does not begin with its JSON")
        if len(chunks[0][1]) > MAX_JSON_BYTES:
            raise TooLargeError(f"mesh: over the limit of {MAX_JSON_BYTES} bytes of JSON")
        self.json: dict[str, Any] = json.loads(bytes(chunks[0][1]))
        has_data = len(chunks) > 1 and chunks[1][0] == b"BIN\0"
        self._bin = chunks[1][1] if has_data else memoryview(b"")
        for extension in self.json.get("extensionsRequired", []):
            if extension in _COMPRESSIONS:
                raise InputError(f"mesh: compressed with {extension}; send it uncompressed")

    def item(self, name: str, index: object) -> dict[str, Any]:
        """One of the JSON's lists' objects."""
        return self.json[name][_whole(index)]

    def view(self, index: object) -> memoryview:
        """The bytes of a buffer view."""
        view = self.item("bufferViews", index)
        buffer = _whole(view["buffer"])
        if buffer != 0 or "uri" in self.item("buffers", 0):
            raise InputError("mesh: the GLB keeps data in other files; put everything into it")
        start, size = _whole(view.get("byteOffset", 0)), _whole(view["byteLength"])
        if start + size > len(self._bin):
            raise InputError("mesh: the GLB claims more data than it has")
        return self._bin[start : start + size]

    def rows(self, index: object, kind: str) -> NDArray[Any]:
        """An accessor's rows [N, width], as they are stored but for normalised integers."""
        accessor = self.item("accessors", index)
        if accessor["type"] != kind:
            raise InputError(f"mesh: an accessor of the GLB should be {kind}")
        if "sparse" in accessor or "bufferView" not in accessor:
            raise InputError("mesh: sparse accessors are not read")
        dtype, width = _GLB_TYPES[accessor["componentType"]], _GLB_WIDTHS[kind]
        count, offset = _whole(accessor["count"], 1), _whole(accessor.get("byteOffset", 0))
        content = self.view(accessor["bufferView"])
        size = dtype.itemsize * width
        stride = _whole(self.item("bufferViews", accessor["bufferView"]).get("byteStride", size), 1)
        if stride < size or offset + stride * (count - 1) + size > len(content):
            raise InputError("mesh: the GLB claims more data than it has")
        _check_size(count if kind != "SCALAR" else 0, count // 3 if kind == "SCALAR" else 0)
        strides = (stride, dtype.itemsize)
        rows = np.ndarray((count, width), dtype, content, offset, strides)
        if accessor.get("normalized") and dtype.kind in "iu":
            return np.maximum(
                rows / np.float32(2 ** (8 * dtype.itemsize - (dtype.kind == "i")) - 1),
                np.float32(-1),
            )
        return rows


def _read_glb(content: bytes) -> Scene:
    file = Glb(content)
    scenes = file.json.get("scenes", [])
    listed = file.json.get("nodes", [])
    _check_size(0, 0, len(listed))
    if scenes:
        roots = file.item("scenes", file.json.get("scene", 0)).get("nodes", [])
    else:
        children = {child for node in listed for child in node.get("children", [])}
        roots = [index for index in range(len(listed)) if index not in children]
    nodes: list[dict[str, Any]] = []
    shown: dict[int, NDArray[np.float64]] = {}
    number: dict[int, int] = {}
    waiting = [(_whole(root), np.eye(4)) for root in reversed(roots)]
    while waiting:
        index, outer = waiting.pop()
        if index in number:
            raise InputError("mesh: the nodes of the GLB are no tree")
        number[index] = len(nodes)
        source = file.item("nodes", index)
        placement = outer @ _local(source)
        kept = ("name", "children", "matrix", "translation", "rotation", "scale", "mesh", "extras")
        nodes.append({name: source[name] for name in kept if name in source})
        if "mesh" in source:
            shown.setdefault(_whole(source["mesh"]), placement)
        waiting += [(_whole(child), placement) for child in reversed(source.get("children", []))]
    parts, names = _glb_parts(file, shown)
    mesh_number = {mesh: at for at, mesh in enumerate(names)}
    for node in nodes:
        if "children" in node:
            node["children"] = [number[child] for child in node["children"]]
        if "mesh" in node:
            at = mesh_number.get(node.pop("mesh"))
            if at is not None:
                node["mesh"] = at
    is_double_sided = any(
        material.get("doubleSided") is True for material in file.json.get("materials", [])
    )
    return Scene(
        parts=tuple(replace(part, mesh=mesh_number[part.mesh]) for part in parts),
        nodes=tuple(nodes),
        roots=tuple(number[root] for root in roots),
        meshes=tuple(names.values()),
        is_double_sided=is_double_sided,
    )


def _local(node: dict[str, Any]) -> NDArray[np.float64]:
    """A node's transform, float64 [4, 4]."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    out = np.eye(4)
    x, y, z, w = np.array(node.get("rotation", (0, 0, 0, 1)), np.float64)
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    out[:3, :3] = turn * np.array(node.get("scale", (1, 1, 1)), np.float64).reshape(3)
    out[:3, 3] = np.array(node.get("translation", (0, 0, 0)), np.float64).reshape(3)
    return out


def _glb_parts(
    file: Glb, shown: dict[int, NDArray[np.float64]]
) -> tuple[list[Part], dict[int, str | None]]:
    parts: list[Part] = []
    names: dict[int, str | None] = {}
    vertices = faces = primitives = 0
    for index in sorted(shown):
        mesh = file.item("meshes", index)
        for primitive in mesh["primitives"]:
            primitives += 1
            if primitive.get("mode", _TRIANGLES) not in {_TRIANGLES, _STRIP, _FAN}:
                continue
            part = _glb_part(file, primitive, index, shown[index])
            vertices, faces = vertices + len(part.positions), faces + len(part.faces)
            _check_size(vertices, faces, primitives)
            if len(part.faces):
                parts.append(part)
                name = mesh.get("name")
                names[index] = name if isinstance(name, str) else None
    return parts, names


def _glb_part(
    file: Glb, primitive: dict[str, Any], mesh: int, placement: NDArray[np.float64]
) -> Part:
    attributes = primitive["attributes"]
    positions = np.array(file.rows(attributes["POSITION"], "VEC3"), np.float32)
    normals = uv = None
    if "NORMAL" in attributes:
        normals = np.array(file.rows(attributes["NORMAL"], "VEC3"), np.float32)
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        # Only what is no direction is replaced: the others stay as they were drawn.
        is_bad = ~((length[:, 0] > 0.5) & (length[:, 0] < 2.0))  # noqa: PLR2004
        normals /= np.where(is_bad[:, None], np.float32(1), length)
        normals[is_bad] = (0, 0, 1)
        if len(normals) != len(positions):
            raise InputError("mesh: a primitive of the GLB has more vertices than normals")
    if "TEXCOORD_0" in attributes:
        uv = np.array(file.rows(attributes["TEXCOORD_0"], "VEC2"), np.float32)
    if "indices" in primitive:
        indices = file.rows(primitive["indices"], "SCALAR")[:, 0]
        if indices.dtype.kind != "u" or (indices.size and indices.max() >= len(positions)):
            raise InputError("mesh: a face of the GLB names a vertex that is not there")
        indices = indices.astype(np.int32)
    else:
        indices = np.arange(len(positions), dtype=np.int32)
    return Part(
        mesh, positions, normals, uv, _triangles(indices, primitive.get("mode", 4)), placement
    )


def _triangles(indices: NDArray[np.int32], mode: int) -> NDArray[np.int32]:
    if mode == _TRIANGLES:
        return indices[: len(indices) // 3 * 3].reshape(-1, 3)
    if mode == _FAN:
        rim = indices[1:]
        hub = np.full(max(len(rim) - 1, 0), indices[0], np.int32)
        return np.stack([rim[:-1], rim[1:], hub], axis=1)
    faces = np.stack([indices[:-2], indices[1:-1], indices[2:]], axis=1)
    faces[1::2] = faces[1::2][:, [0, 2, 1]]
    return faces


# ---- OBJ -----------------------------------------------------------------------------


def _read_obj(content: bytes) -> Scene:
    points: list[list[float]] = []
    groups: list[tuple[str | None, list[tuple[int, int, int]]]] = [(None, [])]
    faces = 0
    for line in _obj_lines(content):
        words = line.split()
        if not words:
            continue
        if words[0] == b"v":
            points.append([float(words[1]), float(words[2]), float(words[3])])
            if not len(points) & 0xFFFF:
                _check_size(len(points), 0)
        elif words[0] == b"f":
            corners = [_obj_index(word, len(points)) for word in words[1:]]
            hub = corners[0]
            groups[-1][1].extend((hub, a, b) for a, b in pairwise(corners[1:]))
            faces += len(corners) - 2
            if faces > MAX_FACES:
                _check_size(0, faces)
        elif words[0] == b"o":
            groups.append((line[2:].decode("utf-8", "replace").strip()[:256], []))
            _check_size(0, 0, len(groups))
    _check_size(len(points), faces)
    filled = [(name, corners) for name, corners in groups if corners]
    positions = np.array(points, np.float64).reshape(-1, 3)
    parts: list[Part] = []
    for at, (_, corners) in enumerate(filled):
        rows, indices = np.unique(np.array(corners, np.int64), return_inverse=True)
        if rows[-1] >= len(positions) or rows[0] < 0:
            raise InputError("mesh: a face of the OBJ file names a vertex that is not there")
        parts.append(_part(positions[rows], indices.reshape(-1, 3), at))
    nodes = [({"name": name} if name else {}) | {"mesh": at} for at, (name, _) in enumerate(filled)]
    names = tuple(name for name, _ in filled)
    return Scene(tuple(parts), tuple(nodes), tuple(range(len(nodes))), names, is_smooth=True)


def _obj_lines(content: bytes) -> Iterator[bytes]:
    """Its lines, one at a time; a backslash at the end goes on in the next one."""
    start, held = 0, b""
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        line = content[start:end].rstrip(b"\r")
        start = end + 1
        if line.endswith(b"\\"):
            held += line[:-1] + b" "
            continue
        yield held + line if held else line
        held = b""


def _obj_index(word: bytes, count: int) -> int:
    index = int(word.split(b"/", 1)[0])
    return index - 1 if index > 0 else count + index


# ---- PLY -----------------------------------------------------------------------------


@dataclass(slots=True)
class _Element:
    """A PLY element: its count, and (name, type, type of a list's length or None)."""

    name: str
    count: int
    properties: list[tuple[str, str, str | None]]

    @property
    def least_bytes(self) -> int:
        """What one of them takes at least, binary."""
        return sum(int((length or kind)[1]) for _, kind, length in self.properties)


def _read_ply(content: bytes) -> Scene:
    end = re.search(rb"\nend_header\r?\n", content[:65_536])
    if end is None:
        raise InputError("mesh: the header of the PLY file has no end")
    form, elements = _ply_header(content[: end.start()].decode("ascii"))
    for element in elements:
        # Text takes a digit and a space for each value at least.
        least = 2 * len(element.properties) if form == "ascii" else element.least_bytes
        if element.count * max(least, 1) > len(content) - end.end() + 1:
            raise InputError("mesh: the PLY file claims more than it has")
    counts = {element.name: element.count for element in elements}
    _check_size(counts.get("vertex", 0), counts.get("face", 0))
    if form == "ascii":
        read = _ply_text(content[end.end() :], elements)
    else:
        order = "<" if form == "binary_little_endian" else ">"
        read = _ply_binary(memoryview(content)[end.end() :], elements, order)
    positions, faces = read
    if positions is None or faces is None:
        raise InputError("mesh: the PLY file has no vertices or no faces")
    _check_size(0, len(faces))
    return _one_node(_part(positions, faces), is_smooth=True)


def _ply_header(text: str) -> tuple[str, list[_Element]]:
    form, elements = "", list[_Element]()
    for line in text.splitlines()[1:]:
        words = line.split()
        if words[:1] == ["format"]:
            form = words[1]
        elif words[:1] == ["element"]:
            elements.append(_Element(words[1], _whole(int(words[2][:20])), []))
        elif words[:2] == ["property", "list"]:
            length, kind = _PLY_TYPES[words[2]], _PLY_TYPES[words[3]]
            elements[-1].properties.append((words[4], kind, length))
        elif words[:1] == ["property"]:
            elements[-1].properties.append((words[2], _PLY_TYPES[words[1]], None))
    if form not in {"ascii", "binary_little_endian", "binary_big_endian"}:
        raise InputError("mesh: the PLY file does not say how it is written")
    return form, elements


def _ply_text(
    content: bytes, elements: list[_Element]
) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    lines = iter(content.splitlines())
    positions = faces = None
    for element in elements:
        names = [name for name, _, _ in element.properties]
        if element.name == "vertex":
            where = [names.index(axis) for axis in "xyz"]
            positions = np.empty((element.count, 3))
            for row in range(element.count):
                words = _next_line(lines)
                positions[row] = [float(words[at]) for at in where]
        elif element.name == "face" and element.properties:
            before = _corners_at(element)
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


def _corners_at(element: _Element) -> int:
    """How many scalars stand before a face's list of corners, which must be the first list."""
    for before, (name, _, length) in enumerate(element.properties):
        if length is not None:
            if name not in {"vertex_indices", "vertex_index"}:
                break
            return before
    raise InputError("mesh: the faces of the PLY file have no vertex_indices, or not first")


def _ply_binary(
    content: memoryview, elements: list[_Element], order: str
) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    positions = faces = None
    at = 0
    for element in elements:
        has_lists = any(length for _, _, length in element.properties)
        if element.name == "face" and has_lists:
            faces, at = _ply_faces(content, at, element, order)
        elif has_lists:
            at = _skip_lists(content, at, element, order)
        else:
            dtype = np.dtype([(name, order + kind) for name, kind, _ in element.properties])
            _check_left(content, at, element.count * dtype.itemsize)
            if element.name == "vertex":
                rows = np.frombuffer(content, dtype, element.count, at)
                positions = np.stack([rows[axis].astype(np.float64) for axis in "xyz"], axis=1)
            at += element.count * dtype.itemsize
    return positions, faces


def _check_left(content: memoryview, at: int, size: int) -> None:
    if at + size > len(content):
        raise InputError("mesh: the PLY file is cut short")


def _ply_faces(
    content: memoryview, at: int, element: _Element, order: str
) -> tuple[NDArray[np.int64], int]:
    _corners_at(element)
    known = _uniform_faces(content, at, element, order)
    if known is not None:
        return known
    corners: list[tuple[int, int, int]] = []
    for _ in range(element.count):
        for name, kind, length in element.properties:
            if length is None:
                at += int(kind[1])
                continue
            values, at = _list_at(content, at, order + kind, order + length)
            if name in {"vertex_indices", "vertex_index"}:
                polygon = [int(value) for value in values]
                corners += [(polygon[0], a, b) for a, b in pairwise(polygon[1:])]
                if len(corners) > MAX_FACES:
                    _check_size(0, len(corners))
    return np.array(corners, np.int64).reshape(-1, 3), at


def _uniform_faces(
    content: memoryview, at: int, element: _Element, order: str
) -> tuple[NDArray[np.int64], int] | None:
    """The faces where every list is as long as the first one's, read in one go."""
    fields: list[tuple[str, str] | tuple[str, str, int]] = []
    first = at
    for number, (_, kind, length) in enumerate(element.properties):
        if length is None:
            fields.append((f"s{number}", order + kind))
            first += int(kind[1])
            continue
        if not element.count:
            return np.empty((0, 3), np.int64), at
        values, after = _list_at(content, first, order + kind, order + length)
        fields += [(f"n{number}", order + length), (f"l{number}", order + kind, len(values))]
        first = after
    dtype = np.dtype(fields)
    if at + element.count * dtype.itemsize > len(content):
        return None
    rows = np.frombuffer(content, dtype, element.count, at)
    for number, (_, _, length) in enumerate(element.properties):
        if length is not None and (rows[f"n{number}"] != rows[f"n{number}"][0]).any():
            return None
    polygons = rows[f"l{_corners_at(element)}"].reshape(element.count, -1).astype(np.int64)
    sides = polygons.shape[1]
    _check_size(0, element.count * max(sides - 2, 0))
    fans = [polygons[:, [0, i, i + 1]] for i in range(1, sides - 1)]
    faces = np.stack(fans, axis=1).reshape(-1, 3) if fans else np.empty((0, 3), np.int64)
    return faces, at + element.count * dtype.itemsize


def _list_at(content: memoryview, at: int, kind: str, length: str) -> tuple[NDArray[Any], int]:
    size_of_length, size = np.dtype(length).itemsize, np.dtype(kind).itemsize
    _check_left(content, at, size_of_length)
    count = _whole(int(np.frombuffer(content, length, 1, at)[0]))
    at += size_of_length
    _check_left(content, at, count * size)
    return np.frombuffer(content, kind, count, at), at + count * size


def _skip_lists(content: memoryview, at: int, element: _Element, order: str) -> int:
    for _ in range(element.count):
        for _, kind, length in element.properties:
            if length is None:
                at += int(kind[1])
            else:
                _, at = _list_at(content, at, order + kind, order + length)
    return at


# ---- STL -----------------------------------------------------------------------------


def _read_stl(content: bytes) -> Scene:
    corners = np.frombuffer(content, _STL_FACE, -1, _STL_HEAD_BYTES)["corners"]
    _check_size(corners.size // 3, len(corners))
    return _soup(corners.reshape(-1, 3))


def _read_stl_text(content: bytes) -> Scene:
    rows: list[list[float]] = []
    for line in re.finditer(rb"^[ \t]*vertex[ \t]+([^\r\n]+)", content, re.MULTILINE):
        words = line[1].split()
        rows.append([float(words[0]), float(words[1]), float(words[2])])
        if not len(rows) & 0xFFFF:
            _check_size(len(rows), len(rows) // 3)
    return _soup(np.array(rows, np.float64).reshape(-1, 3))


def _soup(corners: NDArray[Any]) -> Scene:
    """Triangles without indices, each three rows; corners at the same place become one."""
    corners = corners[: len(corners) // 3 * 3]
    part = _part(corners, np.arange(len(corners)).reshape(-1, 3))
    welded = _welded(part.positions, part.faces)
    return _one_node(_part(welded.vertices, welded.faces), is_smooth=False)
