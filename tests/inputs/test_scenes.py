from __future__ import annotations

import io
import struct
import tracemalloc

import numpy as np
import pytest
import trimesh
from hypothesis import given
from hypothesis import strategies as st

from tests.support.meshes import CORNERS, as_bytes, egg, glb, ply, triangle, two_nodes
from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.scenes import placed, read_scene

KINDS = ("glb", "obj", "ply", "stl")


@pytest.mark.parametrize("kind", KINDS)
def test_a_mesh_is_read_as_trimesh_reads_it(kind: str) -> None:
    (part,) = read_scene(as_bytes(egg(), kind)).parts
    assert part.faces.shape == (1280, 3)
    assert len(part.positions) == 642
    known = trimesh.Trimesh(part.positions, part.faces, process=False)
    assert known.is_watertight
    assert known.volume == pytest.approx(egg().volume, rel=1e-4)
    assert known.bounds == pytest.approx(egg().bounds, abs=1e-6)


@pytest.mark.parametrize("form", ["ascii", "binary_big_endian"])
def test_other_ways_to_write_ply_are_read(form: str) -> None:
    if form == "ascii":
        content = trimesh.exchange.ply.export_ply(egg(), encoding="ascii")
    else:
        corners = np.frombuffer(CORNERS, "<f4").astype(">f4").tobytes()
        content = ply(3, 1, corners + struct.pack(">B3i", 3, 0, 1, 2), form)
    (part,) = read_scene(content).parts
    assert len(part.faces) == (1280 if form == "ascii" else 1)


def test_polygons_become_fans_of_triangles() -> None:
    square = b"v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
    (part,) = read_scene(square + b"f 1/1 2/2 3/3 -1\n").parts
    assert part.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    corners = struct.pack("<12f", 0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 1, 0)
    (part,) = read_scene(ply(4, 1, corners + struct.pack("<B4i", 4, 0, 1, 2, 3))).parts
    assert part.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    mixed = struct.pack("<B4i", 4, 0, 1, 2, 3) + struct.pack("<B3i", 3, 0, 1, 2)
    (part,) = read_scene(ply(4, 2, corners + mixed)).parts
    assert part.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 2]]


def test_strips_and_fans_become_triangles() -> None:
    corners = struct.pack("<12f", 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 1, 0)
    tree = triangle(
        accessors=[{"bufferView": 0, "componentType": 5126, "count": 4, "type": "VEC3"}],
        bufferViews=[{"buffer": 0, "byteLength": 48}],
    )
    for mode, faces in ((5, [[0, 1, 2], [1, 3, 2]]), (6, [[1, 2, 0], [2, 3, 0]])):
        tree["meshes"] = [{"primitives": [{"attributes": {"POSITION": 0}, "mode": mode}]}]
        (part,) = read_scene(glb(tree, corners)).parts
        assert part.faces.tolist() == faces


def test_the_objects_of_an_obj_keep_their_names() -> None:
    content = b"o a b\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\no \xc3\xa9\nv 0 0 1\nf 1 2 \\\n4\n"
    scene = read_scene(content)
    assert [node.get("name") for node in scene.nodes] == ["a b", "é"]
    assert [len(part.positions) for part in scene.parts] == [3, 3]


def test_a_tree_keeps_its_names_transforms_and_places() -> None:
    content = as_bytes(two_nodes(), "glb")
    scene = read_scene(content)
    assert {"egg", "box"} <= {node.get("name") for node in scene.nodes}
    known = trimesh.load(io.BytesIO(content), file_type="glb")
    low = np.min(
        [(p.positions @ p.placement[:3, :3].T + p.placement[:3, 3]).min(0) for p in scene.parts], 0
    )
    assert low == pytest.approx(known.bounds[0])


def test_a_placed_scene_fills_the_cube_and_faces_the_front() -> None:
    mesh = placed(read_scene(as_bytes(egg(), "glb")))
    assert mesh.vertices.min(0) == pytest.approx([-0.25, -0.25, -0.5], abs=1e-3)
    flag = b"v 0 0 1\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"  # its first corner is the frontmost
    front = placed(read_scene(flag)).vertices
    assert front[:, 1].min() == pytest.approx(-0.5, abs=1e-3)
    turned = placed(read_scene(flag), 90).vertices  # counter-clockwise: the front goes right
    assert turned[np.argmin(np.abs(turned[:, 1] - 0)), 0] == pytest.approx(turned[:, 0].max())


def test_a_mirrored_part_is_placed_with_its_outside_out() -> None:
    mesh = placed(read_scene(as_bytes(two_nodes(), "glb")))
    known = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert all(body.volume > 0 for body in known.split())


def test_packed_positions_are_read() -> None:
    corners = struct.pack("<12h", 0, 0, 0, 0, 32767, 0, 0, 0, 0, 32767, 0, 0)
    tree = triangle(
        accessors=[
            {"bufferView": 0, "componentType": 5122, "normalized": True, "count": 3, "type": "VEC3"}
        ],
        bufferViews=[{"buffer": 0, "byteLength": 24, "byteStride": 8}],
    )
    (part,) = read_scene(glb(tree, corners)).parts
    assert part.positions.max() == 1.0


BILLION = 1_000_000_000
HOSTILE = {
    "nothing": b"",
    "text": b"hello",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "a zip": b"PK\x03\x04" + bytes(100),
    "glTF as text": b'{"asset": {}}',
    "a short GLB": b"glTF",
    "an old GLB": struct.pack("<4sII", b"glTF", 1, 12),
    "a cut GLB": glb(triangle(), CORNERS)[:-8],
    "no JSON": struct.pack("<4sII", b"glTF", 2, 12),
    "JSON that is a list": glb([], b""),  # pyright: ignore[reportArgumentType]
    "deep JSON": struct.pack("<4sII", b"glTF", 2, 200_020)
    + struct.pack("<I4s", 200_000, b"JSON")
    + b"[" * 200_000,
    "a billion vertices": glb(
        triangle(
            accessors=[{"bufferView": 0, "componentType": 5126, "count": BILLION, "type": "VEC3"}]
        ),
        CORNERS,
    ),
    "a billion vertices of nothing": glb(
        triangle(accessors=[{"componentType": 5126, "count": BILLION, "type": "VEC3"}])
    ),
    "a stride of zero": glb(
        triangle(
            accessors=[{"bufferView": 0, "componentType": 5126, "count": BILLION, "type": "VEC3"}],
            bufferViews=[{"buffer": 0, "byteLength": 36, "byteStride": 0}],
        ),
        CORNERS,
    ),
    "a negative offset": glb(
        triangle(bufferViews=[{"buffer": 0, "byteLength": 36, "byteOffset": -36}]), CORNERS
    ),
    "a buffer elsewhere": glb(
        triangle(buffers=[{"uri": "/etc/passwd", "byteLength": 36}]), CORNERS
    ),
    "Draco": glb(triangle(extensionsRequired=["KHR_draco_mesh_compression"]), CORNERS),
    "a circle of nodes": glb(triangle(nodes=[{"mesh": 0, "children": [0]}]), CORNERS),
    "a node under two": glb(
        triangle(nodes=[{"children": [1, 2]}, {"children": [2]}, {"mesh": 0}]), CORNERS
    ),
    "no such node": glb(triangle(scenes=[{"nodes": [7]}]), CORNERS),
    "no such mesh": glb(triangle(nodes=[{"mesh": 7}]), CORNERS),
    "lines": glb(
        triangle(meshes=[{"primitives": [{"attributes": {"POSITION": 0}, "mode": 1}]}]), CORNERS
    ),
    "not a number": glb(triangle(), struct.pack("<9f", *[float("nan")] * 9)),
    "a matrix of words": glb(triangle(nodes=[{"mesh": 0, "matrix": ["a"] * 16}]), CORNERS),
    "a PLY of a billion vertices": ply(BILLION, 1),
    "a PLY of a billion faces": ply(3, BILLION, CORNERS),
    "a PLY of text with a billion": ply(BILLION, BILLION, b"0 0 0\n", "ascii"),
    "a PLY list of 2**31 corners": ply(3, 1, CORNERS).replace(b"list uchar", b"list uint")
    + struct.pack("<I", 2**31),
    "a PLY without an end": b"ply\nformat ascii 1.0\n",
    "a PLY of faces to nowhere": ply(3, 1, CORNERS + struct.pack("<B3i", 3, 0, 1, 9)),
    "a PLY of negative corners": ply(3, 1, CORNERS + struct.pack("<B3i", 3, 0, 1, -1)),
    "an STL of a billion": bytes(80) + struct.pack("<I", BILLION) + bytes(50),
    "an empty STL": bytes(84),
    "an OBJ of faces to nowhere": b"v 0 0 0\nf 1 2 3\n",
    "an OBJ before its vertices": b"v 0 0 0\nf -5 -6 -7\n",
    "an OBJ of words": b"v a b c\n",
    "an OBJ with infinity": b"v 1e999 0 0\nv 0 1 0\nv 0 0 0\nf 1 2 3\n",
    "an OBJ without faces": b"v 0 0 0\n",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_is_refused_by_name_and_takes_no_memory(content: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="mesh: "):
            read_scene(content)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_a_mesh_without_a_size_is_refused() -> None:
    with pytest.raises(InputError, match="no size"):
        placed(read_scene(glb(triangle(), bytes(36))))


def test_one_accessor_in_a_thousand_primitives_is_over_a_limit() -> None:
    corners = np.zeros((300_000, 3), "<f4").tobytes()
    tree = triangle(
        accessors=[{"bufferView": 0, "componentType": 5126, "count": 300_000, "type": "VEC3"}],
        bufferViews=[{"buffer": 0, "byteLength": len(corners)}],
        meshes=[{"primitives": [{"attributes": {"POSITION": 0}}] * 1000}],
    )
    with pytest.raises(TooLargeError, match="over the limit of"):
        read_scene(glb(tree, corners))


def test_too_many_nodes_are_over_a_limit() -> None:
    with pytest.raises(TooLargeError, match="nodes"):
        read_scene(glb(triangle(nodes=[{"mesh": 0}] * 20_000), CORNERS))


@given(kind=st.sampled_from(KINDS), data=st.data())
def test_a_damaged_file_is_read_or_refused_and_nothing_else(kind: str, data: st.DataObject) -> None:
    content = bytearray(as_bytes(trimesh.creation.box(), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        scene = read_scene(bytes(content[: data.draw(st.integers(1, len(content)))]))
        placed(scene)
    except InputError:
        pass
