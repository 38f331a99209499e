"""Every limit of the readers: what is at it is read, what is one over it is refused."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support.meshes import glb, ply, triangle
from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.meshes import (
    glb_container,
    obj,
    pack_scene,
    read_scene,
    scene,
    stl,
    to_model_frame,
    transfer,
    unpack_scene,
)
from trellis2_server.inputs.meshes import ply as ply_module
from trellis2_server.inputs.meshes.obj import _NAME_LENGTH
from trellis2_server.inputs.meshes.text import BLOCK_BYTES
from trellis2_server.request_fields import FIELDS

if TYPE_CHECKING:
    from collections.abc import Callable

#: A fan over a parabola: as many faces as vertices less two.
VERTICES = 7
FACES = 5
POINTS = np.array([[at, at * at, 1] for at in range(VERTICES)], "<f4")
CORNERS = np.array([[0, at, at + 1] for at in range(1, FACES + 1)])


def _set(monkeypatch: pytest.MonkeyPatch, name: str, value: int) -> None:
    for module in (glb_container, obj, ply_module, scene, stl, transfer):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, value)


def _obj(polygons: str) -> bytes:
    points = "".join(f"v {x:g} {y:g} {z:g}\n" for x, y, z in POINTS.tolist())
    return f"{points}{polygons}".encode()


def _obj_of_triangles() -> bytes:
    return _obj("".join("f {} {} {}\n".format(*(face + 1)) for face in CORNERS))


def _obj_of_a_polygon() -> bytes:
    return _obj(f"f {' '.join(map(str, range(1, VERTICES + 1)))}\n")


def _ply_binary() -> bytes:
    rows = b"".join(struct.pack("<B3i", 3, *face) for face in CORNERS.tolist())
    return ply(VERTICES, FACES, POINTS.tobytes() + rows)


def _ply_of_a_polygon() -> bytes:
    row = struct.pack(f"<B{VERTICES}i", VERTICES, *range(VERTICES))
    return ply(VERTICES, 1, POINTS.tobytes() + row)


def _ply_of_polygons() -> bytes:
    """With lists of different lengths."""
    rows = struct.pack("<B4i", 4, 0, 1, 2, 3) + struct.pack("<B5i", 5, 0, 3, 4, 5, 6)
    return ply(VERTICES, 2, POINTS.tobytes() + rows)


def _ply_text() -> bytes:
    rows = [" ".join(f"{value:g}" for value in point) for point in POINTS.tolist()]
    rows += ["4 0 1 2 3", "5 0 3 4 5 6"]
    return ply(VERTICES, 2, "\n".join([*rows, ""]).encode(), "ascii")


def _glb(mode: int = 4, *, has_indices: bool = True) -> bytes:
    indices = CORNERS.astype("<u2").tobytes()
    if mode != 4:
        indices = np.arange(VERTICES, dtype="<u2").tobytes()
    primitive: dict[str, Any] = {"attributes": {"POSITION": 0}, "mode": mode}
    if has_indices:
        primitive["indices"] = 1
    size = len(POINTS.tobytes())
    tree = triangle(
        meshes=[{"primitives": [primitive]}],
        accessors=[
            {"bufferView": 0, "componentType": 5126, "count": VERTICES, "type": "VEC3"},
            {
                "bufferView": 1,
                "componentType": 5123,
                "count": len(indices) // 2,
                "type": "SCALAR",
            },
        ],
        bufferViews=[
            {"buffer": 0, "byteLength": size},
            {"buffer": 0, "byteOffset": size, "byteLength": len(indices)},
        ],
    )
    return glb(tree, POINTS.tobytes() + indices)


def _stl_binary() -> bytes:
    rows = b"".join(bytes(12) + POINTS[face].tobytes() + bytes(2) for face in CORNERS)
    return bytes(80) + struct.pack("<I", FACES) + rows


def _stl_text() -> bytes:
    lines = ["solid"]
    for face in POINTS[CORNERS].tolist():
        lines += ["facet normal 0 0 1", "outer loop"]
        lines += [f"vertex {x:g} {y:g} {z:g}" for x, y, z in face]
        lines += ["endloop", "endfacet"]
    return "\n".join([*lines, "endsolid", ""]).encode()


FILES = {
    "obj": _obj_of_triangles,
    "obj of a polygon": _obj_of_a_polygon,
    "ply": _ply_binary,
    "ply of a polygon": _ply_of_a_polygon,
    "ply of polygons": _ply_of_polygons,
    "ply of text": _ply_text,
    "glb": _glb,
    "glb of a strip": lambda: _glb(5),
    "glb of a fan without indices": lambda: _glb(6, has_indices=False),
    "stl": _stl_binary,
    "stl of text": _stl_text,
}


@pytest.mark.parametrize("name", FILES)
def test_vertices_and_faces_are_read_up_to_their_limits(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = FILES[name]()
    declared = 3 * FACES if name.startswith("stl") else VERTICES
    for limit, count, what in (
        ("MAX_VERTICES", declared, "vertices"),
        ("MAX_FACES", FACES, "faces"),
    ):
        with monkeypatch.context() as patch:
            _set(patch, limit, count)
            (part,) = read_scene(content).parts
            assert len(part.faces) == FACES
            assert {*map(tuple, part.positions.tolist())} == {*map(tuple, POINTS.tolist())}
            _set(patch, limit, count - 1)
            with pytest.raises(TooLargeError, match=f"limit of {count - 1} {what}"):
                read_scene(content)


@pytest.mark.parametrize("name", ["glb", "glb of a fan without indices"])
def test_a_file_of_this_server_has_limits_of_its_own(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of clients' files do not hold for it: a request may ask for 16 million faces."""
    content = FILES[name]()
    _set(monkeypatch, "MAX_VERTICES", VERTICES - 1)
    _set(monkeypatch, "MAX_FACES", FACES - 1)
    for limit, count, what in (
        ("MAX_OWN_VERTICES", VERTICES, "vertices"),
        ("MAX_OWN_FACES", FACES, "faces"),
    ):
        with monkeypatch.context() as patch:
            _set(patch, limit, count)
            (part,) = read_scene(content, is_own=True).parts
            assert len(part.faces) == FACES
            with pytest.raises(TooLargeError):
                read_scene(content)
            _set(patch, limit, count - 1)
            with pytest.raises(TooLargeError, match=f"limit of {count - 1} {what}"):
                read_scene(content, is_own=True)
    bounds = next(field.bounds for field in FIELDS if field.name == "decimation_target")
    assert bounds is not None
    assert 2 * bounds[1] < scene.MAX_OWN_FACES


@pytest.mark.parametrize(
    "make",
    [_obj_of_a_polygon, _ply_of_a_polygon, _ply_of_polygons, _ply_text],
)
def test_polygons_are_read_up_to_their_limit(
    make: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = make()
    corners = VERTICES if b"\x07" in content or b"f 1" in content else 5
    _set(monkeypatch, "MAX_CORNERS", corners)
    assert len(read_scene(content).parts[0].faces) == FACES
    _set(monkeypatch, "MAX_CORNERS", corners - 1)
    with pytest.raises(TooLargeError, match=f"limit of {corners - 1} corners"):
        read_scene(content)


def _glb_of_nodes(nodes: list[dict[str, Any]], roots: list[int]) -> bytes:
    return glb(triangle(nodes=nodes, scenes=[{"nodes": roots}]), np.eye(3, dtype="<f4").tobytes())


NODES: dict[str, Callable[[int], bytes]] = {
    "roots": lambda count: _glb_of_nodes([{"mesh": 0}] * count, [*range(count)]),
    "children": lambda count: _glb_of_nodes(
        [{"children": [*range(1, count)]}, *[{"mesh": 0}] * (count - 1)], [0]
    ),
    "a chain": lambda count: _glb_of_nodes(
        [*[{"children": [at]} for at in range(1, count)], {"mesh": 0}], [0]
    ),
    "nodes of no scene": lambda count: _glb_of_nodes([{"mesh": 0}] * count, [0]),
    "primitives": lambda count: glb(
        triangle(meshes=[{"primitives": [{"attributes": {"POSITION": 0}}] * count}]),
        np.eye(3, dtype="<f4").tobytes(),
    ),
    "lines": lambda count: glb(
        triangle(
            meshes=[
                {
                    "primitives": [
                        {"attributes": {"POSITION": 0}},
                        *[{"attributes": {"POSITION": 0}, "mode": 1}] * (count - 1),
                    ]
                }
            ]
        ),
        np.eye(3, dtype="<f4").tobytes(),
    ),
    # With the faces before the first name.
    "objects": lambda count: _obj_of_triangles() + b"o name\n" * (count - 1),
}


@pytest.mark.parametrize("name", NODES)
def test_nodes_and_primitives_are_read_up_to_their_limit(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(monkeypatch, "MAX_NODES", 9)
    assert read_scene(NODES[name](9)).parts
    with pytest.raises(TooLargeError, match="limit of 9 nodes"):
        read_scene(NODES[name](10))


def test_the_json_of_a_glb_is_read_up_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    content = _glb()
    (size,) = struct.unpack_from("<I", content, 12)
    _set(monkeypatch, "MAX_JSON_BYTES", size)
    assert read_scene(content).parts
    _set(monkeypatch, "MAX_JSON_BYTES", size - 1)
    with pytest.raises(TooLargeError, match="bytes of JSON"):
        read_scene(content)


@pytest.mark.parametrize("kind", ["obj", "stl"])
def test_too_many_vertices_are_refused_before_the_rest_is_read(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows is not a number, which only a reader that goes on would see."""
    _set(monkeypatch, "MAX_VERTICES", 65_535)
    line, head, count = b"v 0 1 2\n", b"", 65_536
    if kind == "stl":
        vertices = b"vertex 0 1 2 " * 3
        line = b"facet normal 0 0 1 outer loop " + vertices + b"endloop endfacet\n"
        head, count = b"solid\n", 21_846
    content = head + line * 2 * count + line.replace(b"1", b"x")
    with pytest.raises(TooLargeError, match="limit of 65535 vertices"):
        read_scene(content)


def test_too_many_faces_of_text_are_refused_before_the_rest_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _set(monkeypatch, "MAX_FACES", FACES - 1)
    with pytest.raises(TooLargeError, match="limit of 4 faces"):
        read_scene(_obj_of_triangles() + b"\n" * BLOCK_BYTES + b"f x y z\n")
    with pytest.raises(TooLargeError, match="limit of 4 faces"):
        read_scene(_ply_text().replace(b"face 2", b"face 3") + b"\n" * BLOCK_BYTES + b"x y z zz\n")


def test_names_of_an_obj_are_cut() -> None:
    for length in (_NAME_LENGTH, _NAME_LENGTH + 1, 5000):
        content = _obj("o " + "\u00e9" * length + "\nf 1 2 3\n")
        (name,) = read_scene(content).meshes
        assert name == "\u00e9" * min(length, _NAME_LENGTH)


@pytest.mark.parametrize("name", ["MAX_VERTICES", "MAX_FACES", "MAX_NODES", "MAX_TEXT_BYTES"])
def test_scenes_are_unpacked_up_to_the_limits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = NODES["children"](4) if name == "MAX_NODES" else _glb()
    read = read_scene(content)
    meta, arrays = pack_scene(read, to_model_frame(read))
    count = {
        "MAX_VERTICES": len(arrays["positions"]),
        "MAX_FACES": len(arrays["faces"]),
        "MAX_NODES": len(arrays["nodes"]),
        "MAX_TEXT_BYTES": len(arrays["text"]),
    }[name]
    _set(monkeypatch, name, count)
    assert unpack_scene(meta, arrays)[0].nodes == read.nodes
    _set(monkeypatch, name, count - 1)
    with pytest.raises(InputError, match="invalid result"):
        unpack_scene(meta, arrays)
