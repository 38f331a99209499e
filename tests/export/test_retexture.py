from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.support import khronos, shapes
from tests.support.glb_files import opened
from tests.support.meshes import as_bytes, egg, two_nodes
from trellis2_server.export import retexture
from trellis2_server.export.formats import convert
from trellis2_server.inputs.meshes import Glb, Part, Scene, read_scene
from trellis2_server.inputs.meshes import to_model_frame as to_frame
from trellis2_server.parameters import PlacedFile, default_placement

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


def test_occlusion_is_baked_for_all_parts(scene: Scene) -> None:
    content = retexture.textured_glb(
        scene,
        to_frame(scene),
        shapes.field(24),
        texture_size=64,
        occlusion=True,
        extras={},
        generator="test",
    )
    assert khronos.messages(content) == []
    materials = Glb(content).json["materials"]
    assert [each["occlusionTexture"] for each in materials] == [{"index": 1}]


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


def many_parts(count: int) -> Scene:
    """Return small triangles beside each other, each an object of its own."""
    return read_scene(
        b"".join(
            b"o %d\nv %d 0 0\nv %d 1 0\nv %d 0 1\nf -3 -2 -1\n" % (at, 2 * at, 2 * at + 1, 2 * at)
            for at in range(count)
        )
    )


@pytest.mark.parametrize("kind", ["untextured", "textured"])
def test_many_parts_take_as_many_loops_and_buffer_views_as_two(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """10,000 parts took a second of Python, in which no other thread ran."""
    calls: list[str] = []

    def counted(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            calls.append(function.__name__)
            return function(*arguments)

        return call

    for name in ("smooth_normals", "pair_rows", "checked_mesh", "are_mirrored"):
        monkeypatch.setattr(retexture, name, counted(getattr(retexture, name)))
    found: list[tuple[int, int]] = []
    for count in (2, 300):
        calls.clear()
        scene = many_parts(count)
        common: Any = {"extras": {}, "generator": "test"}
        if kind == "textured":
            content = retexture.textured_glb(
                scene, to_frame(scene), shapes.field(24), texture_size=128, **common
            )
        else:
            content = retexture.untextured_glb(scene, to_frame(scene), **common)
        document, _ = opened(content)
        assert len(document["meshes"]) == count
        found.append((len(calls), len(document["bufferViews"])))
        assert khronos.messages(content) == []
    assert found[0] == found[1]


def mixed() -> Scene:
    """Return parts with and without normals, mirrored and not, one with many vertices."""
    random = np.random.default_rng(0)
    parts: list[Part] = []
    for at, (vertices, has_normals, is_mirrored) in enumerate(
        [(30, True, False), (33, False, True), (66_000, False, False), (9, True, True)]
    ):
        rows = (random.random((vertices, 3)) * 0.01).astype(np.float32)
        normals = rows / np.linalg.norm(rows, axis=1, keepdims=True) if has_normals else None
        placement = np.eye(4)
        placement[0, 0] = -1 if is_mirrored else 1
        placement[:3, 3] = random.random(3)
        faces = np.arange(vertices, dtype=np.int32)[: 3 * 11].reshape(-1, 3)
        parts.append(Part(at // 2, rows, normals, None, faces, placement))
    nodes = ({"mesh": 0}, {"mesh": 1})
    return Scene(tuple(parts), nodes, (0, 1), ("a", None))


@pytest.mark.parametrize("shading", ["flat", "smooth"])
def test_each_part_keeps_what_it_has(shading: str) -> None:
    is_smooth = shading == "smooth"
    scene = replace(mixed(), is_smooth=is_smooth)
    common: Any = {"extras": {}, "generator": "test"}
    files = (
        retexture.untextured_glb(scene, to_frame(scene), **common),
        retexture.textured_glb(
            scene, to_frame(scene), shapes.field(24), texture_size=256, **common
        ),
    )
    for content in files:
        again = read_scene(content)
        assert [part.mesh for part in again.parts] == [0, 0, 1, 1]
        assert again.meshes == ("a", None)
        for part, known in zip(again.parts, scene.parts, strict=True):
            np.testing.assert_array_equal(part.positions[part.faces], known.positions[known.faces])
            assert (part.normals is not None) == (is_smooth or known.normals is not None)
            if part.normals is not None and known.normals is not None:
                np.testing.assert_allclose(
                    part.normals[part.faces], known.normals[known.faces], atol=1e-6
                )
    assert all(part.uv is not None for part in read_scene(files[1]).parts)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("scale", [1e-35, 1e-20, 1e-12, 1e-4, 1e3, 1e19, 1e21, 1e37])
def test_normals_are_right_in_files_of_any_unit(scale: float) -> None:
    mesh = egg()
    lines = [f"v {x!r} {y!r} {z!r}" for x, y, z in (mesh.vertices * scale).tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (mesh.faces + 1).tolist()]
    scene = read_scene("\n".join(lines).encode())
    glb = retexture.untextured_glb(scene, to_frame(scene), extras={}, generator="test")
    [part] = read_scene(glb, is_own=True).parts
    assert part.normals is not None
    outward = part.positions.astype(np.float64) / scale
    assert np.einsum("nd,nd->n", part.normals, outward).min() > 0.4
    unscaled = replace(default_placement("stl"), size=None)
    stl = convert(glb, PlacedFile("stl", unscaled))
    row = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("flags", "<u2")])
    rows = np.frombuffer(stl, row, -1, 84)
    assert np.linalg.norm(rows["normal"], axis=1) == pytest.approx(1, abs=1e-6)
