from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support import khronos, shapes
from tests.support.glb_files import opened, to_gltf
from trellis2_server import export
from trellis2_server.errors import ExportError
from trellis2_server.export import glb
from trellis2_server.export.geometry import geometry
from trellis2_server.export.material import NEUTRAL
from trellis2_server.inputs.meshes import Glb

if TYPE_CHECKING:
    from trellis2_server.mesh import Mesh, VoxelField

trimesh = pytest.importorskip("trimesh")

FACES = 2500


@pytest.fixture(scope="module")
def field() -> VoxelField:
    return shapes.field()


def prepared(shape: str) -> Mesh:
    return export.prepare(shapes.ALL[shape](), decimation_target=FACES)


def loaded(content: bytes) -> Any:
    scene = trimesh.load(io.BytesIO(content), file_type="glb", process=False)
    (mesh,) = scene.geometry.values()
    return mesh


@pytest.mark.parametrize("shape", shapes.ALL)
def test_an_untextured_file_contains_the_mesh(shape: str) -> None:
    mesh = prepared(shape)
    content = export.untextured_glb(mesh)
    again = loaded(content)
    np.testing.assert_array_equal(again.vertices, to_gltf(mesh.vertices))
    np.testing.assert_array_equal(again.faces, mesh.faces)
    np.testing.assert_allclose(np.linalg.norm(again.vertex_normals, axis=1), 1, atol=1e-5)
    assert khronos.messages(content) == []


@pytest.mark.parametrize("shape", shapes.ALL)
def test_a_textured_file_contains_the_mesh_and_its_colours(shape: str, field: VoxelField) -> None:
    mesh = prepared(shape)
    content = export.textured_glb(mesh, field, texture_size=512)
    again = loaded(content)
    np.testing.assert_array_equal(
        np.asarray(again.vertices)[again.faces], to_gltf(mesh.vertices)[mesh.faces]
    )
    assert khronos.messages(content) == []
    weight = np.random.default_rng(0).dirichlet([4, 4, 4], len(mesh.faces))[..., None]
    uv = (np.asarray(again.visual.uv)[again.faces] * weight).sum(1)
    place = (mesh.vertices[mesh.faces] * weight).sum(1)
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    material = again.visual.material
    wanted = 255 * shapes.colors(place)
    base = read(material.baseColorTexture, uv)
    assert psnr(base[:, :3] - wanted[:, :3], area) > 34
    linear = read(material.metallicRoughnessTexture, uv)
    assert psnr(linear[:, [2, 1]] - wanted[:, [3, 4]], area) > 34


def read(picture: Image.Image, uv: np.ndarray) -> np.ndarray:
    pixels = np.asarray(picture).astype(float)
    x = np.clip(uv[:, 0] * pixels.shape[1], 0, pixels.shape[1] - 1).astype(int)
    y = np.clip((1 - uv[:, 1]) * pixels.shape[0], 0, pixels.shape[0] - 1).astype(int)
    return pixels[y, x]


def psnr(error: np.ndarray, area: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.average((error**2).mean(1), weights=area)))


@pytest.mark.parametrize(
    ("shape", "is_double"),
    [("torus", False), ("links", False), ("thin_box", False), ("sheet", True), ("moebius", True)],
)
def test_only_a_surface_without_an_outside_is_double_sided(shape: str, is_double: bool) -> None:  # noqa: FBT001
    document, _ = opened(export.untextured_glb(prepared(shape)))
    assert document["materials"][0].get("doubleSided", False) == is_double


def test_generator_and_extras_are_written() -> None:
    content = export.untextured_glb(
        shapes.sphere(4), extras={"seed": 7, "engine": "Größe"}, generator="program 1.0"
    )
    asset = opened(content)[0]["asset"]
    assert asset["generator"] == "program 1.0"
    assert asset["extras"] == {"seed": 7, "engine": "Größe"}
    assert khronos.messages(content) == []


def test_node_mesh_and_material_have_a_name(field: VoxelField) -> None:
    document, _ = opened(export.textured_glb(shapes.sphere(4), field, texture_size=64))
    for kind in ("nodes", "meshes", "materials"):
        assert [item["name"] for item in document[kind]] == ["model"]


def test_extras_that_are_not_json_are_an_error() -> None:
    for extras in ({"a": object()}, {"a": float("nan")}):
        with pytest.raises(ExportError, match="JSON"):
            export.untextured_glb(shapes.sphere(4), extras=extras)


@settings(deadline=None, max_examples=20)
@given(
    st.integers(1, 12),
    st.dictionaries(st.text(max_size=5), st.integers() | st.text() | st.none(), max_size=4),
)
def test_any_small_mesh_is_packed_into_an_aligned_container(
    rows: int, extras: dict[str, object]
) -> None:
    mesh = shapes.sphere(rows)
    document, binary = opened(export.untextured_glb(mesh, extras=extras))
    assert document["asset"].get("extras", {}) == extras
    for view in document["bufferViews"]:
        assert view["byteOffset"] % 4 == 0
        assert view["byteOffset"] + view["byteLength"] <= len(binary)
    view = document["bufferViews"][document["meshes"][0]["primitives"][0]["indices"]]
    indices = np.frombuffer(binary, "<u2", mesh.faces.size, view["byteOffset"])
    np.testing.assert_array_equal(indices.reshape(-1, 3), mesh.faces)


def test_a_mesh_with_many_vertices_has_32_bit_indices() -> None:
    document, _ = opened(export.untextured_glb(shapes.torus(300, 220)))
    assert document["accessors"][-1]["componentType"] == 5125


@pytest.mark.parametrize("alpha_mode", ["OPAQUE", "MASK", "BLEND"])
@pytest.mark.parametrize("texture_format", ["auto", "png", "jpeg", "webp"])
def test_every_format_and_alpha_mode_is_valid(
    alpha_mode: Any, texture_format: Any, field: VoxelField
) -> None:
    content = export.textured_glb(
        shapes.torus(), field, texture_size=128,
        alpha_mode=alpha_mode, texture_format=texture_format,
    )  # fmt: skip
    assert khronos.messages(content) == []
    document, binary = opened(content)
    assert document["materials"][0].get("alphaMode", "OPAQUE") == alpha_mode
    for image in document["images"]:
        view = document["bufferViews"][image["bufferView"]]
        start = view["byteOffset"]
        with Image.open(io.BytesIO(binary[start : start + view["byteLength"]])) as picture:
            assert picture.size == (128, 128)
            assert picture.get_format_mimetype() == image["mimeType"]
    uses_webp = any(image["mimeType"] == "image/webp" for image in document["images"])
    assert ("EXT_texture_webp" in document.get("extensionsRequired", [])) == uses_webp


def test_a_model_without_textures_has_the_factors_of_its_material() -> None:
    document, _ = opened(export.untextured_glb(shapes.sphere(4)))
    (material,) = document["materials"]
    assert material["pbrMetallicRoughness"] == {
        "baseColorFactor": list(NEUTRAL.color),
        "metallicFactor": NEUTRAL.metallic,
        "roughnessFactor": NEUTRAL.roughness,
    }
    assert not set(material) & {"alphaMode", "doubleSided"}


def test_factors_of_one_are_left_out(field: VoxelField) -> None:
    document, _ = opened(export.textured_glb(shapes.sphere(4), field, texture_size=64))
    (material,) = document["materials"]
    assert set(material["pbrMetallicRoughness"]) == {
        "baseColorTexture",
        "metallicRoughnessTexture",
    }


@pytest.mark.parametrize("count", [0, 1, 3])
def test_levels_of_detail_are_nodes_with_meshes_of_their_own(count: int) -> None:
    shapes_of_levels = [geometry(shapes.sphere(rings)) for rings in (8, 6, 4, 3)[: count + 1]]
    content = glb.pack(
        shapes_of_levels[0], NEUTRAL, extras={}, generator="test", coarser=shapes_of_levels[1:]
    )
    document = Glb(content).json
    nodes, meshes = document["nodes"], document["meshes"]
    names = ["model", *(f"model_lod{number}" for number in range(1, count + 1))]
    assert [node["name"] for node in nodes] == [mesh["name"] for mesh in meshes] == names
    assert [node["mesh"] for node in nodes] == list(range(count + 1))
    assert document["scenes"] == [{"nodes": [0]}]
    assert len(document["materials"]) == 1
    for mesh, level in zip(meshes, shapes_of_levels, strict=True):
        [primitive] = mesh["primitives"]
        assert primitive["material"] == 0
        accessors = document["accessors"]
        assert accessors[primitive["indices"]]["count"] == level.faces.size
        assert accessors[primitive["attributes"]["POSITION"]]["count"] == len(level.positions)
    assert ("extensionsUsed" in document) == (count > 0)
    if count:
        assert nodes[0]["extensions"] == {"MSFT_lod": {"ids": list(range(1, count + 1))}}
        sizes = [len(level.faces) for level in shapes_of_levels]
        wanted = [0.5 * (size / sizes[0]) ** 0.5 for size in sizes[1:]]
        *coverage, last = nodes[0]["extras"]["MSFT_screencoverage"]
        assert coverage == pytest.approx(wanted, abs=1e-4)
        assert last == 0
