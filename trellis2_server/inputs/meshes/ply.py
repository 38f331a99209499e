"""Read PLY files: vertices with normals and texture coordinates, faces and triangle strips.

G. Turk, "The PLY Polygon File Format" (1994). Strips are an element `tristrips` of one list, in
which -1 ends a strip, as in the files of the Stanford 3D Scanning Repository. Normals and texture
coordinates are not in Turk's text; their names are those that programs agree on.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes.ply_binary import read_binary_rows
from trellis2_server.inputs.meshes.ply_rows import Element, RowLists, Rows, row_error
from trellis2_server.inputs.meshes.ply_seams import cut_corners
from trellis2_server.inputs.meshes.ply_text import read_text_rows
from trellis2_server.inputs.meshes.polygons import triangulate
from trellis2_server.inputs.meshes.scene import (
    Vertices,
    check_corners,
    check_size,
    single_part_scene,
)
from trellis2_server.inputs.meshes.seams import to_gltf
from trellis2_server.inputs.meshes.shading import Polygons, shade
from trellis2_server.inputs.meshes.text import plain_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.inputs.meshes.scene import Scene

_TYPES: Final = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_FORMATS: Final = ("ascii", "binary_little_endian", "binary_big_endian")
#: Searched for the end of the header; most of that may be comments.
_MAX_HEADER_BYTES: Final = 1 << 20
#: Maximum size of the header without comments.
_MAX_DECLARATIONS: Final = 1 << 16
_FIRST_LINE: Final = re.compile(rb"(?:\xef\xbb\xbf)?ply[ \t]*(\r\n|\r|\n)")
_END: Final = re.compile(rb"[\r\n][ \t]*end_header[ \t]*(?:\r?\n|\Z)")
#: Where lines end with carriage returns only, a line feed behind the header is data.
_END_OF_RETURNS: Final = re.compile(rb"\r[ \t]*end_header[ \t]*\r")
#: Of a line or a name, shown in errors, characters.
_SHOWN: Final = 40
_COMMENTS: Final = ("comment", "obj_info")
#: Elements of polygons, of strips and of vertices.
_FACE, _STRIPS, _VERTEX = "face", "tristrips", "vertex"
_LISTS: Final = ("vertex_indices", "vertex_index")
_POSITION: Final = ("x", "y", "z")
_NORMAL: Final = ("nx", "ny", "nz")
#: List of the faces: two numbers for each corner, the second upwards, as MeshLab writes it.
_CORNER_UV: Final = "texcoord"
#: The second points up.
_UV: Final = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"), ("texture_s", "texture_t"))


def is_ply(content: bytes) -> bool:
    """Whether the file begins like a PLY."""
    return _FIRST_LINE.match(content[:1024]) is not None


def read_ply(content: bytes, *, with_uv: bool = False) -> Scene:
    """Read a PLY, text or binary of either byte order.

    Args:
        content: of the file.
        with_uv: whether texture coordinates are read: those of the corners of the faces, or those
            of the vertices. Of corners, vertices are then repeated along seams.
    """
    first = _FIRST_LINE.match(content[:1024])
    pattern = _END_OF_RETURNS if first is not None and first[1] == b"\r" else _END
    end = pattern.search(content[:_MAX_HEADER_BYTES])
    if end is None:
        raise InputError("mesh: the header of the PLY file has no end")
    encoding, elements = _read_header(plain_text(content[: end.start()]))
    size = len(content) - end.end()
    for element in elements:
        # In text, a value takes at least a digit and a space.
        row_bytes = 2 * len(element.properties) if encoding == "ascii" else element.min_bytes
        if element.count * max(row_bytes, 1) > size + 1:
            shown = f'{element.count} rows of the element "{element.name[:_SHOWN]}"'
            raise InputError(
                f"mesh: the PLY file declares more than it contains: {shown}, with {size} bytes "
                "behind the header"
            )
    counts = {element.name: element.count for element in elements}
    check_size(counts.get("vertex", 0), counts.get(_FACE, 0))
    vertex = next((each for each in elements if each.name == _VERTEX), Element(_VERTEX, 0, []))
    normal, uv = _find(vertex, _NORMAL), ()
    if with_uv:
        uv = next((found for names in _UV if (found := _find(vertex, names))), ())
    wanted = {element.name: _wanted(element, with_uv=with_uv) for element in elements}
    wanted[_VERTEX] = (*wanted.get(_VERTEX, ()), *normal, *uv)
    if encoding == "ascii":
        header = content[: end.end()]
        body = plain_text(content[end.end() :])
        rows = read_text_rows(body, plain_text(header).count(b"\n"), elements, wanted)
    else:
        order = "<" if encoding == "binary_little_endian" else ">"
        rows = read_binary_rows(content, end.end(), order, elements, wanted)
    return _scene(rows, has_normals=bool(normal))


def _read_header(text: bytes) -> tuple[str, list[Element]]:  # noqa: C901 - a grammar
    encoding, elements, size = "", list[Element](), 0
    for number, line in enumerate(text.decode("utf-8", "replace").split("\n"), 1):
        words = line.split()
        if not words or words[0] in _COMMENTS:
            continue
        size += len(line)
        if size > _MAX_DECLARATIONS:
            raise InputError("mesh: the header of the PLY file is too long")
        try:
            if words[0] == "format":
                encoding = words[1]
            elif words[0] == "element":
                elements.append(Element(words[1], _count(words[2]), []))
            elif words[:2] == ["property", "list"]:
                length, kind = _TYPES[words[2]], _TYPES[words[3]]
                elements[-1].properties.append((words[4], kind, length))
            elif words[0] == "property":
                elements[-1].properties.append((words[2], _TYPES[words[1]], None))
        except (LookupError, ValueError) as error:
            shown = "".join(each if each.isprintable() else "?" for each in line.strip()[:_SHOWN])
            why = (
                "no element is before it"
                if words[0] == "property" and not elements
                else _reason(error)
            )
            raise InputError(
                f'mesh: line {number}: not a valid line in the header of a PLY file: "{shown}": '
                f"{why}"
            ) from error
    if encoding not in _FORMATS:
        found = f'"{encoding[:_SHOWN]}"' if encoding else "none"
        raise InputError(
            f"mesh: the PLY file does not declare a known format, but {found}; known are "
            f"{', '.join(_FORMATS)}"
        )
    names = [element.name for element in elements]
    if len({*names}) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f'mesh: the PLY file declares the element "{twice[:_SHOWN]}" twice')
    return encoding, elements


def _reason(error: Exception) -> str:
    """Return what is wrong with a line of the header, by the error of reading it."""
    if isinstance(error, KeyError):
        return f'"{str(error.args[0])[:_SHOWN]}" is no type'
    return "a word is missing" if isinstance(error, IndexError) else str(error)


def _count(word: str) -> int:
    if not word.isascii() or not word.isdigit() or len(word) > 18:  # noqa: PLR2004 - fits int64
        raise ValueError("the number of rows is not valid")
    return int(word)


def _wanted(element: Element, *, with_uv: bool) -> tuple[int, ...]:
    """Return the positions of the properties that are read of an element; of faces, indices first.

    Args:
        element: any.
        with_uv: whether texture coordinates of corners are read.
    """
    if element.name == _VERTEX:
        found = _find(element, _POSITION)
        if not found:
            raise InputError("mesh: the vertices of the PLY file do not have x, y and z")
        return found
    if element.name in {_FACE, _STRIPS} and element.properties:
        lists = {
            name: at
            for at, (name, _, length) in reversed([*enumerate(element.properties)])
            if length is not None
        }
        found = [lists[name] for name in _LISTS if name in lists]
        if not found:
            raise InputError("mesh: the faces of the PLY file do not have a list vertex_indices")
        if with_uv and element.name == _FACE and _CORNER_UV in lists:
            return (min(found), lists[_CORNER_UV])
        return (min(found),)
    return ()


def _find(element: Element, names: tuple[str, ...]) -> tuple[int, ...]:
    """Return the positions of some properties, in this order; empty if one is missing or a list."""
    places = {
        name: at
        for at, (name, _, length) in reversed([*enumerate(element.properties)])
        if length is None
    }
    return tuple(places[name] for name in names) if all(name in places for name in names) else ()


def _scene(rows: dict[str, Rows], *, has_normals: bool) -> Scene:
    """Make a scene of what was read.

    Args:
        rows: by the names of elements; of the vertices, positions, then normals, then coordinates;
            of the faces, indices, then coordinates of the corners.
        has_normals: whether the vertices have normals.
    """
    vertices = rows.get(_VERTEX)
    if vertices is None or not (_FACE in rows or _STRIPS in rows):
        raise InputError("mesh: the PLY file has no vertices or no faces")
    positions = np.stack(vertices.columns[:3], axis=1)
    rest = vertices.columns[3:]
    directions = np.stack(rest[:3], axis=1).astype(np.float64) if has_normals else None
    coordinates = rest[3:] if has_normals else rest
    uv = to_gltf(np.stack(coordinates, axis=1)) if coordinates else None
    lists = rows[_FACE].lists if _FACE in rows else ()
    strips = rows[_STRIPS].lists if _STRIPS in rows else ()
    seams = None
    faces = [np.empty((0, 3), np.int64)]
    if lists:
        corners, sizes = _indices(lists[0], _FACE, len(positions)), lists[0].sizes
        check_corners(int(sizes.max(initial=0)))
        check_size(0, int(np.maximum(sizes.astype(np.int64) - 2, 0).sum()))
        seams = None if strips else cut_corners(corners, sizes, *lists[1:])
        points = positions if seams is None else positions[seams.source]
        faces.append(triangulate(corners if seams is None else seams.corners, sizes, points))
    if strips:
        faces.append(
            _strip_triangles(_indices(strips[0], _STRIPS, len(positions)), strips[0].sizes)
        )
    triangles = np.concatenate(faces)
    check_size(0, len(triangles))
    _check_finite(triangles if seams is None else seams.source[triangles], positions)
    made = Vertices(positions, None, uv)
    if seams is not None:
        directions = _smooth(positions, seams.source[triangles], directions)[seams.source]
        made = Vertices(positions[seams.source], None, seams.uv)
    made, triangles = _shaded(made, triangles, directions)
    return single_part_scene(made, triangles, is_smooth=True)


def _indices(lists: RowLists, element: str, count: int) -> NDArray[np.int64]:
    """Return the corners of faces or strips, int64 [C], of vertices that exist.

    Args:
        lists: of the file; a negative index ends a strip.
        element: their name.
        count: number of vertices.
    """
    values = lists.values
    is_bad = (values >= count) | (np.trunc(values) != values)
    if element == _FACE:
        is_bad |= values < 0
    if is_bad.any():
        at = int(is_bad.argmax())
        row = int(np.searchsorted(np.cumsum(lists.sizes), at, "right"))
        raise row_error(
            element,
            row,
            f"a face refers to vertex {values[at]:.15g}, which does not exist: there are {count}, "
            "counted from 0",
        )
    return values.astype(np.int64, copy=False)


def _check_finite(triangles: NDArray[np.int64], positions: NDArray[Any]) -> None:
    """Check that the vertices of triangles have finite positions."""
    bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    found = triangles[np.isin(triangles, bad)] if len(bad) else bad
    if len(found):
        raise row_error(_VERTEX, int(found.min()), "x, y or z is not finite")


def _smooth(
    positions: NDArray[Any], triangles: NDArray[np.int64], directions: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Return a normal for each vertex: that of the file, or else that of its faces, float64 [N, 3].

    Args:
        positions: [N, 3].
        triangles: int64 [F, 3].
        directions: float64 [N, 3], normals of the file.
    """
    corners = triangles.reshape(-1)
    rows = None if directions is None else corners
    polygons = Polygons(corners, np.full(len(triangles), 3), rows, None)
    given = np.empty((0, 3)) if directions is None else directions
    shaded = shade(polygons, positions.astype(np.float64), given)
    normals = np.zeros((len(positions), 3))
    normals[shaded.source] = shaded.normals
    return normals


def _shaded(
    vertices: Vertices, triangles: NDArray[np.int64], directions: NDArray[np.float64] | None
) -> tuple[Vertices, NDArray[np.int64]]:
    """Return vertices with normals, and triangles of them.

    Corners at vertices whose normal has no length get one that is computed.

    Args:
        vertices: of the file.
        triangles: int64 [F, 3], rows of the vertices.
        directions: float64 [N, 3], their normals; None: the file has none.
    """
    if directions is None or not np.any(directions):
        return vertices, triangles
    corners = triangles.reshape(-1)
    sizes = np.full(len(triangles), 3)
    shaded = shade(Polygons(corners, sizes, corners, None), vertices.positions, directions)
    check_size(len(shaded.source), 0)
    made = vertices.take(shaded.source)
    return Vertices(made.positions, shaded.normals, made.uv), shaded.corners.reshape(-1, 3)


def _strip_triangles(values: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the triangles of strips, int64 [F, 3].

    Args:
        values: corners of all lists; a negative one ends a strip.
        sizes: lengths of the lists.
    """
    if len(values) < 3:  # noqa: PLR2004
        return np.empty((0, 3), np.int64)
    places = np.arange(len(values))
    is_end = values < 0
    begins = np.zeros(len(values), np.int64)
    begins[1:] = np.where(is_end[:-1], places[1:], 0)
    heads = (np.cumsum(sizes) - sizes)[sizes > 0]
    begins[heads] = heads
    begins = np.maximum.accumulate(begins)
    # A triangle is in one strip if its last corner's strip began before its first.
    first = places[:-2]
    is_whole = ~(is_end[:-2] | is_end[1:-1] | is_end[2:]) & (begins[2:] <= first)
    first = first[is_whole]
    is_odd = ((first - begins[first]) & 1).astype(bool)
    faces = np.stack([values[first], values[first + 1], values[first + 2]], axis=1)
    faces[is_odd] = faces[is_odd][:, [1, 0, 2]]
    return faces
