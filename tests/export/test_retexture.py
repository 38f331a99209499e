from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from tests.support import khronos, shapes
from tests.support.glb_files import opened
from tests.support.meshes import as_bytes, egg, two_nodes
from trellis2_server.export import retexture
from trellis2_server.inputs.meshes import Scene, read_scene
from trellis2_server.inputs.meshes import to_model_frame as to_frame

trimesh = pytest.importorskip("trimesh")


@pytest.fixture(scope="module")
def scene() -> Scene:
    return read_scene(as_bytes(two_nodes(), "glb"))


def loaded(content: bytes) -> Any:
    return trimesh.load(io.BytesIO(content), file_type="glb", process=False)


@pytest.fixture(scope="module")
def textured(scene: Scene) -> bytes:
    return retexture.textured_glb(
        scene,
        to_frame(scene),
        shapes.field(24),
        texture_size=128,
        extras={},
        generator="test",
    )


def test_nodes_parts_and_faces_are_preserved(scene: Scene, textured: bytes) -> None:
    document, _ = opened(textured)
    assert len(document["nodes"]) == len(scene.nodes)
    assert document["scenes"][0]["nodes"] == list(scene.roots)
    original, again = two_nodes(), loaded(textured)
    for name in ("egg", "box"):
        geometry, transform = original.geometry[original.graph[name][1]], original.graph[name][0]
        found, place = again.geometry[again.graph[name][1]], again.graph[name][0]
        np.testing.assert_allclose(place, transform, atol=1e-6)
        np.testing.assert_allclose(found.triangles, geometry.triangles, atol=1e-6)


def test_all_parts_share_one_texture(textured: bytes) -> None:
    document, _ = opened(textured)
    materials = [
        primitive["material"] for mesh in document["meshes"] for primitive in mesh["primitives"]
    ]
    assert materials == [0] * len(materials)
    assert len(document["images"]) == 2
    assert khronos.messages(textured) == []


def test_the_colours_are_those_of_the_field(scene: Scene, textured: bytes) -> None:
    mesh = loaded(textured).geometry
    at = to_frame(scene)
    uv = np.concatenate([part.visual.uv[part.faces].mean(1) for part in mesh.values()])
    picture = np.asarray(next(iter(mesh.values())).visual.material.baseColorTexture)
    row = ((1 - uv[:, 1]) * len(picture)).astype(int)
    have = picture[row, (uv[:, 0] * len(picture)).astype(int)][:, :3]
    expected = 255 * shapes.colors(at.vertices[at.faces].mean(1))[:, :3]
    assert np.abs(have - expected).mean() < 6


def test_an_untextured_file_has_a_neutral_material(scene: Scene) -> None:
    content = retexture.untextured_glb(scene, to_frame(scene), extras={"a": 1}, generator="test")
    document, _ = opened(content)
    assert document["asset"] == {"version": "2.0", "generator": "test", "extras": {"a": 1}}
    assert "images" not in document
    assert khronos.messages(content) == []


def test_normals_are_created_only_for_smooth_scenes() -> None:
    for file_type in ("obj", "stl"):
        scene = read_scene(as_bytes(egg(), file_type))
        content = retexture.untextured_glb(scene, to_frame(scene), extras={}, generator="test")
        attributes = opened(content)[0]["meshes"][0]["primitives"][0]["attributes"]
        has_normals = scene.is_smooth or scene.parts[0].normals is not None
        assert ("NORMAL" in attributes) == has_normals
