"""Files that declare more than they have, or refer to what they do not have."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest

from tests.support.meshes import CORNERS, glb, ply, triangle
from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.meshes import read_scene

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
    "no Draco": glb(
        triangle(
            meshes=[
                {
                    "primitives": [
                        {
                            "attributes": {"POSITION": 0},
                            "indices": 0,
                            "extensions": {
                                "KHR_draco_mesh_compression": {
                                    "bufferView": 0,
                                    "attributes": {"POSITION": 0},
                                }
                            },
                        }
                    ]
                }
            ]
        ),
        CORNERS,
    ),
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
def test_a_hostile_file_is_refused_and_takes_no_memory(content: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="mesh: "):
            read_scene(content)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_a_thousand_primitives_with_one_accessor_are_over_a_limit() -> None:
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
