"""Mesh files that cost much more to read or to texture than to send, each under 5 MB.

Each function makes one file from nothing; `MESHES` names them all.

Does not know: how they are sent, what the server makes of them.
"""

from __future__ import annotations

import json
import struct
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tests.support.meshes import CORNERS, triangle

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_TRIANGLE: Final = b"v 0 0 0\nv 1 0 0\nv 0 1 0\n"

# ---- OBJ -----------------------------------------------------------------------------------


def obj_without_area() -> bytes:
    """A triangle whose corners lie on a line, in 32 bytes."""
    return b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n"


def obj_points() -> bytes:
    """Triangles of three equal corners."""
    return b"v 0 0 0\nv 1 1 1\nf 1 1 1\nf 2 2 2\n"


def obj_thin() -> bytes:
    """Triangles on one line."""
    lines = b"".join(b"v %d 0 0\n" % k for k in range(300))
    return lines + b"".join(b"f %d %d %d\n" % (k, k + 1, k + 2) for k in range(1, 299))


def obj_lines(line: bytes, size: int = 4_000_000) -> bytes:
    """A triangle before many lines of one kind."""
    return _TRIANGLE + b"f 1 2 3\n" + line * (size // len(line))


def obj_long_face(size: int = 4_000_000) -> bytes:
    """One face of two million corners."""
    return _TRIANGLE + b"f" + b" 1 2 3" * (size // 6) + b"\n"


def obj_long_number() -> bytes:
    """A coordinate of four million digits."""
    return b"v 0." + b"1" * 4_000_000 + b" 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"


def obj_far_apart() -> bytes:
    """Two triangles a billion of their lengths apart."""
    far = b"v 1e9 1e9 1e9\nv 1000000001 1e9 1e9\nv 1e9 1000000001 1e9\n"
    return _TRIANGLE + far + b"f 1 2 3\nf 4 5 6\n"


def obj_of_size(edge: bytes) -> bytes:
    """A triangle of that edge length."""
    return b"v 0 0 0\nv %s 0 0\nv 0 %s 0\nf 1 2 3\n" % (edge, edge)


# ---- STL -----------------------------------------------------------------------------------


def stl(corners: NDArray[Any]) -> bytes:
    """Return a binary STL of triangles, float [N, 3, 3]."""
    rows = np.zeros(len(corners), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("no", "<u2")])
    rows["corners"] = corners
    return bytes(80) + struct.pack("<I", len(corners)) + rows.tobytes()


def stl_needles(count: int = 8000, thickness: float = 1e-7) -> bytes:
    """Long triangles without width, in all directions."""
    random = np.random.default_rng(0)
    corners = random.normal(size=(count, 3, 3))
    corners[:, 2] = corners[:, 1] + thickness * random.normal(size=(count, 3))
    return stl(corners)


def stl_dust(count: int = 90_000) -> bytes:
    """Triangles that touch no other."""
    random = np.random.default_rng(0)
    return stl(random.random((count, 1, 3)) + 0.005 * random.random((count, 3, 3)))


def stl_copies(count: int = 90_000) -> bytes:
    """Copies of one triangle."""
    return stl(np.repeat(np.eye(3)[None], count, axis=0))


def stl_overlapping(count: int = 90_000) -> bytes:
    """Triangles as large as the model, in all directions."""
    return stl(np.random.default_rng(0).normal(size=(count, 3, 3)))


def stl_fan(count: int = 90_000) -> bytes:
    """Triangles that share one edge."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    corners = np.zeros((count, 3, 3))
    corners[:, 1, 2] = 1
    corners[:, 2] = np.stack([np.cos(angle), np.sin(angle), np.full(count, 0.5)], axis=1)
    return stl(corners)


def stl_ratio(count: int = 2000) -> bytes:
    """A few triangles as large as the model among specks of a millionth of it."""
    random = np.random.default_rng(0)
    corners = random.random((count, 1, 3)) + 1e-6 * random.random((count, 3, 3))
    corners[:4] = random.random((4, 3, 3))
    return stl(corners)


def stl_sheets(layers: int = 500, cells: int = 6) -> bytes:
    """Parallel sheets that lie a hundred-thousandth apart."""
    step = np.arange(cells) / cells
    x, y = np.meshgrid(step, step)
    square = np.array([[[0, 0, 0], [1, 0, 0], [1, 1, 0]], [[0, 0, 0], [1, 1, 0], [0, 1, 0]]])
    cell = np.concatenate(
        [square / cells + np.array((a, b, 0)) for a, b in zip(x.flat, y.flat, strict=True)]
    )
    return stl(np.concatenate([cell + np.array((0, 0, 1e-5 * k)) for k in range(layers)]))


def stl_not_finite() -> bytes:
    """Corners that are no numbers."""
    corners = np.random.default_rng(0).random((1000, 3, 3))
    corners[::7, 0, 0] = np.nan
    corners[::11, 1, 1] = np.inf
    return stl(corners)


def stl_text(size: int = 4_000_000) -> bytes:
    """Text STL without line ends."""
    return b"solid x facet normal 0 0 1 outer loop " + b"vertex 0 0 0 " * (size // 13)


# ---- PLY -----------------------------------------------------------------------------------


def ply(head: str, body: bytes, form: str = "binary_little_endian") -> bytes:
    """Return a PLY of these header lines and this body."""
    return f"ply\nformat {form} 1.0\n{head}\nend_header\n".encode() + body


_XYZ: Final = "property float x\nproperty float y\nproperty float z"


def ply_long_face(count: int = 1_200_000) -> bytes:
    """One face of more than a million corners."""
    head = f"element vertex 3\n{_XYZ}\nelement face 1\nproperty list uint int vertex_indices"
    return ply(
        head, CORNERS + struct.pack("<I", count) + (np.arange(count) % 3).astype("<i4").tobytes()
    )


def ply_long_text_face(size: int = 4_000_000) -> bytes:
    """The same as text."""
    head = f"element vertex 3\n{_XYZ}\nelement face 1\nproperty list uint int vertex_indices"
    count = size // 2
    return ply(head, b"0 0 0\n1 0 0\n0 1 0\n%d" % count + b" 1" * count + b"\n", "ascii")


def ply_lists(count: int = 200_000) -> bytes:
    """Vertices with lists of every length, before the face."""
    random = np.random.default_rng(0)
    lists = b"".join(CORNERS[:12] + bytes((n,)) + bytes(n) for n in random.integers(0, 12, count))
    head = f"element vertex {count}\n{_XYZ}\nproperty list uchar uchar more\nelement face 1\n"
    head += "property list uchar int vertex_indices"
    return ply(head, lists + b"\x03" + struct.pack("<3i", 0, 1, 2))


def ply_empty_lists(count: int = 4_000_000) -> bytes:
    """Four million faces without a corner."""
    head = f"element vertex 3\n{_XYZ}\nelement face {count}\nproperty list uchar int vertex_indices"
    return ply(head, CORNERS + bytes(count))


def ply_many_properties(count: int = 150_000) -> bytes:
    """A header of properties, megabytes long."""
    more = "\n".join(f"property double p{k}" for k in range(count))
    return ply(f"element vertex 3\n{_XYZ}\n{more}\nelement face 0", bytes(1000))


def ply_many_elements(count: int = 150_000) -> bytes:
    """A header of elements, megabytes long, each without rows."""
    more = "\n".join(f"element e{k} 0\nproperty int x" for k in range(count))
    head = f"{more}\nelement vertex 3\n{_XYZ}\nelement face 1\n"
    head += "property list uchar int vertex_indices"
    return ply(head, CORNERS + b"\x03" + struct.pack("<3i", 0, 1, 2))


def ply_claims() -> bytes:
    """A header that claims billions of rows without a property."""
    head = f"element nothing 4000000000\nelement vertex 3\n{_XYZ}\nelement face 1\n"
    head += "property list uchar int vertex_indices"
    return ply(head, CORNERS + b"\x03" + struct.pack("<3i", 0, 1, 2))


# ---- GLB -----------------------------------------------------------------------------------


def glb(tree: dict[str, Any] | bytes, data: bytes = CORNERS) -> bytes:
    """Return a GLB of this JSON and binary chunk."""
    head = tree if isinstance(tree, bytes) else json.dumps(tree, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 4)
    data += bytes(-len(data) % 4)
    body = struct.pack("<I4s", len(head), b"JSON") + head
    body += struct.pack("<I4s", len(data), b"BIN\0") + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


def glb_long_json(size: int = 4_000_000) -> bytes:
    """Extras of small objects, megabytes long."""
    return glb(triangle(extras=[{"a": k} for k in range(size // 12)]))


def glb_json_nested(size: int = 4_000_000) -> bytes:
    """Extras nested as deep as the file is long."""
    tree = json.dumps(triangle(extras=0)).encode()
    return glb(tree.replace(b'"extras": 0', b'"extras":' + b"[" * (size // 2) + b"]" * (size // 2)))


def glb_json_long_number(digits: int = 4_000_000) -> bytes:
    """A count of four million digits."""
    return glb(json.dumps(triangle(extras=77)).encode().replace(b"77", b"7" * digits))


def glb_amplified(primitives: int = 9000, vertices: int = 100_000) -> bytes:
    """Thousands of primitives that all show the same megabyte."""
    positions = np.random.default_rng(0).random((vertices, 3), np.float32).tobytes()
    accessor = {"bufferView": 0, "componentType": 5126, "count": vertices, "type": "VEC3"}
    each = {"attributes": {"POSITION": 0}}
    changes = {
        "accessors": [accessor],
        "bufferViews": [{"buffer": 0, "byteLength": len(positions)}],
        "buffers": [{"byteLength": len(positions)}],
        "meshes": [{"primitives": [each] * primitives}],
    }
    return glb(triangle(**changes), positions)


def glb_sparse(count: int = 30_000_000) -> bytes:
    """An accessor of hundreds of megabytes that consists of zeros but for one value."""
    sparse = {
        "count": 1,
        "indices": {"bufferView": 0, "componentType": 5125},
        "values": {"bufferView": 0},
    }
    accessor = {"componentType": 5126, "count": count, "type": "VEC3", "sparse": sparse}
    return glb(triangle(accessors=[accessor]))


def glb_deep_tree(nodes: int = 9000) -> bytes:
    """A chain of nodes, each a child of the one before it."""
    chain: list[dict[str, Any]] = [{"children": [k + 1]} for k in range(nodes - 1)]
    return glb(triangle(nodes=[*chain, {"mesh": 0}]))


def glb_doubling_tree(levels: int = 60) -> bytes:
    """Nodes that each have the next one twice: two to the sixtieth instances."""
    chain: list[dict[str, Any]] = [{"children": [k + 1, k + 1]} for k in range(levels)]
    return glb(triangle(nodes=[*chain, {"mesh": 0}]))


def glb_circle() -> bytes:
    """Nodes that are their own descendants."""
    return glb(triangle(nodes=[{"mesh": 0, "children": [1]}, {"children": [0]}]))


def glb_odd_names() -> bytes:
    """Names and extras that JSON can read, but not every writer can write."""
    node = {"mesh": 0, "name": "\ud800", "extras": {"x": float("nan"), "y": [float("inf")]}}
    mesh = {"name": "\udfff\0", "primitives": [{"attributes": {"POSITION": 0}}]}
    return glb(triangle(nodes=[node], meshes=[mesh], extras={"z": 1e400}))


def glb_many_nodes(nodes: int = 150_000) -> bytes:
    """More nodes than the limit, each with the mesh."""
    return glb(triangle(nodes=[{"mesh": 0}] * nodes, scenes=[{"nodes": list(range(nodes))}]))


def glb_many_meshes(meshes: int = 60_000) -> bytes:
    """A long list of meshes of one triangle."""
    mesh = {"primitives": [{"attributes": {"POSITION": 0}}]}
    return glb(triangle(meshes=[mesh] * meshes))


def glb_far_nodes() -> bytes:
    """Nodes whose matrices place copies far apart."""
    nodes = [{"mesh": 0, "translation": [10.0**k, 0, 0]} for k in range(36)]
    return glb(triangle(nodes=nodes, scenes=[{"nodes": list(range(36))}]))


#: Name → the function that makes the file.
MESHES: Final[dict[str, Callable[[], bytes]]] = {
    "obj-without-area": obj_without_area,
    "obj-points": obj_points,
    "obj-thin": obj_thin,
    "obj-backslashes": partial(obj_lines, b"\\\n"),
    "obj-comments": partial(obj_lines, b"#\n"),
    "obj-groups": partial(obj_lines, b"g a\nusemtl b\n"),
    "obj-statements": partial(obj_lines, b"vt\n"),
    "obj-backward-faces": partial(obj_lines, b"f -1 -2 -3\n"),
    "obj-long-face": obj_long_face,
    "obj-long-number": obj_long_number,
    "obj-far-apart": obj_far_apart,
    "obj-huge": partial(obj_of_size, b"3e38"),
    "obj-tiny": partial(obj_of_size, b"1e-44"),
    "stl-needles": stl_needles,
    "stl-thick-needles": partial(stl_needles, 8000, 1e-3),
    "stl-dust": stl_dust,
    "stl-copies": stl_copies,
    "stl-overlapping": stl_overlapping,
    "stl-overlapping-few": partial(stl_overlapping, 3000),
    "stl-fan": stl_fan,
    "stl-ratio": stl_ratio,
    "stl-sheets": stl_sheets,
    "stl-not-finite": stl_not_finite,
    "stl-text": stl_text,
    "ply-long-face": ply_long_face,
    "ply-long-text-face": ply_long_text_face,
    "ply-lists": ply_lists,
    "ply-empty-lists": ply_empty_lists,
    "ply-many-properties": ply_many_properties,
    "ply-many-elements": ply_many_elements,
    "ply-claims": ply_claims,
    "glb-long-json": glb_long_json,
    "glb-json-nested": glb_json_nested,
    "glb-json-long-number": glb_json_long_number,
    "glb-amplified": glb_amplified,
    "glb-sparse": glb_sparse,
    "glb-deep-tree": glb_deep_tree,
    "glb-doubling-tree": glb_doubling_tree,
    "glb-circle": glb_circle,
    "glb-odd-names": glb_odd_names,
    "glb-many-nodes": glb_many_nodes,
    "glb-many-meshes": glb_many_meshes,
    "glb-far-nodes": glb_far_nodes,
}
