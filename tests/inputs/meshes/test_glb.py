from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
import trimesh

from tests.support.meshes import CORNERS, as_bytes, glb, triangle, two_nodes
from trellis2_server.errors import InputError
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


@pytest.mark.parametrize(
    "node",
    [
        {"translation": [0, 0]},
        {"matrix": [1] * 15},
        {"matrix": [[1, 0, 0, 0]] * 4},
        {"scale": [True, 1, 1]},
        {"scale": ["1", 1, 1]},
        {"scale": None},
        {"rotation": [0, 0, 0, float("nan")]},
        {"translation": [float("inf"), 0, 0]},
        {"translation": [10**400, 0, 0]},
        {"rotation": [1e200, 0, 0, 1]},
    ],
)
def test_a_transform_that_is_not_one_is_refused(node: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"^mesh: "):
        read_scene(glb(triangle(nodes=[{"mesh": 0} | node]), CORNERS))


def test_names_and_extras_can_be_written_as_json() -> None:
    nodes: list[dict[str, object]] = [
        {"mesh": 0, "name": "\ud83d", "extras": {"a": float("nan")}, "children": []},
        {"name": 5, "extras": None, "translation": [10**20, 1, 0.5]},
    ]
    meshes = [{"name": "m\udc00", "primitives": [{"attributes": {"POSITION": 0}}]}]
    scene = read_scene(
        glb(triangle(nodes=nodes, meshes=meshes, scenes=[{"nodes": [0, 1]}]), CORNERS)
    )
    assert scene.nodes == (
        {"name": "\ufffd", "extras": {"a": None}, "mesh": 0},
        {"translation": [1e20, 1, 0.5]},
    )
    assert scene.meshes == ("m\ufffd",)


@pytest.mark.parametrize(
    "text", [b'{"a": inf}', b'{"a": 1', b"\xff\xfe\xfd", b"[]", b"{]" + bytes(2)]
)
def test_json_that_is_not_valid_is_named(text: bytes) -> None:
    text += b" " * (-len(text) % 4)
    body = struct.pack("<I4s", len(text), b"JSON") + text
    with pytest.raises(InputError, match=r"the JSON of the GLB is not"):
        read_scene(struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body)


def test_texture_coordinates_that_do_not_fit_are_left_out() -> None:
    accessors = [
        {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"},
        {"bufferView": 0, "componentType": 5126, "count": 4, "type": "VEC2"},
    ]
    primitive = {"attributes": {"POSITION": 0, "TEXCOORD_0": 1}}
    tree = triangle(accessors=accessors, meshes=[{"primitives": [primitive]}])
    (part,) = read_scene(glb(tree, CORNERS)).parts
    assert part.uv is None


@pytest.mark.parametrize("seed", range(8))
def test_nodes_are_placed_as_another_reader_places_them(seed: int) -> None:
    random: Any = np.random.default_rng(seed)

    def transform() -> dict[str, object]:
        turn = random.normal(size=4)
        matrix = np.eye(4)
        matrix[:3] = random.normal(size=(3, 4))
        return random.choice(
            [
                {"matrix": matrix.T.ravel().tolist()},
                {
                    "translation": random.normal(size=3).tolist(),
                    "rotation": (turn / np.linalg.norm(turn)).tolist(),
                    "scale": random.uniform(-2, 2, 3).tolist(),
                },
                {"rotation": (turn / np.linalg.norm(turn)).tolist()},
            ]
        )

    nodes: list[dict[str, object]] = [
        {"children": [1], **transform()},
        {"children": [2], **transform()},
        {"mesh": 0, "name": "leaf", **transform()},
    ]
    content = glb(triangle(nodes=nodes), CORNERS)
    (part,) = read_scene(content).parts
    known: Any = trimesh.load(io.BytesIO(content), file_type="glb", process=False)
    placement, _ = known.graph[known.graph.nodes_geometry[0]]
    np.testing.assert_allclose(part.placement, placement, atol=1e-9)
    assert part.is_mirrored == (np.linalg.det(placement) < 0)
