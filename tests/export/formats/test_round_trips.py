"""Models that another program reads back: what it sees is what was written."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.support.meshes import as_bytes, two_nodes
from trellis2_server.export import formats, retexture
from trellis2_server.export.formats.model import Model, read_model
from trellis2_server.export.formats.obj import write_obj, write_obj_zip
from trellis2_server.export.formats.ply import write_ply
from trellis2_server.export.geometry import GltfGeometry
from trellis2_server.export.glb import pack
from trellis2_server.export.material import Image as EncodedImage
from trellis2_server.export.material import Material
from trellis2_server.inputs.meshes import read_scene, to_model_frame

if TYPE_CHECKING:
    from pathlib import Path

    from trellis2_server.export.formats import FileType

trimesh = pytest.importorskip("trimesh")

#: Another colour in each quarter, from the upper left one, row by row.
COLORS = [(250, 10, 20, 255), (30, 240, 40, 255), (50, 60, 230, 255), (220, 210, 70, 255)]
#: The same for metallic and roughness: R, G and B differ.
SURFACES = [(1, 11, 101), (2, 42, 132), (3, 73, 163), (4, 94, 194)]
#: Texture coordinates of glTF in the middle of each quarter.
MIDDLES = np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]], np.float32)
POSITIONS = np.array([[0, 0, 0], [3, 0, 0], [0, 2, 0], [3, 2, 1]], np.float32)
FACES = np.array([[0, 1, 2], [2, 1, 3]], np.int32)


def quarters(colors: list[Any], mode: str) -> Image.Image:
    picture = Image.new(mode, (16, 16))
    for at, color in enumerate(colors):
        column, row = 8 * (at % 2), 8 * (at // 2)
        picture.paste(color, (column, row, column + 8, row + 8))
    return picture


def encoded(picture: Image.Image) -> EncodedImage:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return EncodedImage("image/png", file.getvalue())


def model() -> Model:
    return Model(POSITIONS, MIDDLES, FACES, quarters(COLORS, "RGBA"), quarters(SURFACES, "RGB"))


def material_file(content: bytes) -> tuple[dict[str, str], dict[str, Image.Image]]:
    """The textures that the material of an OBJ names by keyword, and their pictures."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        lines = archive.read("model.mtl").decode().splitlines()
        textures = dict(line.split() for line in lines if line.startswith("map_"))
        pictures = {key: Image.open(archive.open(name)).copy() for key, name in textures.items()}
    return textures, pictures


def test_a_textured_obj_shows_each_vertex_the_colour_that_the_glb_does(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(write_obj_zip(model()))) as archive:
        archive.extractall(tmp_path)
    read = trimesh.load(tmp_path / "model.obj", process=False, maintain_order=True)
    colors = {
        tuple(place): tuple(color)
        for place, color in zip(
            read.vertices.tolist(), read.visual.to_color().vertex_colors.tolist(), strict=True
        )
    }
    assert colors == {
        tuple(place): color for place, color in zip(POSITIONS.tolist(), COLORS, strict=True)
    }


def test_the_material_of_an_obj_names_the_texture_of_each_property() -> None:
    _, pictures = material_file(write_obj_zip(model()))
    assert set(pictures) == {"map_Kd", "map_Pr", "map_Pm"}
    for key, band in (("map_Pr", 1), ("map_Pm", 2)):
        expected = np.array([each[band] for each in SURFACES]).reshape(2, 2)
        np.testing.assert_array_equal(np.asarray(pictures[key])[4::8, 4::8], expected)
    color = np.asarray(pictures["map_Kd"].convert("RGBA"))[4::8, 4::8].reshape(4, 4)
    assert color.tolist() == [list(each) for each in COLORS]


def test_an_obj_has_an_alpha_map_only_if_something_is_transparent() -> None:
    opaque = model()
    clear = [(*COLORS[0][:3], 254), *COLORS[1:]]
    transparent = Model(POSITIONS, MIDDLES, FACES, quarters(clear, "RGBA"), None)
    assert "map_d" not in material_file(write_obj_zip(opaque))[0]
    _, pictures = material_file(write_obj_zip(transparent))
    assert set(pictures) == {"map_Kd", "map_d"}
    assert np.asarray(pictures["map_d"])[4::8, 4::8].tolist() == [[254, 255], [255, 255]]


@pytest.mark.parametrize(("file_type", "write"), [("obj", write_obj), ("ply", write_ply)])
def test_colours_at_vertices_are_those_of_the_texture_there(file_type: str, write: Any) -> None:
    read = trimesh.load(
        io.BytesIO(write(model())), file_type=file_type, process=False, maintain_order=True
    )
    np.testing.assert_array_equal(read.vertices, POSITIONS)
    np.testing.assert_array_equal(read.faces, FACES)
    got = read.visual.vertex_colors[:, :3].astype(int)
    assert np.abs(got - np.array(COLORS)[:, :3]).max() <= 1


def test_a_model_is_read_from_its_glb_with_textures_the_right_way_round() -> None:
    expected = model()
    assert expected.base_color is not None
    assert expected.metal_rough is not None
    geometry = GltfGeometry(
        POSITIONS,
        np.tile(np.float32([0, 0, 1]), (4, 1)),
        MIDDLES,
        FACES.astype(np.uint32),
        is_double_sided=False,
    )
    material = Material(encoded(expected.base_color), encoded(expected.metal_rough))
    read = read_model(pack(geometry, material, extras={}, generator="test"))
    np.testing.assert_array_equal(read.positions, POSITIONS)
    np.testing.assert_array_equal(read.faces, FACES)
    np.testing.assert_array_equal(read.uv, MIDDLES)
    for ours, wanted in (
        (read.base_color, expected.base_color),
        (read.metal_rough, expected.metal_rough),
    ):
        assert ours is not None
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(wanted))


@pytest.mark.parametrize("file_type", ["obj", "ply", "stl"])
def test_mirrored_parts_are_right_side_out_in_every_format(file_type: FileType) -> None:
    scene = read_scene(as_bytes(two_nodes(), "glb"))
    assert [part.is_mirrored for part in scene.parts].count(True) == 1
    glb = retexture.untextured_glb(scene, to_model_frame(scene), extras={}, generator="test")
    read = trimesh.load(io.BytesIO(formats.convert(glb, file_type)), file_type=file_type)
    bodies = read.split()
    assert len(bodies) == 2
    assert all(body.volume > 0 for body in bodies)


def test_the_normals_of_an_stl_are_those_of_its_triangles() -> None:
    mesh = trimesh.creation.icosphere(1)
    faces = np.vstack([mesh.faces, [[5, 5, 6]]]).astype(np.int32)  # the last one has no area
    content = formats.stl.write_stl(Model(mesh.vertices.astype("f4"), None, faces, None, None))
    rows = np.frombuffer(content[84:], [("normal", "<f4", 3), ("corners", "<f4", 9), ("x", "<u2")])
    assert int.from_bytes(content[80:84], "little") == len(rows) == len(faces)
    np.testing.assert_allclose(rows["normal"][:-1], mesh.face_normals, atol=1e-6)
    assert rows["normal"][-1].tolist() == [0, 0, 0]
