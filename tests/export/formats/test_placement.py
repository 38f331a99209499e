"""Files whose model is turned, scaled and moved, read by another program."""

from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import khronos, models, shapes
from tests.support.glb_files import opened
from tests.support.meshes import as_bytes, two_nodes
from trellis2_server import export
from trellis2_server.errors import ExportError
from trellis2_server.export import formats, retexture
from trellis2_server.export.formats.model import read_model
from trellis2_server.export.formats.placement import place
from trellis2_server.export.gltf import set_asset
from trellis2_server.inputs.meshes import read_scene, to_model_frame
from trellis2_server.mesh import Mesh
from trellis2_server.parameters import PlacedFile, Placement

if TYPE_CHECKING:
    from pathlib import Path

    from trellis2_server.parameters import FileType

trimesh = pytest.importorskip("trimesh")

#: Width, height and depth of the model, and where its middle is; Y up.
SIZE, MIDDLE = (0.2, 0.8, 0.4), (0.1, -0.05, 0.02)
#: A mark on the upper part of the front.
MARK = (0.1, 0.3, 0.25)


@pytest.fixture(scope="module")
def glb() -> bytes:
    box = trimesh.creation.box(SIZE)
    box.apply_translation(MIDDLE)
    mark = trimesh.creation.box((0.02, 0.02, 0.1))
    mark.apply_translation(MARK)
    whole = trimesh.util.concatenate([box, mark])
    x, y, z = whole.vertices.T
    mesh = Mesh(np.stack([x, -z, y], 1).astype("f4"), whole.faces.astype("i4"))
    return export.untextured_glb(mesh)


def read(content: bytes, file_type: str) -> Any:
    if file_type == "3mf":
        threemf = pytest.importorskip("tests.support.threemf")
        return trimesh.util.concatenate(
            [threemf.arrays(mesh) for mesh in threemf.meshes(threemf.opened(content))]
        )
    return trimesh.load(io.BytesIO(content), file_type=file_type, force="mesh")


@pytest.mark.parametrize("file_type", ["stl", "3mf"])
def test_files_to_print_stand_upright_on_the_bed_and_are_100_mm_high(
    glb: bytes, file_type: FileType
) -> None:
    low, high = read(formats.convert(glb, file_type), file_type).bounds
    assert high[2] - low[2] == pytest.approx(100, rel=1e-5)
    assert low[2] == pytest.approx(0, abs=1e-4)
    np.testing.assert_allclose(high + low, [0, 0, 100], atol=1e-4)
    scale = 100 / 0.8
    assert high[0] - low[0] == pytest.approx(0.2 * scale, rel=1e-5)
    # The mark, in front of the rest, is at -Y: the front of a slicer's bed.
    assert high[1] - low[1] == pytest.approx((0.2 + 0.28) * scale, rel=1e-5)


def test_other_files_have_the_frame_and_the_size_of_the_glb(glb: bytes) -> None:
    for file_type in ("obj", "ply"):
        np.testing.assert_allclose(
            read(formats.convert(glb, file_type), file_type).bounds,
            read(glb, "glb").bounds,
            atol=1e-6,
        )


@pytest.mark.parametrize("file_type", ["obj", "ply", "stl"])
@pytest.mark.parametrize("origin", [None, "center", "floor"])
@pytest.mark.parametrize("up_axis", ["y", "z"])
def test_a_file_is_placed_as_asked(
    glb: bytes, file_type: FileType, origin: Any, up_axis: Any
) -> None:
    form = PlacedFile(file_type, Placement(up_axis, 40.0, origin))
    mesh = read(formats.convert(glb, form), file_type)
    up = "xyz".index(up_axis)
    assert mesh.volume > 0
    assert mesh.extents[up] == pytest.approx(40, rel=1e-5)
    if origin == "center":
        np.testing.assert_allclose(mesh.bounds.sum(0), 0, atol=1e-4)
    elif origin == "floor":
        assert mesh.bounds[0, up] == pytest.approx(0, abs=1e-5)
    else:
        expected = np.array([0.1, -0.05, 0.06]) * 50  # the mark moves the middle
        expected = expected if up_axis == "y" else expected[[0, 2, 1]] * [1, -1, 1]
        np.testing.assert_allclose(mesh.bounds.mean(0), expected, atol=1e-3)


@pytest.mark.parametrize("up_axis", ["y", "z"])
def test_a_mesh_with_z_up_is_turned_to_the_axis_of_the_file(glb: bytes, up_axis: Any) -> None:
    """The GLB of a mesh that a client sent with Z up has it as it was sent."""
    box = trimesh.load(io.BytesIO(glb), file_type="glb", force="mesh")
    turn = [[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    standing = box.copy().apply_transform(turn).export(file_type="glb")
    standing = set_asset(standing, extras={"up_axis": "z"}, generator="test")
    turned, expected = (
        place(read_model(content), Placement(up_axis, 40.0, "floor"))
        for content in (standing, box.export(file_type="glb"))
    )
    assert turned.up_axis == expected.up_axis == up_axis
    np.testing.assert_allclose(
        turned.positions[turned.faces], expected.positions[expected.faces], atol=1e-5
    )
    np.testing.assert_allclose(
        turned.normals[turned.normal_faces], expected.normals[expected.normal_faces], atol=1e-6
    )


@pytest.mark.parametrize("compress", [None, "meshopt", "draco"])
def test_the_floor_of_a_glb_with_z_up_is_below_it(compress: Any) -> None:
    scene = read_scene(as_bytes(two_nodes(), "glb"))
    low, high = (getattr(scene.merge()[0], name)(axis=0) for name in ("min", "max"))
    glb = retexture.untextured_glb(
        scene, to_model_frame(scene), extras={"up_axis": "z"}, generator="test", compress=compress
    )
    content = formats.convert(glb, PlacedFile("glb", Placement("y", 3.0, "floor")))
    placed = read_scene(content).merge()[0]
    scale = 3 / (high - low).max()
    expected = np.array([low, high]) - [*(low + high)[:2] / 2, low[2]]
    np.testing.assert_allclose(
        [placed.min(axis=0), placed.max(axis=0)], expected * scale, atol=1e-3
    )


@pytest.mark.parametrize("compress", [None, "meshopt", "draco"])
def test_a_glb_is_scaled_and_moved_by_a_root(compress: Any) -> None:
    mesh = Mesh(
        np.array([[0, 0, 0], [1, 0, 0], [0, 0, 2], [0, 0.5, 0]], "f4"),
        np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], "i4"),
    )
    plain = export.untextured_glb(mesh, compress=compress)
    content = formats.convert(plain, PlacedFile("glb", Placement("y", 3.0, "floor")))
    about = khronos.messages(content)
    assert about == khronos.messages(plain)  # it does not know the compressions
    assert not (about and compress is None)
    document, binary = opened(content)
    assert binary == opened(plain)[1]
    [root] = [document["nodes"][at] for at in document["scenes"][0]["nodes"]]
    np.testing.assert_allclose(root["scale"], 1.5, rtol=1e-3)
    np.testing.assert_allclose(root["translation"], [-0.75, 0, 0.375], atol=1e-3)
    if compress is None:
        np.testing.assert_allclose(
            read(content, "glb").bounds, [[-0.75, 0, -0.375], [0.75, 3, 0.375]], atol=1e-6
        )


@pytest.mark.parametrize("texture_format", ["auto", "png", "webp"])
def test_gltf_with_files_of_its_own_is_the_same_model(tmp_path: Path, texture_format: Any) -> None:
    mesh = export.prepare(shapes.torus(), decimation_target=1000)
    glb = export.textured_glb(
        mesh, shapes.field(24), texture_size=64, texture_format=texture_format
    )
    content = formats.convert(glb, PlacedFile("gltf_zip", Placement("y", 2.0)))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path)
        names = archive.namelist()
    ending = {"auto": "jpg"}.get(texture_format, texture_format)
    pictures = [f"base_color.{ending}", f"metallic_roughness.{ending}"]
    assert names == ["model.gltf", "model.bin", *pictures]
    assert khronos.messages((tmp_path / "model.gltf").read_bytes(), tmp_path) == khronos.messages(
        formats.convert(glb, PlacedFile("glb", Placement("y", 2.0)))
    )
    if texture_format == "webp":
        return  # trimesh does not read it
    whole, expected = (
        trimesh.load(path, file_type=kind, force="mesh", process=False)
        for path, kind in ((tmp_path / "model.gltf", "gltf"), (io.BytesIO(glb), "glb"))
    )
    np.testing.assert_array_equal(whole.faces, expected.faces)
    np.testing.assert_allclose(whole.extents.max(), 2, rtol=1e-5)
    scale = 2 / expected.extents.max()
    np.testing.assert_allclose(whole.vertices, expected.vertices * scale, atol=1e-5)
    for ours, theirs in zip(
        (whole.visual.material.baseColorTexture, whole.visual.material.metallicRoughnessTexture),
        (
            expected.visual.material.baseColorTexture,
            expected.visual.material.metallicRoughnessTexture,
        ),
        strict=True,
    ):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


@given(
    st.lists(st.tuples(*[st.floats(-1, 1, width=32)] * 3), min_size=3, max_size=9, unique=True),
    st.sampled_from(["y", "z"]),
    st.floats(0.1, 1000),
    st.sampled_from([None, "center", "floor"]),
)
def test_every_model_has_its_size_and_its_origin(
    points: list[Any], up_axis: Any, size: float, origin: Any
) -> None:
    positions = np.array(points, np.float32)
    made = models.model(positions, np.array([[0, 1, 2]]))
    placed = place(made, Placement(up_axis, size, origin)).positions
    extents = np.ptp(placed.astype(float), axis=0)
    if np.ptp(positions, axis=0).max() > 1e-3:
        assert extents.max() == pytest.approx(size, rel=1e-3)
    up = "xyz".index(up_axis)
    if origin == "floor":
        assert placed[:, up].min() == pytest.approx(0, abs=1e-3 * max(size, 1))
    if origin == "center":
        np.testing.assert_allclose(
            placed.min(0) + placed.max(0), 0, atol=2e-3 * max(extents.max(), 1)
        )


def test_a_place_beyond_the_range_of_numbers_is_an_error(glb: bytes) -> None:
    with pytest.raises(ExportError, match="cannot be written as obj"):
        formats.convert(glb, PlacedFile("obj", Placement(size=7.1e38, origin="center")))
    assert formats.convert(glb, PlacedFile("obj", Placement(size=3e38, origin="center")))


def test_a_model_of_any_unit_gets_the_size_that_is_asked_for() -> None:
    for edge in (1e-39, 1e-30, 1e30):
        scene = read_scene(
            f"v 0 0 0\nv {edge} 0 0\nv 0 {edge} 0\nv 0 0 {edge / 2}\nf 1 2 3\nf 1 3 4\n".encode()
        )
        made = retexture.untextured_glb(scene, to_model_frame(scene), extras={}, generator="test")
        model = read_model(made)
        placed = place(model, Placement("y", 100, "floor")).positions
        assert np.ptp(placed, axis=0) == pytest.approx([100, 100, 50], rel=1e-4), edge


def test_gltf_with_files_of_its_own_has_all_levels_at_their_place(tmp_path: Path) -> None:
    mesh = export.prepare(shapes.torus(), decimation_target=1000)
    glb = export.textured_glb(mesh, shapes.field(24), texture_size=64, lods=(400, 150))
    content = formats.convert(glb, PlacedFile("gltf_zip", Placement("y", 2.0)))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(tmp_path)
    document = json.loads((tmp_path / "model.gltf").read_text("utf-8"))
    assert (tmp_path / "model.bin").stat().st_size == document["buffers"][0]["byteLength"]
    assert document["nodes"][0]["extensions"]["MSFT_lod"]["ids"] == [1, 2]
    ((scale, *_),) = {tuple(node["scale"]) for node in document["nodes"]}
    positions = read_model(glb).positions
    assert np.ptp(positions, axis=0).max() * scale == pytest.approx(2, rel=1e-5)
    assert khronos.messages((tmp_path / "model.gltf").read_bytes(), tmp_path) == khronos.messages(
        formats.convert(glb, PlacedFile("glb", Placement("y", 2.0)))
    )
