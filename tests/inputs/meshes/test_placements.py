from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import built_glb
from tests.support.glb_scenes import CORNERS, built, read
from trellis2_server.decoders.tasks import read_mesh
from trellis2_server.inputs.meshes import (
    Scene,
    model_frame,
    placed_bounds,
    read_scene,
    scene,
    unpack_scene,
)
from trellis2_server.inputs.meshes.placements import (
    node_placements,
    prefer_front,
    separate_placements,
)

SIZE = 1000
MIRRORED = [-1, 1, 1]
ARGUMENTS = {"rotation_deg": 0, "up_axis": "auto", "keep_uv": False}


def placed(*transforms: dict[str, Any]) -> Scene:
    """Return a scene in which nodes with these transforms have the same mesh."""
    file = built()
    file.document["meshes"][0]["name"] = "egg"
    file.document["nodes"] = [
        {"children": [*range(1, len(transforms) + 1)], "translation": [0, 9, 0]},
        *[{"mesh": 0, "name": f"n{at}", "extras": at} | transform
          for at, transform in enumerate(transforms)],
    ]  # fmt: skip
    return read(file)


def test_each_place_of_a_mesh_gets_a_copy() -> None:
    shared = placed({}, {"scale": MIRRORED}, {"translation": [5, 0, 0]})
    separate = separate_placements(shared, SIZE)
    assert separate.meshes == ("egg",) * 3
    assert [node.get("mesh") for node in separate.nodes] == [None, 0, 1, 2]
    assert [{**node, "mesh": 0} for node in separate.nodes[1:]] == [*shared.nodes[1:]]
    places = node_placements(separate.nodes, separate.roots)
    for part, place in zip(separate.parts, places[1:], strict=True):
        np.testing.assert_array_equal(part.placement, place)
        np.testing.assert_array_equal(part.positions, CORNERS)
    assert [part.is_mirrored for part in separate.parts] == [False, True, False]
    assert shared.nodes[2]["mesh"] == 0


def test_a_mesh_at_one_place_is_left_alone() -> None:
    for once in (placed({}), placed({}, {"scale": [1, 1, 1], "translation": [0, -0.0, 0]})):
        separate = separate_placements(once, SIZE)
        assert len(separate.parts) == 1
        assert separate.nodes == once.nodes


def test_parts_stay_ordered_by_mesh() -> None:
    file = built()
    file.primitive()
    file.document["meshes"].append(file.document["meshes"][0] | {"name": "other"})
    file.document["nodes"] = [
        {"mesh": 1, "scale": MIRRORED}, {"mesh": 0}, {"mesh": 1}, {"mesh": 0, "scale": [2, 2, 2]},
    ]  # fmt: skip
    file.document["scenes"] = [{"nodes": [0, 1, 2, 3]}]
    separate = separate_placements(read(file), SIZE)
    assert [part.mesh for part in separate.parts] == [0, 0, 1, 1, 2, 2, 3, 3]
    places = node_placements(separate.nodes, separate.roots)
    for node, place in zip(separate.nodes, places, strict=True):
        for part in separate.parts:
            if part.mesh == node["mesh"]:
                np.testing.assert_array_equal(part.placement, place)
    assert sorted(node["mesh"] for node in separate.nodes) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "enough"), [("_FREE_FACES", 12), ("_FREE_VERTICES", 12), ("MAX_FACES", 12)]
)
def test_meshes_are_copied_up_to_the_limits(
    name: str, enough: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three places of four faces."""
    shared = placed({}, {"scale": MIRRORED}, {"translation": [5, 0, 0]})
    for limit, count in ((enough, 3), (enough - 1, 1)):
        monkeypatch.setattr(scene, name, limit)
        assert len(separate_placements(shared, 0).parts) == count


def test_of_several_places_one_that_faces_the_picture_and_is_not_mirrored_is_taken() -> None:
    back, side = [0, 1, 0, 0], [0, 0.5**0.5, 0, 0.5**0.5]
    shared = placed(
        {"scale": MIRRORED}, {"rotation": back}, {"rotation": side, "translation": [1, 0, 0]},
        {"translation": [2, 0, 0]}, {"translation": [3, 0, 0]},
    )  # fmt: skip
    for rotation, x in ((0, 2), (180, 2)):
        (part,) = prefer_front(shared, rotation).parts
        assert part.placement[0, 3] == x


def test_a_place_that_faces_the_picture_is_taken_at_any_scale() -> None:
    large = [1e200, 1e200, 1e200]
    shared = placed({"scale": large, "rotation": [0, 1, 0, 0]}, {"scale": large})
    assert prefer_front(shared).parts[0].placement[2, 2] == pytest.approx(1e200)


def test_the_front_of_a_mesh_with_z_up_is_its_lower_side() -> None:
    half = 0.5**0.5
    shared = placed({}, {"rotation": [half, 0, 0, half], "translation": [7, 0, 0]})
    for up_axis, rotation, x in (("y", 0, 0), ("z", 0, 0), ("z", 90, 0)):
        (part,) = prefer_front(shared, rotation, up_axis).parts
        assert part.placement[0, 3] == x
    turned = placed({"rotation": [0, 0, 1, 0]}, {"translation": [7, 0, 0]})
    assert prefer_front(turned, 0, "y").parts[0].placement[0, 3] == 0  # turned about the front
    assert prefer_front(turned, 0, "z").parts[0].placement[0, 3] == 7  # shows its back


def test_a_decoder_copies_meshes_unless_they_would_be_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = built()
    file.document["nodes"] = [{"mesh": 0, "scale": MIRRORED}, {"mesh": 0}]
    file.document["scenes"] = [{"nodes": [0, 1]}]
    file.document["buffers"] = [{"byteLength": len(file.data)}]
    content = memoryview(bytes(file))
    separate, mesh = unpack_scene(*read_mesh(content, ARGUMENTS))
    assert [part.is_mirrored for part in separate.parts] == [False, True]
    assert len(mesh.faces) == 8
    assert np.ptp(mesh.vertices[:, 0]) > 0.6
    a, b, c = mesh.vertices[mesh.faces].transpose(1, 0, 2)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2
    monkeypatch.setattr(model_frame, "MAX_AREA", area * 0.99)
    shared, mesh = unpack_scene(*read_mesh(content, ARGUMENTS))
    assert [part.is_mirrored for part in shared.parts] == [False]
    assert len(mesh.faces) == 4
    monkeypatch.undo()


@pytest.mark.parametrize("most_faces", [11, 12])
def test_the_model_frame_is_the_same_with_new_and_with_own_texture_coordinates(
    most_faces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export can switch between them, but the field is made once."""
    file = built()
    file.document["nodes"] = [
        {"mesh": 0, "scale": MIRRORED}, {"mesh": 0, "translation": [9, 0, 0]}, {"mesh": 0},
    ]  # fmt: skip
    file.document["scenes"] = [{"nodes": [0, 1, 2]}]
    file.document["buffers"] = [{"byteLength": len(file.data)}]
    content = memoryview(bytes(file))
    monkeypatch.setattr(scene, "MAX_FACES", most_faces)
    separate, mesh = unpack_scene(*read_mesh(content, ARGUMENTS))
    shared, same = unpack_scene(*read_mesh(content, {**ARGUMENTS, "keep_uv": True}))
    assert len(shared.parts) == 1
    assert len(separate.parts) == (3 if most_faces == 12 else 1)
    assert len(mesh.faces) == 4 * len(separate.parts)
    np.testing.assert_array_equal(same.vertices, mesh.vertices)
    np.testing.assert_array_equal(same.faces, mesh.faces)
    # The first faces are those of the scene: they differ by a shift and a scale.
    points, faces = shared.merge()
    ours, theirs = points[faces].reshape(-1, 3), same.vertices[same.faces[:4]].reshape(-1, 3)
    theirs = theirs[:, [0, 2, 1]] * [1, 1, -1]
    scale = np.ptp(theirs, axis=0) / np.ptp(ours, axis=0)
    np.testing.assert_allclose(scale, scale[0], rtol=1e-5)
    np.testing.assert_allclose(theirs - theirs[0], (ours - ours[0]) * scale, atol=1e-6)
    assert ours[:, 0].min() >= 9


def test_the_bounds_are_those_of_all_places_of_all_meshes() -> None:
    turned = [0, 1, 0, 0, -1, 0, 0, 0, 0, 0, 1, 0, 7, 8, 9, 1]  # by columns: x becomes y
    file = built_glb.Glb()
    file.primitive()
    file.document |= {
        "nodes": [
            {"mesh": 0},
            {"mesh": 0, "translation": [0, -4, 0], "scale": [1, 1, 2]},
            {"matrix": turned, "mesh": 0},
        ],
        "scenes": [{"nodes": [0, 1, 2]}],
        "buffers": [{"byteLength": len(file.data)}],
    }
    low, high = placed_bounds(read_scene(bytes(file)))
    corners = built_glb.CORNERS.astype(float)
    places = np.concatenate(
        [corners, corners * (1, 1, 2) - (0, 4, 0), corners[:, [1, 0, 2]] * (-1, 1, 1) + (7, 8, 9)]
    )
    assert low.tolist() == places.min(axis=0).tolist()
    assert high.tolist() == places.max(axis=0).tolist()
