from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import trimesh

from tests.support.meshes import as_bytes, glb, triangle, two_nodes
from trellis2_server.inputs.meshes import read_scene


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


def test_a_tree_keeps_its_names_and_transforms() -> None:
    content = as_bytes(two_nodes(), "glb")
    scene = read_scene(content)
    assert {"egg", "box"} <= {node.get("name") for node in scene.nodes}
    known = trimesh.load(io.BytesIO(content), file_type="glb")
    low = np.min(
        [(p.positions @ p.placement[:3, :3].T + p.placement[:3, 3]).min(0) for p in scene.parts], 0
    )
    assert low == pytest.approx(known.bounds[0])


def test_normalized_integer_positions_are_read() -> None:
    corners = struct.pack("<12h", 0, 0, 0, 0, 32767, 0, 0, 0, 0, 32767, 0, 0)
    tree = triangle(
        accessors=[
            {"bufferView": 0, "componentType": 5122, "normalized": True, "count": 3, "type": "VEC3"}
        ],
        bufferViews=[{"buffer": 0, "byteLength": 24, "byteStride": 8}],
    )
    (part,) = read_scene(glb(tree, corners)).parts
    assert part.positions.max() == 1.0
