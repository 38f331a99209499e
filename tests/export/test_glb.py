from __future__ import annotations

import io
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support import khronos, shapes
from trellis2_server import export
from trellis2_server.errors import ExportError, MissingPackageError
from trellis2_server.export.chunks import pieces
from trellis2_server.mesh import Mesh, VoxelField

trimesh = pytest.importorskip("trimesh")

FACES = 2500


@pytest.fixture(scope="module")
def field() -> VoxelField:
    return shapes.field()


def prepared(shape: str) -> Mesh:
    return export.prepare(shapes.ALL[shape](), decimation_target=FACES)


def opened(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON and the binary chunk, after a look at the container."""
    magic, version, length = struct.unpack_from("<4sII", content)
    assert (magic, version, length) == (b"glTF", 2, len(content))
    size, kind = struct.unpack_from("<I4s", content, 12)
    assert kind == b"JSON"
    assert size % 4 == 0
    document = json.loads(content[20 : 20 + size])
    binary, kind = struct.unpack_from("<I4s", content, 20 + size)
    assert kind == b"BIN\0"
    assert 28 + size + binary == len(content)
    assert binary == document["buffers"][0]["byteLength"]
    return document, content[28 + size :]


def loaded(content: bytes) -> Any:
    scene = trimesh.load(io.BytesIO(content), file_type="glb", process=False)
    (mesh,) = scene.geometry.values()
    return mesh


def gltf(points: np.ndarray) -> np.ndarray:
    return np.stack([points[:, 0], points[:, 2], -points[:, 1]], 1)


@pytest.mark.parametrize("shape", shapes.ALL)
def test_an_untextured_file_holds_the_mesh(shape: str) -> None:
    mesh = prepared(shape)
    content = export.untextured_glb(mesh)
    again = loaded(content)
    np.testing.assert_array_equal(again.vertices, gltf(mesh.vertices))
    np.testing.assert_array_equal(again.faces, mesh.faces)
    np.testing.assert_allclose(np.linalg.norm(again.vertex_normals, axis=1), 1, atol=1e-5)
    assert khronos.messages(content) == []


@pytest.mark.parametrize("shape", shapes.ALL)
def test_a_textured_file_holds_the_mesh_and_its_colours(shape: str, field: VoxelField) -> None:
    mesh = prepared(shape)
    content = export.textured_glb(mesh, field, texture_size=512)
    again = loaded(content)
    np.testing.assert_array_equal(
        np.asarray(again.vertices)[again.faces], gltf(mesh.vertices)[mesh.faces]
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


def test_normals_of_a_sphere_point_outward() -> None:
    again = loaded(export.untextured_glb(shapes.sphere()))
    outward = again.vertices / np.linalg.norm(again.vertices, axis=1, keepdims=True)
    assert ((again.vertex_normals * outward).sum(1) > 0.999).all()


def test_the_front_of_the_model_faces_forward_in_the_file() -> None:
    mesh = Mesh(
        np.array([[0, -0.5, 0], [0.1, 0, 0.3], [0.2, 0, 0]], np.float32),
        np.array([[0, 1, 2]], np.int32),
    )
    again = loaded(export.untextured_glb(mesh))
    np.testing.assert_allclose(again.vertices, [[0, 0, 0.5], [0.1, 0.3, 0], [0.2, 0, 0]])


def test_what_the_file_says_about_itself_is_written() -> None:
    content = export.untextured_glb(
        shapes.sphere(4), extras={"seed": 7, "engine": "Größe"}, generator="somebody 1.0"
    )
    asset = opened(content)[0]["asset"]
    assert asset["generator"] == "somebody 1.0"
    assert asset["extras"] == {"seed": 7, "engine": "Größe"}
    assert khronos.messages(content) == []


def test_an_editor_shows_a_good_name(field: VoxelField) -> None:
    document, _ = opened(export.textured_glb(shapes.sphere(4), field, texture_size=64))
    for kind in ("nodes", "meshes", "materials"):
        assert [item["name"] for item in document[kind]] == ["model"]


def test_extras_that_are_no_json_are_refused() -> None:
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


def test_a_mesh_of_many_vertices_gets_wide_indices() -> None:
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


def test_meshopt_s_triangles_come_back(field: VoxelField) -> None:
    mesh = prepared("noisy_blob")
    try:
        content = export.textured_glb(mesh, field, texture_size=128, compress="meshopt")
    except MissingPackageError as error:
        pytest.skip(str(error))
    assert [m["code"] for m in khronos.messages(content)] == ["UNSUPPORTED_EXTENSION"]
    decoder = pytest.importorskip("meshoptimizer")
    document, binary = opened(content)
    primitive = document["meshes"][0]["primitives"][0]

    def unpacked(index: int, width: int, kind: str) -> np.ndarray:
        accessor = document["accessors"][index]
        view = document["bufferViews"][accessor["bufferView"]]
        packed = view["extensions"]["EXT_meshopt_compression"]
        data = binary[packed["byteOffset"] : packed["byteOffset"] + packed["byteLength"]]
        if packed["mode"] == "TRIANGLES":
            return decoder.decode_index_buffer(accessor["count"], 4, data)
        raw = decoder.decode_vertex_buffer(accessor["count"], packed["byteStride"], data)
        return np.frombuffer(np.ascontiguousarray(raw).tobytes(), kind).reshape(-1, width)

    positions = unpacked(primitive["attributes"]["POSITION"], 4, "<i2")[:, :3] / 32767
    faces = np.asarray(
        unpacked(primitive["indices"], 1, "<u2")
    ).reshape(-1, 3)  # fmt: skip
    assert len(faces) == len(mesh.faces)
    same_triangles(positions[faces], gltf(mesh.vertices)[mesh.faces])


def test_draco_s_triangles_come_back(field: VoxelField) -> None:
    mesh = prepared("noisy_blob")
    try:
        content = export.textured_glb(mesh, field, texture_size=128, compress="draco")
    except MissingPackageError as error:
        pytest.skip(str(error))
    # The validator does not read Draco, so it sees nobody use the view either.
    codes = [m["code"] for m in khronos.messages(content)]
    assert codes == ["UNSUPPORTED_EXTENSION", "UNUSED_OBJECT"]
    decoder = pytest.importorskip("DracoPy")
    document, binary = opened(content)
    primitive = document["meshes"][0]["primitives"][0]
    packed = primitive["extensions"]["KHR_draco_mesh_compression"]
    view = document["bufferViews"][packed["bufferView"]]
    result = decoder.decode(binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]])
    by_id = {item["unique_id"]: item["data"] for item in result.attributes}
    position = by_id[packed["attributes"]["POSITION"]]
    accessor = document["accessors"][primitive["attributes"]["POSITION"]]
    assert accessor["count"] == len(position)
    np.testing.assert_allclose(accessor["min"], position.min(0))
    np.testing.assert_allclose(accessor["max"], position.max(0))
    assert by_id[packed["attributes"]["NORMAL"]].shape == (len(position), 3)
    assert by_id[packed["attributes"]["TEXCOORD_0"]].shape == (len(position), 2)
    assert document["accessors"][primitive["indices"]]["count"] == 3 * len(result.faces)
    same_triangles(position[result.faces], gltf(mesh.vertices)[mesh.faces])


def same_triangles(ours: np.ndarray, wanted: np.ndarray) -> None:
    """Compare triangles in any order, by their middles and their normals."""
    from scipy.spatial import cKDTree

    distance, match = cKDTree(wanted.mean(1)).query(ours.mean(1))
    assert distance.max() < 1e-4
    assert len(np.unique(match)) == len(ours)
    normal, other = (np.cross(t[:, 1] - t[:, 0], t[:, 2] - t[:, 0]) for t in (ours, wanted[match]))
    assert (normal * other).sum() > 0.99 * np.linalg.norm(other, axis=1) @ np.linalg.norm(
        normal, axis=1
    )


@pytest.mark.parametrize("count", [0, 1, 87_381, 87_382, 300_000])
def test_an_array_of_any_size_is_copied_a_mebibyte_at_a_time(count: int) -> None:
    array = np.arange(3 * count, dtype=np.uint32).reshape(count, 3)
    parts = pieces(array)
    assert b"".join(parts) == array.tobytes()
    assert all(len(part) <= 1 << 20 for part in parts)
