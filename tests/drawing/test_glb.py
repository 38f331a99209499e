"""Reading a GLB to draw it, held against trimesh and against geometry."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from tests.support.built_glb import CORNERS, FACES, TYPES, Glb
from trellis2_server.drawing import load_glb
from trellis2_server.drawing.glb import read_accessor, split_glb

if TYPE_CHECKING:
    from numpy.typing import NDArray


def png(pixels: NDArray[np.uint8], file_format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format, lossless=True)
    return file.getvalue()


def noise(height: int, width: int, channels: int = 4) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(1, 256, (height, width, channels), np.uint8)


# ---- geometry --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_scene_of_moved_parts_is_where_another_reader_has_it(seed: int) -> None:
    chance = np.random.default_rng(seed)
    scene = trimesh.Scene()
    parent, chain = scene.graph.base_frame, np.eye(4)
    wanted: list[NDArray[Any]] = []
    for number in range(3):
        part = trimesh.creation.box(chance.uniform(0.5, 2, 3))
        matrix = trimesh.transformations.random_rotation_matrix(chance.random(3))
        matrix[:3, :3] *= chance.uniform(0.5, 2)
        matrix[:3, 3] = chance.uniform(-3, 3, 3)
        name = f"part {number}"
        scene.add_geometry(part, node_name=name, parent_node_name=parent, transform=matrix)
        parent, chain = name, chain @ matrix  # each in the frame of the one before
        wanted.append(
            trimesh.transformations.transform_points(part.triangles.reshape(-1, 3), chain)
        )
    content = scene.export(file_type="glb")
    assert isinstance(content, bytes)
    model = load_glb(content)
    triangles = model.positions[model.faces].reshape(-1, 3)
    assert triangles == pytest.approx(np.concatenate(wanted), abs=1e-4)
    assert model.faces.dtype == np.int32
    assert (len(model.normals), len(model.uvs)) == (len(model.positions),) * 2


@pytest.mark.parametrize("seed", range(3))
def test_a_rotation_a_scale_and_a_translation_are_the_matrix_of_another_implementation(
    seed: int,
) -> None:
    chance = np.random.default_rng(seed)
    quaternion = trimesh.transformations.random_quaternion(chance.random(3))  # w, x, y, z
    scale, translation = chance.uniform(0.5, 2, 3), chance.uniform(-2, 2, 3)
    matrix = trimesh.transformations.quaternion_matrix(quaternion)
    matrix[:3, :3] *= scale
    matrix[:3, 3] = translation
    parts, whole = Glb(), Glb()
    parts.document["nodes"][0] |= {
        "rotation": [*quaternion[1:], quaternion[0]],
        "scale": list(scale),
        "translation": list(translation),
    }
    whole.document["nodes"][0]["matrix"] = matrix.T.ravel().tolist()
    for glb in (parts, whole):
        glb.primitive()
        model = load_glb(bytes(glb))
        wanted = trimesh.transformations.transform_points(CORNERS, matrix)
        assert model.positions == pytest.approx(wanted, abs=1e-5)


def test_only_the_default_scene_is_drawn_with_children_in_their_parents_frame() -> None:
    glb = Glb()
    glb.primitive()
    glb.document["nodes"] = [
        {"mesh": 0},
        {"translation": [1, 0, 0], "children": [3, 2]},
        {"mesh": 0, "translation": [0, 1, 0]},
        {"mesh": 0, "scale": [2, 2, 2]},
    ]
    glb.document["scenes"] = [{"nodes": [0]}, {"nodes": [1, 2]}]
    assert load_glb(bytes(glb)).positions == pytest.approx(CORNERS)
    glb.document["scene"] = 1
    up, right = np.float32([0, 1, 0]), np.float32([1, 0, 0])
    moved = [CORNERS + up, CORNERS * 2 + right, CORNERS + up + right]
    assert load_glb(bytes(glb)).positions == pytest.approx(np.concatenate(moved))
    assert load_glb(bytes(glb)).faces.tolist() == [*FACES.tolist(), *(FACES + 4).tolist(),
                                                   *(FACES + 8).tolist()]  # fmt: skip


@pytest.mark.parametrize("has_normals", [True, False])
def test_normals_stay_at_right_angles_to_faces_that_are_stretched(*, has_normals: bool) -> None:
    corners = CORNERS[FACES]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    glb = Glb()
    primitive = glb.primitive()
    primitive["attributes"]["POSITION"] = glb.accessor(corners.reshape(-1, 3))
    del primitive["indices"]  # each three vertices are a face
    if has_normals:
        primitive["attributes"]["NORMAL"] = glb.accessor(np.repeat(flat, 3, axis=0))
    glb.document["nodes"][0] |= {"rotation": [0.5, 0.5, 0.5, 0.5], "scale": [1, 4, 0.5]}
    model = load_glb(bytes(glb))
    assert model.faces.tolist() == np.arange(12).reshape(4, 3).tolist()
    moved = model.positions[model.faces].astype(np.float64)
    wanted = np.cross(moved[:, 1] - moved[:, 0], moved[:, 2] - moved[:, 0])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert model.normals == pytest.approx(np.repeat(wanted, 3, axis=0), abs=1e-6)
    assert model.normals.dtype == np.float32


def test_a_vertex_without_a_normal_gets_that_of_its_faces_by_their_area() -> None:
    glb = Glb()
    glb.primitive()
    corners = CORNERS[FACES].astype(np.float64)
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    wanted = np.array([flat[(vertex == FACES).any(1)].sum(0) for vertex in range(4)])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert load_glb(bytes(glb)).normals == pytest.approx(wanted, abs=1e-6)


def test_a_vertex_without_faces_has_no_direction() -> None:
    glb = Glb()
    glb.primitive(glb.accessor(np.array([[0], [1], [2]]), "u1"))
    normals = load_glb(bytes(glb)).normals
    assert normals[3].tolist() == [0, 0, 0]
    assert np.linalg.norm(normals[:3], axis=1) == pytest.approx(1)


def test_normals_that_are_not_of_unit_length_become_so() -> None:
    glb = Glb()
    glb.primitive(attributes={"NORMAL": glb.accessor(CORNERS * 5 + 1)})
    wanted = CORNERS * 5 + 1
    wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    assert load_glb(bytes(glb)).normals == pytest.approx(wanted, abs=1e-6)


def test_parts_with_and_without_texture_coordinates_are_joined() -> None:
    uvs = np.float32([[0, 0], [0.5, 0], [0, 0.25], [1, 1]])
    glb = Glb()
    glb.primitive(attributes={"TEXCOORD_0": glb.accessor(uvs)})
    glb.primitive()
    model = load_glb(bytes(glb))
    assert model.uvs.tolist() == [*uvs.tolist(), *np.zeros((4, 2)).tolist()]
    assert model.uvs.dtype == model.positions.dtype == np.float32


# ---- accessors -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_values_of_each_type_are_read(dtype: str, width: int) -> None:
    glb = Glb()
    glb.view(b"before")
    values = np.arange(5 * width).reshape(5, width) - (3 if "i" in dtype else 0)
    index = glb.accessor(values, dtype)
    read = read_accessor(glb.document, glb.data, index)
    assert (read.dtype, read.tolist()) == (np.dtype(dtype), values.tolist())


def test_interleaved_values_are_told_apart_by_offset_and_stride() -> None:
    positions, uvs = CORNERS, np.float32([[0, 1], [2, 3], [4, 5], [6, 7]])
    glb = Glb()
    glb.view(b"before")
    view = glb.view(np.hstack([positions, uvs]).astype("<f4").tobytes(), byteStride=20)
    first = glb.accessor_of(view, 4, 3, "<f4")
    second = glb.accessor_of(view, 3, 2, "<f4", byteOffset=12 + 20)
    assert read_accessor(glb.document, glb.data, first).tolist() == positions.tolist()
    assert read_accessor(glb.document, glb.data, second).tolist() == uvs[1:].tolist()


def test_an_offset_that_is_not_given_is_zero() -> None:
    glb = Glb()
    index = glb.accessor(CORNERS)
    del glb.document["bufferViews"][0]["byteOffset"]
    assert read_accessor(glb.document, glb.data, index).tolist() == CORNERS.tolist()
    glb = Glb()
    glb.view(png(noise(2, 2)))
    glb.primitive()
    glb.material(pbrMetallicRoughness={"baseColorTexture": {"index": 0}})
    glb.document |= {"textures": [{"source": 0}], "images": [{"bufferView": 0}]}
    del glb.document["bufferViews"][0]["byteOffset"]
    assert load_glb(bytes(glb)).texture[..., :4].tolist() == noise(2, 2).tolist()


@pytest.mark.parametrize(
    ("dtype", "values", "wanted"),
    [
        ("u1", [0, 51, 255], [0, 0.2, 1]),
        ("i1", [-128, -127, 0, 127], [-1, -1, 0, 1]),
        ("<u2", [0, 13107, 65535], [0, 0.2, 1]),
        ("<i2", [-32768, 0, 32767], [-1, 0, 1]),
    ],
)
def test_normalized_integers_are_fractions(
    dtype: str, values: list[int], wanted: list[float]
) -> None:
    glb = Glb()
    index = glb.accessor(np.array(values).reshape(-1, 1), dtype, normalized=True)
    read = read_accessor(glb.document, glb.data, index)
    assert read.dtype == np.float32
    assert read.ravel() == pytest.approx(wanted)


# ---- material --------------------------------------------------------------------------------


def test_a_model_without_a_material_is_white_and_opaque() -> None:
    glb = Glb()
    glb.primitive()
    model = load_glb(bytes(glb))
    assert model.texture.tolist() == [[[255] * 7]]
    assert (model.is_textured, model.double_sided) == (False, False)
    assert (model.alpha_mode, model.alpha_cutoff) == ("OPAQUE", 0.5)


def test_the_first_primitives_material_counts() -> None:
    glb = Glb()
    glb.primitive()
    glb.primitive(material=0)
    glb.material(doubleSided=True, alphaMode="MASK", alphaCutoff=0.25)
    model = load_glb(bytes(glb))
    assert (model.double_sided, model.alpha_mode, model.alpha_cutoff) == (True, "MASK", 0.25)
    assert not model.is_textured


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_the_texture_is_read_as_it_is(file_format: str, channels: int) -> None:
    pixels = noise(3, 5, channels)
    glb = Glb()
    glb.primitive()
    glb.material(png(pixels, file_format), pbrMetallicRoughness={"baseColorTexture": {"index": 1}})
    if file_format == "WEBP":
        glb.document["textures"][1] = {
            "source": 0,
            "extensions": {"EXT_texture_webp": {"source": 1}},
        }
    model = load_glb(bytes(glb))
    assert model.is_textured
    assert model.texture.shape == (3, 5, 7)
    assert model.texture[..., :channels].tolist() == pixels.tolist()
    assert channels == 4 or (model.texture[..., 3] == 255).all()


def test_a_factor_multiplies_colours_in_linear_light_and_alpha_as_it_is() -> None:
    factor = (0.5, 0.25, 1.0, 0.4)
    pixels = noise(4, 4)
    glb = Glb()
    glb.primitive()
    glb.material(
        png(pixels),
        pbrMetallicRoughness={"baseColorTexture": {"index": 1}, "baseColorFactor": factor},
    )
    color = load_glb(bytes(glb)).texture
    assert color.dtype == np.uint8
    for channel in range(3):
        wanted = [_scaled(value, factor[channel]) for value in pixels[..., channel].ravel()]
        assert color[..., channel].ravel() == pytest.approx(wanted, abs=0.51)
    assert color[..., 3] == pytest.approx(pixels[..., 3] * 0.4, abs=0.51)


def _scaled(value: int, factor: float) -> float:
    """An sRGB value times a factor in linear light (IEC 61966-2-1), one at a time."""
    part = value / 255
    linear = part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
    linear *= factor
    return 255 * (12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055)


def test_metal_and_roughness_have_the_size_of_the_base_colour_and_their_factors() -> None:
    glb = Glb()
    glb.primitive()
    rough = np.zeros((2, 2, 3), np.uint8)
    rough[..., 1], rough[..., 2] = 200, 100
    glb.material(
        png(rough),
        pbrMetallicRoughness={
            "metallicRoughnessTexture": {"index": 1},
            "metallicFactor": 0.5,
            "roughnessFactor": 0.25,
        },
    )
    texture = load_glb(bytes(glb)).texture
    assert texture.tolist() == np.full((2, 2, 7), [255, 255, 255, 255, 50, 50, 255]).tolist()
    glb.view(png(noise(4, 6)))
    glb.document["images"].append({"bufferView": len(glb.document["bufferViews"]) - 1})
    glb.document["textures"].append({"source": len(glb.document["images"]) - 1})
    pbr = glb.document["materials"][1]["pbrMetallicRoughness"]
    pbr["baseColorTexture"] = {"index": len(glb.document["textures"]) - 1}
    texture = load_glb(bytes(glb)).texture
    assert texture.shape == (4, 6, 7)
    assert texture[..., :4].tolist() == noise(4, 6).tolist()
    assert (texture[..., 4:6] == 50).all()


@pytest.mark.parametrize("is_shared", [True, False], ids=["shared", "of its own"])
@pytest.mark.parametrize(("strength", "wanted"), [(None, 100), (0.5, 178), (0.0, 255)])
def test_occlusion_is_the_red_channel_of_its_texture(
    strength: float | None, wanted: int, *, is_shared: bool
) -> None:
    glb = Glb()
    glb.primitive()
    pixels = np.full((2, 2, 3), (100, 255, 255), np.uint8)
    occlusion = {"index": 1} | ({} if strength is None else {"strength": strength})
    glb.material(
        png(pixels),
        pbrMetallicRoughness={"metallicRoughnessTexture": {"index": 1}} if is_shared else {},
        occlusionTexture=occlusion,
    )
    texture = load_glb(bytes(glb)).texture
    assert texture.tolist() == np.full((2, 2, 7), [*[255] * 6, wanted]).tolist()


@pytest.mark.parametrize(("file_format", "size"), [("PNG", 300), ("JPEG", 300), ("JPEG", 256)])
def test_a_texture_that_is_too_large_is_reduced(file_format: str, size: int) -> None:
    pixels = np.zeros((size, size // 2, 3), np.uint8)
    pixels[: size // 2] = (255, 0, 0)
    glb = Glb()
    glb.primitive()
    glb.material(png(pixels, file_format), pbrMetallicRoughness={"baseColorTexture": {"index": 1}})
    texture = load_glb(bytes(glb), texture_px=100).texture
    assert 50 <= texture.shape[0] <= 100
    assert texture.shape[1] == pytest.approx(texture.shape[0] / 2, abs=1)
    assert texture[5, 5, :3] == pytest.approx([255, 0, 0], abs=3)
    assert texture[-5, 5, :3] == pytest.approx([0, 0, 0], abs=3)
    assert load_glb(bytes(glb), texture_px=size).texture.shape[0] == size


# ---- files that cannot be drawn ----------------------------------------------------------------


def test_a_file_without_a_binary_chunk_is_split() -> None:
    glb = Glb()
    assert split_glb(bytes(glb)) == (glb.document, b"")
    glb.data = b"data"
    assert split_glb(bytes(glb)) == (glb.document, b"data")
    assert split_glb(bytes(glb) + b"more")[1] == b"data"
