"""Skins of glTF files: joints place and move the vertices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.glb_scenes import BOTH, CORNERS, ONE, built, origins, read, skinned, world
from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.meshes import glb_skins

MOVED = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 5, 6, 7, 1]


def test_the_transform_of_a_skinned_node_does_not_count() -> None:
    inverse = np.eye(4)
    inverse[:3, 3] = -5
    nodes = [{"scale": [9, 9, 9], "name": "body"}, {"translation": [5, 5, 5]}]
    scene = read(skinned(*ONE, nodes=nodes, inverse=[inverse]))
    np.testing.assert_array_equal(scene.parts[0].positions, CORNERS)
    np.testing.assert_array_equal(world(scene), CORNERS)
    assert [scene.nodes[root].get("name") for root in scene.roots] == [None, None, "body"]
    assert scene.nodes[2]["mesh"] == 0
    assert origins(scene) == [[0, 0, 0]]


def test_joints_that_agree_place_the_node_and_leave_positions_as_they_are() -> None:
    nodes: list[dict[str, Any]] = [{}, {"matrix": MOVED}, {"translation": [5, 6, 7]}]
    scene = read(skinned(*BOTH, nodes=nodes))
    assert scene.parts[0].positions.tobytes() == CORNERS.tobytes()
    np.testing.assert_array_equal(world(scene), np.add(CORNERS, [5, 6, 7]))
    assert origins(scene) == [[5, 6, 7]]


def test_joints_that_differ_move_vertices_by_their_weights() -> None:
    nodes: list[dict[str, Any]] = [{"translation": [7, 7, 7]}, {}, {"translation": [0, 0, 4]}]
    scene = read(skinned(*BOTH, nodes=nodes))
    np.testing.assert_allclose(
        world(scene), np.add(CORNERS, [[0, 0, 0], [0, 0, 4], [0, 0, 2], [0, 0, 0]]), atol=1e-6
    )
    assert origins(scene) == [[0, 0, 0]]


def test_mirroring_joints_keep_the_outside_outside() -> None:
    nodes: list[dict[str, Any]] = [
        {}, {"scale": [-1, 1, 1]}, {"scale": [-1, 1, 1], "translation": [0, 0, 1]}
    ]  # fmt: skip
    scene = read(skinned(*BOTH, nodes=nodes))
    points, faces = scene.merge()
    a, b, c = points[faces].transpose(1, 0, 2)
    assert np.einsum("ni,ni->", a, np.cross(b, c)) > 0
    (other,) = read(built()).parts
    assert faces.tolist() == other.faces[:, ::-1].tolist()


def test_joints_outside_the_scene_and_hidden_ones_count() -> None:
    nodes: list[dict[str, Any]] = [
        {}, {"extensions": {"KHR_node_visibility": {"visible": False}}, "translation": [1, 0, 0]}
    ]  # fmt: skip
    file = skinned(*ONE, nodes=nodes)
    for roots in ([0, 1], [0]):
        file.document["scenes"] = [{"nodes": roots}]
        np.testing.assert_array_equal(world(read(file)), np.add(CORNERS, [1, 0, 0]))


def test_a_skin_without_joints_of_vertices_leaves_the_node_where_it_is() -> None:
    file = built()
    file.document["nodes"][0] |= {"skin": 0, "translation": [1, 2, 3]}
    np.testing.assert_array_equal(world(read(file)), np.add(CORNERS, [1, 2, 3]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"joints": []}, r"skins\[0\] of the GLB has no joints"),
        ({"joints": [1]}, r"joint 1 of skins\[0\], which has 1 joints"),
        ({"joints": [1, 99]}, r"refers to nodes\[99\]"),
        ({"inverseBindMatrices": 0}, "should be MAT4"),
    ],
)
def test_a_skin_that_cannot_be_is_refused(change: dict[str, Any], reason: str) -> None:
    file = skinned(*BOTH, nodes=[{}, {}, {}])
    file.document["skins"][0] |= change
    with pytest.raises(InputError, match=reason):
        read(file)


def test_joints_of_skins_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    file = skinned(*BOTH, nodes=[{}, {}, {}])
    monkeypatch.setattr(glb_skins, "_MAX_JOINTS", 2)
    read(file)
    monkeypatch.setattr(glb_skins, "_MAX_JOINTS", 1)
    with pytest.raises(TooLargeError, match="joints of skins"):
        read(file)


def test_joints_in_a_circle_are_refused() -> None:
    file = skinned(*ONE, nodes=[{}, {"children": [2]}, {"children": [1]}])
    file.document["scenes"] = [{"nodes": [0]}]
    with pytest.raises(InputError, match="do not form a tree"):
        read(file)
