"""Mesh files that cost a reader much, or that only look like a mesh; each under 5 MB.

`COSTLY` maps names to functions that return the file. A reader may read or refuse each; what it
must not do is to take long, or much memory.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tests.support.dense_meshes import DENSE
from tests.support.meshes import CORNERS, glb, triangle

if TYPE_CHECKING:
    from collections.abc import Callable

MEGABYTE: Final = 1_000_000
_VERTICES: Final = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\n"
_PLY_VERTEX: Final = "property float x\nproperty float y\nproperty float z\n"
_PLY_LISTS: Final = "property list {} int vertex_indices\n"


def ply_head(encoding: str, *elements: str) -> bytes:
    """Return the header of a PLY; an element is `name count` and its properties."""
    text = "".join(f"element {element}" for element in elements)
    return f"ply\nformat {encoding} 1.0\n{text}end_header\n".encode()


def obj_of_backslashes() -> bytes:
    """Two million lines that each continue the one before."""
    return _VERTICES + b"\\\n" * (2 * MEGABYTE)


def obj_of_backslashes_and_returns() -> bytes:
    """One line end of four million characters, after a backslash."""
    return _VERTICES + b"\\" + b"\r" * (4 * MEGABYTE) + b"\n"


def obj_of_empty_lines() -> bytes:
    return _VERTICES + b"\n" * (4 * MEGABYTE)


def obj_of_one_long_face() -> bytes:
    return _VERTICES + b"f" + b" 1" * (2 * MEGABYTE) + b"\n"


def obj_of_a_face_of_long_words() -> bytes:
    return _VERTICES + b"f " + b"1/" * (2 * MEGABYTE) + b" 2 3\n"


def obj_of_a_long_number() -> bytes:
    return b"v 0 0 " + b"1" * (4 * MEGABYTE) + b"\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"


def obj_of_a_long_index() -> bytes:
    return _VERTICES + b"f 1 2 " + b"3" * (4 * MEGABYTE) + b"\n"


def obj_of_a_long_vertex() -> bytes:
    return b"v" + b" 1" * (2 * MEGABYTE) + b"\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"


def obj_of_small_faces() -> bytes:
    return _VERTICES + b"f 1 2 3\n" * (MEGABYTE // 2)


def obj_of_faces_without_corners() -> bytes:
    return _VERTICES + b"f\n" * (2 * MEGABYTE)


def obj_of_vertices() -> bytes:
    return b"v 0 0 0\n" * (MEGABYTE // 2) + b"f 1 2 3\n"


def obj_of_objects() -> bytes:
    return _VERTICES + b"o\nf 1 2 3\n" * 9_990


def obj_of_long_names() -> bytes:
    return _VERTICES + b"".join(
        b"o %d" % number + b"\xf0\x9f\x98\x80" * 100 + b"\nf 1 2 3\n" for number in range(9_990)
    )


def ply_of_one_long_face() -> bytes:
    corners = np.zeros(MEGABYTE, "<i4").tobytes()
    head = ply_head(
        "binary_little_endian", "vertex 3\n" + _PLY_VERTEX, "face 1\n" + _PLY_LISTS.format("uint")
    )
    return head + CORNERS + struct.pack("<I", MEGABYTE) + corners


def ply_of_one_long_face_among_others() -> bytes:
    corners = np.zeros(MEGABYTE, "<i4").tobytes()
    head = ply_head(
        "binary_little_endian", "vertex 3\n" + _PLY_VERTEX, "face 2\n" + _PLY_LISTS.format("uint")
    )
    return head + CORNERS + struct.pack("<I3iI", 3, 0, 1, 2, MEGABYTE) + corners


def ply_text_of_one_long_face() -> bytes:
    head = ply_head("ascii", "vertex 3\n" + _PLY_VERTEX, "face 1\n" + _PLY_LISTS.format("uint"))
    return head + b"0 0 0\n1 0 0\n0 1 0\n2000000" + b" 0" * (2 * MEGABYTE) + b"\n"


def ply_of_empty_lists() -> bytes:
    """Four million lists of another element, each of length zero."""
    head = ply_head(
        "binary_little_endian",
        f"other {4 * MEGABYTE}\nproperty list uchar int a\n",
        "vertex 3\n" + _PLY_VERTEX,
        "face 1\n" + _PLY_LISTS.format("uchar"),
    )
    return head + bytes(4 * MEGABYTE) + CORNERS + struct.pack("<B3i", 3, 0, 1, 2)


def ply_of_empty_faces() -> bytes:
    head = ply_head(
        "binary_little_endian",
        "vertex 3\n" + _PLY_VERTEX,
        f"face {3_900_000}\n" + _PLY_LISTS.format("uchar"),
    )
    return head + CORNERS + struct.pack("<B3i", 3, 0, 1, 2) + bytes(3_900_000)


def ply_of_many_elements() -> bytes:
    """A header of two thousand elements, each of four million rows of nothing."""
    others = [f"e{number} {4 * MEGABYTE}\n" for number in range(2_000)]
    head = ply_head("ascii", *others, "vertex 3\n" + _PLY_VERTEX)
    return head + b"\n" * (4 * MEGABYTE)


def ply_of_many_vertex_elements() -> bytes:
    others = [
        "vertex 1000000\nproperty char x\nproperty char y\nproperty char z\n" for _ in range(900)
    ]
    return ply_head("binary_little_endian", *others) + bytes(4 * MEGABYTE)


def ply_of_many_properties() -> bytes:
    properties = "".join(f"property list uchar char p{number}\n" for number in range(2_000))
    head = ply_head("binary_little_endian", f"other 2000\n{properties}", "vertex 3\n" + _PLY_VERTEX)
    return head + bytes(4 * MEGABYTE)


def stl_text_of_blanks() -> bytes:
    return b"solid x\nfacet\n vertex" + b" " * (4 * MEGABYTE) + b"\n"


def stl_text_of_blank_lines() -> bytes:
    return b"solid x\nfacet\n" + b" \t" * (MEGABYTE // 2) + b"\n" * (3 * MEGABYTE)


def stl_text_of_a_long_vertex() -> bytes:
    return b"solid x\nfacet\n" + b"vertex 0 0 0" + b" 1" * (2 * MEGABYTE) + b"\n"


def stl_text_of_vertices() -> bytes:
    return b"solid x\nfacet\n" + b"vertex 0 0 1\n" * 350_000


def needles() -> bytes:
    """A binary STL of 8,000 triangles that are long and thin."""
    count = 8_000
    faces = np.zeros(count, np.dtype([("n", "<f4", 3), ("v", "<f4", (3, 3)), ("f", "<u2")]))
    angle = np.arange(count) * 0.001
    faces["v"][:, 1] = np.stack([np.cos(angle), np.sin(angle), angle], 1)
    faces["v"][:, 2] = faces["v"][:, 1] * (1, 1, 1.00001)
    return bytes(80) + struct.pack("<I", count) + faces.tobytes()


def _glb_of_json(text: bytes) -> bytes:
    text += b" " * (-len(text) % 4)
    body = struct.pack("<I4s", len(text), b"JSON") + text
    body += struct.pack("<I4s", len(CORNERS), b"BIN\0") + CORNERS
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


def _with_extras(extras: str) -> bytes:
    tree = json.dumps(triangle(nodes=[{"mesh": 0, "extras": "@"}])).replace('"@"', extras)
    return _glb_of_json(tree.encode())


def glb_of_deep_json() -> bytes:
    return _glb_of_json(b"[" * (4 * MEGABYTE))


def glb_of_small_objects() -> bytes:
    return _with_extras("[" + "{}," * (4 * MEGABYTE // 3) + "0]")


def glb_of_small_lists() -> bytes:
    return _with_extras("[" + "[0]," * MEGABYTE + "0]")


def glb_of_objects_with_keys() -> bytes:
    return _with_extras("[" + '{"a":0},' * (MEGABYTE // 2) + "0]")


def glb_of_long_numbers() -> bytes:
    return _with_extras("[" + ("9" * 4000 + ",") * 1000 + "0]")


def glb_of_a_long_number() -> bytes:
    return _with_extras("9" * (4 * MEGABYTE))


def glb_of_a_long_name() -> bytes:
    name = "\\ud83d" * (MEGABYTE // 2)
    return _glb_of_json(
        json.dumps(triangle()).replace('"mesh"', f'"name":"{name}","mesh"').encode()
    )


def glb_of_many_children() -> bytes:
    tree = triangle(nodes=[{"children": [1] * MEGABYTE}, {"mesh": 0}])
    return glb(tree, CORNERS)


def glb_of_deep_nodes() -> bytes:
    nodes: list[dict[str, Any]] = [{"children": [index + 1]} for index in range(9_999)]
    return glb(triangle(nodes=[*nodes, {"mesh": 0}]), CORNERS)


def glb_of_growing_nodes() -> bytes:
    """Nodes of which each scales the one below: the last transform overflows."""
    nodes: list[dict[str, Any]] = [
        {"children": [index + 1], "scale": [1e30] * 3} for index in range(100)
    ]
    return glb(triangle(nodes=[*nodes, {"mesh": 0}]), CORNERS)


def glb_of_many_primitives() -> bytes:
    """Ten thousand primitives that use the same accessor of 300,000 vertices."""
    corners = np.zeros((300_000, 3), "<f4").tobytes()
    tree = triangle(
        accessors=[{"bufferView": 0, "componentType": 5126, "count": 300_000, "type": "VEC3"}],
        bufferViews=[{"buffer": 0, "byteLength": len(corners)}],
        meshes=[{"primitives": [{"attributes": {"POSITION": 0}}] * 10_000}],
    )
    return glb(tree, corners)


def glb_of_one_byte_vertices() -> bytes:
    """1.3 million vertices of three bytes, with normals that are the same bytes."""
    count = 1_300_000
    tree = triangle(
        accessors=[
            {"bufferView": 0, "componentType": 5120, "count": count, "type": "VEC3"},
            {"bufferView": 0, "componentType": 5120, "count": count, "type": "VEC3"},
        ],
        bufferViews=[{"buffer": 0, "byteLength": count * 3}],
        meshes=[{"primitives": [{"attributes": {"POSITION": 0, "NORMAL": 1}, "mode": 5}]}],
    )
    return glb(tree, bytes(range(256)) * (count * 3 // 256 + 1))


def glb_of_small_meshes() -> bytes:
    """Ten thousand meshes of one triangle, each in a node."""
    count = 9_000
    tree = triangle(
        nodes=[{"mesh": index} for index in range(count)],
        scenes=[{"nodes": list(range(count))}],
        meshes=[{"primitives": [{"attributes": {"POSITION": 0}}]}] * count,
    )
    return glb(tree, CORNERS)


def glb_of_lines() -> bytes:
    primitive = {"mode": 1}
    return glb(triangle(meshes=[{"primitives": [primitive] * (MEGABYTE // 4)}]), CORNERS)


def glb_of_empty_chunks() -> bytes:
    content = glb(triangle(), CORNERS) + struct.pack("<I4s", 0, b"XTRA") * (MEGABYTE // 2)
    return content[:8] + struct.pack("<I", len(content)) + content[12:]


def far_triangles() -> bytes:
    """Two small triangles, far from each other."""
    return (
        b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1e6 1e6 1e6\nv 1000001 1e6 1e6\nv 1e6 1000001 1e6\n"
        b"f 1 2 3\nf 4 5 6\n"
    )


def far_vertex() -> bytes:
    """A triangle, and a vertex that no face uses, far away."""
    return b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1e38 1e38 1e38\nf 1 2 3\n"


def largest_numbers() -> bytes:
    return b"v -3e38 0 0\nv 3e38 0 0\nv 0 3e38 -3e38\nf 1 2 3\n"


def smallest_numbers() -> bytes:
    return b"v 0 0 0\nv 1e-44 0 0\nv 0 1e-44 1e-44\nf 1 2 3\n"


def no_area() -> bytes:
    """The shortest file that has a face and a size, but no area."""
    return b"v 0 0 0\nv 1 1 1\nv 2 2 2\nf 1 2 3\n"


def good_and_degenerate_faces() -> bytes:
    """A small triangle beside faces of no area that reach far."""
    return b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1e7 0 0\nf 1 2 3\nf 1 2 4\nf 1 1 4\n"


#: By name.
COSTLY: Final[dict[str, Callable[[], bytes]]] = {
    make.__name__: make
    for make in (
        obj_of_backslashes, obj_of_backslashes_and_returns, obj_of_empty_lines,
        obj_of_one_long_face, obj_of_a_face_of_long_words, obj_of_a_long_number,
        obj_of_a_long_index, obj_of_a_long_vertex, obj_of_small_faces,
        obj_of_faces_without_corners, obj_of_vertices, obj_of_objects, obj_of_long_names,
        ply_of_one_long_face, ply_of_one_long_face_among_others, ply_text_of_one_long_face,
        ply_of_empty_lists, ply_of_empty_faces, ply_of_many_elements, ply_of_many_vertex_elements,
        ply_of_many_properties, stl_text_of_blanks, stl_text_of_blank_lines,
        stl_text_of_a_long_vertex, stl_text_of_vertices, needles, glb_of_deep_json,
        glb_of_small_objects, glb_of_small_lists, glb_of_objects_with_keys, glb_of_long_numbers,
        glb_of_a_long_number, glb_of_a_long_name, glb_of_many_children, glb_of_deep_nodes,
        glb_of_growing_nodes, glb_of_many_primitives, glb_of_one_byte_vertices,
        glb_of_small_meshes, glb_of_lines, glb_of_empty_chunks, far_triangles, far_vertex,
        largest_numbers, smallest_numbers, no_area,
        good_and_degenerate_faces, *DENSE,
    )
}  # fmt: skip
