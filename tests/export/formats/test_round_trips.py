"""Models that another program reads back: what it sees is what was written."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.support import models, shapes
from tests.support.meshes import as_bytes, two_nodes
from tests.support.models import encoded
from trellis2_server import export
from trellis2_server.export import formats, retexture
from trellis2_server.export.formats.colors import place_colors
from trellis2_server.export.formats.model import read_model
from trellis2_server.export.formats.obj import write_obj, write_obj_zip
from trellis2_server.export.formats.ply import write_ply
from trellis2_server.export.geometry import GltfGeometry
from trellis2_server.export.glb import pack
from trellis2_server.export.material import Material
from trellis2_server.inputs.meshes import read_scene, to_model_frame

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from trellis2_server.export.formats.model import Model
    from trellis2_server.parameters import FileType

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


def model() -> Model:
    pictures = quarters(COLORS, "RGBA"), quarters(SURFACES, "RGB")
    return models.model(POSITIONS, FACES, MIDDLES, *pictures)


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
    transparent = models.model(POSITIONS, FACES, MIDDLES, quarters(clear, "RGBA"))
    assert "map_d" not in material_file(write_obj_zip(opaque))[0]
    _, pictures = material_file(write_obj_zip(transparent))
    assert set(pictures) == {"map_Kd", "map_d"}
    assert np.asarray(pictures["map_d"])[4::8, 4::8].tolist() == [[254, 255], [255, 255]]


def halves(positions: NDArray[np.float32], picture: Image.Image) -> Model:
    """Return two faces with an edge in common, one in the left half of a picture, one right."""
    uv = np.array([[0.1, 0.1], [0.4, 0.1], [0.1, 0.9], [0.6, 0.9], [0.9, 0.1], [0.9, 0.9]])
    return dataclasses.replace(
        models.model(positions, FACES, None, None),
        uv=uv.astype(np.float32),
        uv_faces=np.array([[0, 1, 2], [3, 4, 5]], np.int32),
        material=Material(encoded(picture)),
    )


@pytest.mark.parametrize(("file_type", "write"), [("obj", write_obj), ("ply", write_ply)])
def test_colours_at_vertices_are_the_mean_of_those_around(file_type: str, write: Any) -> None:
    # A red and a green face, of equal area, share an edge; the texture has a seam there.
    picture = Image.new("RGBA", (16, 8), (255, 0, 0, 255))
    picture.paste((0, 255, 0, 255), (8, 0, 16, 8))
    flat = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], np.float32)
    made = halves(flat, picture)
    read = trimesh.load(
        io.BytesIO(write(made)), file_type=file_type, process=False, maintain_order=True
    )
    np.testing.assert_array_equal(read.vertices, flat)
    np.testing.assert_array_equal(read.faces, FACES)
    half = 188  # of the light
    expected = [[255, 0, 0], [half, half, 0], [half, half, 0], [0, 255, 0]]
    np.testing.assert_allclose(read.visual.vertex_colors[:, :3], expected, atol=1)
    np.testing.assert_allclose(read.vertex_normals, [[0, 0, 1]] * 4, atol=1e-6)


def test_a_texture_that_varies_within_faces_is_averaged() -> None:
    stripes = np.zeros((64, 64, 4), np.uint8)
    stripes[::2] = 255
    stripes[..., 3] = 255
    uv = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.float32)
    colors = place_colors(models.model(POSITIONS, FACES, uv, Image.fromarray(stripes)))
    assert colors is not None
    # Not black or white, as the texel at the vertex is.
    assert ((colors[:, 0] > 100) & (colors[:, 0] < 240)).any()


def test_what_is_clear_has_its_own_colour_where_nothing_else_is() -> None:
    # One face is red and clear, the other one, which shares an edge with it, green.
    picture = np.zeros((8, 16, 4), np.uint8)
    picture[:, :8] = 255, 0, 0, 0
    picture[:, 8:] = 0, 255, 0, 255
    colors = place_colors(halves(POSITIONS, Image.fromarray(picture)))
    assert colors is not None
    in_red, *in_both, in_green = colors.tolist()
    assert in_red == [255, 0, 0, 0]
    assert in_green == [0, 255, 0, 255]
    # Where both meet, that of the clear face shows in next to nothing.
    for red, green, _, alpha in in_both:
        assert green >= 254
        assert red <= 5
        assert 0 < alpha < 255


@pytest.mark.parametrize("file_type", ["obj", "ply", "obj_zip"])
def test_seams_of_the_texture_do_not_cut_the_surface(file_type: FileType) -> None:
    mesh = export.prepare(shapes.torus(), decimation_target=1000)
    glb = export.textured_glb(mesh, shapes.field(24), texture_size=64)
    content = formats.convert(glb, file_type)
    if file_type == "obj_zip":
        content = zipfile.ZipFile(io.BytesIO(content)).read("model.obj")
    if file_type == "ply":
        read = trimesh.load(io.BytesIO(content), file_type="ply", process=False)
        places, faces, normals = read.vertices, read.faces, read.vertex_normals[read.faces]
    else:
        lines = [line.split() for line in content.decode().splitlines()]
        places = np.array([line[1:4] for line in lines if line[0] == "v"], float)
        rows = np.array([line[1:] for line in lines if line[0] == "vn"], float)
        corners = [[part.split("/") for part in line[1:]] for line in lines if line[0] == "f"]
        faces = np.array([[int(part[0]) - 1 for part in face] for face in corners])
        normals = rows[[[int(part[2]) - 1 for part in face] for face in corners]]
    assert len(read_model(glb).uv) > len(mesh.vertices)  # there are seams
    assert len(places) == len(np.unique(places, axis=0)) == len(mesh.vertices)
    whole = trimesh.Trimesh(places, faces, process=False)
    assert whole.is_watertight
    assert len(faces) == len(mesh.faces)
    # trimesh computes normals anew, from faces that are cut along the seams.
    [part] = read_scene(glb, is_own=True).parts
    assert part.normals is not None
    cosines = (normals * part.normals[part.faces]).sum(-1)
    assert cosines.min() > np.cos(np.radians(1))


def test_hard_edges_stay_hard_in_an_obj() -> None:
    scene = read_scene(as_bytes(trimesh.creation.box(), "stl"))
    glb = retexture.untextured_glb(scene, to_model_frame(scene), extras={}, generator="test")
    made = read_model(glb)
    assert (len(made.positions), len(made.faces)) == (8, 12)
    expected = trimesh.creation.box().face_normals
    lines = [line.split() for line in write_obj(made).decode().splitlines()]
    rows = np.array([line[1:] for line in lines if line[0] == "vn"], float)
    faces = [[int(part.split("/")[2]) - 1 for part in line[1:]] for line in lines if line[0] == "f"]
    np.testing.assert_allclose(
        np.sort(rows[faces][:, 0], axis=0), np.sort(expected, axis=0), atol=1e-4
    )
    assert (np.ptp(rows[faces], axis=1) == 0).all()


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
    np.testing.assert_array_equal(read.normals[read.normal_faces], np.full((2, 3, 3), [0, 0, 1]))
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
    read.merge_vertices(merge_norm=True)  # trimesh cuts an OBJ at hard edges
    bodies = read.split()
    assert len(bodies) == 2
    assert all(body.volume > 0 for body in bodies)


def test_the_normals_of_an_stl_are_those_of_its_triangles() -> None:
    mesh = trimesh.creation.icosphere(1)
    faces = np.vstack([mesh.faces, [[5, 5, 6]]]).astype(np.int32)  # the last one has no area
    content = formats.stl.write_stl(models.model(mesh.vertices, faces))
    rows = np.frombuffer(content[84:], [("normal", "<f4", 3), ("corners", "<f4", 9), ("x", "<u2")])
    assert int.from_bytes(content[80:84], "little") == len(rows) == len(faces)
    np.testing.assert_allclose(rows["normal"][:-1], mesh.face_normals, atol=1e-6)
    assert rows["normal"][-1].tolist() == [0, 0, 0]
