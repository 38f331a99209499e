"""What a glTF scene shows besides plain nodes: instances, hidden nodes, morph targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support.glb_scenes import CORNERS, built, origins, read
from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.meshes import glb_morphs

if TYPE_CHECKING:
    from tests.support.built_glb import Glb


def instanced(**rows: Any) -> Glb:
    file = built()
    attributes = {
        name: file.accessor(np.array(values, np.float32)) for name, values in rows.items()
    }
    extension = {"EXT_mesh_gpu_instancing": {"attributes": attributes}}
    file.document["nodes"] = [{"mesh": 0, "name": "many", "extensions": extension}]
    return file


def test_instances_become_child_nodes() -> None:
    file = instanced(TRANSLATION=[[0, 0, 0], [3, 0, 0], [0, 4, 0]], SCALE=[[1, 1, 1]] * 3)
    file.document["nodes"][0]["translation"] = [1, 1, 1]
    scene = read(file)
    assert origins(scene) == [[1, 1, 1], [4, 1, 1], [1, 5, 1]]
    assert scene.nodes[0] == {"name": "many", "children": [1, 2, 3], "translation": [1, 1, 1]}
    assert scene.nodes[2]["scale"] == [1, 1, 1]
    assert len(scene.parts) == 1
    assert scene.parts[0].placement[:3, 3].tolist() == [1, 1, 1]


def test_instances_follow_the_children_of_their_node() -> None:
    file = instanced(ROTATION=[[0, 0, 1, 0]])
    file.document["nodes"] += [{"name": "child"}]
    file.document["nodes"][0]["children"] = [1]
    scene = read(file)
    assert scene.nodes[0]["children"] == [1, 2]
    assert scene.nodes[2] == {"rotation": [0, 0, 1, 0], "mesh": 0}


def test_instances_that_are_only_labelled_are_the_node_itself() -> None:
    scene = read(instanced(_ID=[[1], [2]]))
    assert scene.nodes == ({"name": "many", "mesh": 0},)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ({"TRANSLATION": [[0, 0, 0]], "SCALE": [[1, 1, 1]] * 2}, r"nodes\[0\].*different counts"),
        ({"TRANSLATION": [[0, np.nan, 0]]}, r"TRANSLATION of the instances of nodes\[0\].*finite"),
        ({"ROTATION": [[0, 0, 0]]}, "should be VEC4"),
    ],
)
def test_instances_that_cannot_be_are_refused(rows: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read(instanced(**rows))


def test_a_skin_with_instances_is_refused() -> None:
    file = instanced(TRANSLATION=[[0, 0, 0]])
    file.document["nodes"][0]["skin"] = 0
    with pytest.raises(InputError, match=r"nodes\[0\] .* both a skin and instances"):
        read(file)


def test_instances_count_as_nodes() -> None:
    """Two nodes share a list of six thousand."""
    file = instanced(TRANSLATION=np.zeros((6000, 3)))
    file.document["nodes"] *= 2
    assert len(read(file).nodes) == 6001
    file.document["scenes"] = [{"nodes": [0, 1]}]
    with pytest.raises(TooLargeError, match="limit of 10000 nodes"):
        read(file)


def test_hidden_nodes_and_their_children_are_not_there() -> None:
    file = built()
    hidden = {"extensions": {"KHR_node_visibility": {"visible": False}}}
    file.document["nodes"] = [
        {"children": [1, 3], "extensions": {"KHR_node_visibility": {"visible": True}}},
        {"children": [2], **hidden},
        {"mesh": 0, "translation": [1, 0, 0]},
        {"mesh": 0, "translation": [2, 0, 0]},
        {"mesh": 0, **hidden},
    ]
    file.document["scenes"] = [{"nodes": [0, 4]}]
    scene = read(file)
    assert scene.nodes == ({"children": [1]}, {"translation": [2, 0, 0], "mesh": 0})
    assert scene.roots == (0,)
    assert scene.parts[0].placement[0, 3] == 2


def test_a_file_of_hidden_nodes_shows_nothing() -> None:
    file = built()
    file.document["nodes"][0]["extensions"] = {"KHR_node_visibility": {"visible": False}}
    with pytest.raises(InputError, match="are hidden"):
        read(file)


def test_hidden_children_count_as_nodes() -> None:
    """Each node lists the same six thousand."""
    file = built()
    hidden = {"extensions": {"KHR_node_visibility": {"visible": False}}}
    file.document["nodes"] += [hidden, {"children": [1] * 6000}]
    file.document["nodes"][0]["children"] = [1] * 6000
    assert len(read(file).nodes) == 1
    file.document["scenes"] = [{"nodes": [0, 2]}]
    with pytest.raises(TooLargeError, match="limit of 10000 nodes"):
        read(file)


@pytest.mark.parametrize("place", ["nodes", "meshes"])
def test_weights_at_rest_move_positions_and_normals(place: str) -> None:
    file = built(NORMAL=0)
    file.document["meshes"][0]["primitives"][0]["attributes"]["NORMAL"] = file.accessor(
        np.tile(np.array([0, 0, 1], np.float32), (4, 1))
    )
    up = np.array([[0, 0, 0], [1, 2, 3], [0, 0, 0], [0, 0, 0]], np.float32)
    turn = np.tile(np.array([2, 0, 0], np.float32), (4, 1))
    targets = [
        {"POSITION": file.accessor(np.full((4, 3), np.nan, np.float32))},
        {"POSITION": file.accessor(up), "NORMAL": file.accessor(turn)},
    ]
    file.document["meshes"][0]["primitives"][0]["targets"] = targets
    file.document[place][0]["weights"] = [0, 0.5]
    if place == "nodes":
        file.document["meshes"][0]["weights"] = [1, 1]
    (part,) = read(file).parts
    np.testing.assert_array_equal(part.positions, CORNERS + up / 2)
    assert part.normals is not None
    np.testing.assert_allclose(part.normals, [[0.5**0.5, 0, 0.5**0.5]] * 4, atol=1e-6)


def test_nodes_with_other_weights_have_meshes_of_their_own() -> None:
    file = built()
    target = {"POSITION": file.accessor(np.ones((4, 3), np.float32))}
    file.document["meshes"][0] |= {"name": "face", "weights": [0]}
    file.document["meshes"][0]["primitives"][0]["targets"] = [target]
    file.document["nodes"] = [{"mesh": 0, "weights": [2]}, {"mesh": 0}, {"mesh": 0, "weights": [0]}]
    file.document["scenes"] = [{"nodes": [0, 1, 2]}]
    scene = read(file)
    assert scene.meshes == ("face", "face")
    assert [node["mesh"] for node in scene.nodes] == [0, 1, 1]
    np.testing.assert_array_equal(scene.parts[0].positions, CORNERS + 2)
    np.testing.assert_array_equal(scene.parts[1].positions, CORNERS)


@pytest.mark.parametrize("weights", [5, ["1"], [True], [float("nan")], [10**400]])
def test_weights_that_are_not_numbers_are_refused(weights: object) -> None:
    file = built()
    file.document["nodes"][0]["weights"] = weights
    with pytest.raises(InputError, match=r"^mesh: "):
        read(file)


def test_a_morph_target_of_other_length_is_refused() -> None:
    file = built()
    target = {"POSITION": file.accessor(np.ones((3, 3), np.float32))}
    file.document["meshes"][0]["primitives"][0]["targets"] = [target]
    file.document["nodes"][0]["weights"] = [1]
    with pytest.raises(InputError, match="has 3 vertices, its primitive has 4"):
        read(file)


def test_applied_morph_targets_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    file = built()
    target = {"POSITION": file.accessor(np.ones((4, 3), np.float32))}
    file.document["meshes"][0]["primitives"][0]["targets"] = [target] * 3
    file.document["nodes"][0]["weights"] = [1] * 3
    monkeypatch.setattr(glb_morphs, "_MAX_VERTICES", 12)
    read(file)
    monkeypatch.setattr(glb_morphs, "_MAX_VERTICES", 11)
    with pytest.raises(TooLargeError, match="morph targets"):
        read(file)


@pytest.mark.parametrize(
    "transform", [{"scale": [float("nan"), 1, 1]}, {"rotation": None}, {"translation": [1]}]
)
def test_an_invalid_transform_counts_only_where_it_places_a_mesh(
    transform: dict[str, Any],
) -> None:
    file = built()
    file.document["nodes"] = [{"mesh": 0, "children": [1]}, {"name": "empty", **transform}]
    assert read(file).nodes == ({"children": [1], "mesh": 0}, {"name": "empty"})
    file.document["nodes"][1]["children"] = [2]
    file.document["nodes"].append({"mesh": 0})
    with pytest.raises(InputError, match=r"nodes\[1\]"):
        read(file)
