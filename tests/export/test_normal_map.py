"""Normal maps, decoded by NumPy as a viewer does, compared with the full surface."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.support import khronos, shapes
from trellis2_server import export
from trellis2_server.export.atlas import Atlas
from trellis2_server.export.geometry import smooth_normals
from trellis2_server.export.normals import smoothed_normals, tangents
from trellis2_server.inputs.meshes import Glb
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = 512


def bumpy() -> Mesh:
    """A sphere with bumps that 600 faces do not have."""
    ball = shapes.sphere(96)
    x, y, z = ball.vertices.T.astype(np.float64)
    bumps = 1 + 0.02 * np.sin(40 * x) * np.sin(40 * y + 1) * np.cos(40 * z)
    return Mesh((ball.vertices * bumps[:, None]).astype(np.float32), ball.faces)


def unit(vectors: NDArray[Any]) -> NDArray[Any]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def accessor(glb: Glb, number: int) -> NDArray[Any]:
    item = glb.item("accessors", number)
    width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}[item["type"]]
    dtype = {5123: "<u2", 5125: "<u4", 5126: "<f4"}[item["componentType"]]
    rows = np.frombuffer(bytes(glb.view(item["bufferView"])), dtype)[: item["count"] * width]
    return rows.reshape(-1, width).astype(np.float64)


def picture(glb: Glb) -> NDArray[Any]:
    (material,) = glb.json["materials"]
    texture = glb.item("textures", material["normalTexture"]["index"])
    image = glb.item("images", texture["source"])
    with Image.open(io.BytesIO(glb.view(image["bufferView"]))) as opened:
        return np.asarray(opened.convert("RGB")).astype(np.float64)


def between(pixels: NDArray[Any], uv: NDArray[Any]) -> NDArray[Any]:
    """Pixels at texture coordinates, interpolated."""
    x, y = np.clip(uv * len(pixels) - 0.5, 0, len(pixels) - 1.001).T
    i, j = x.astype(int), y.astype(int)
    fx, fy = (x - i)[:, None], (y - j)[:, None]
    upper = pixels[j, i] * (1 - fx) + pixels[j, i + 1] * fx
    lower = pixels[j + 1, i] * (1 - fx) + pixels[j + 1, i + 1] * fx
    return upper * (1 - fy) + lower * fy


def angles(content: bytes, full: Mesh) -> tuple[float, float]:
    """Median angle to the normals of the full surface, degrees: with the map, without."""
    glb = Glb(content)
    (primitive,) = glb.json["meshes"][0]["primitives"]
    position, normal, tangent, uv = (
        accessor(glb, primitive["attributes"][name])
        for name in ("POSITION", "NORMAL", "TANGENT", "TEXCOORD_0")
    )
    faces = accessor(glb, primitive["indices"]).astype(int).reshape(-1, 3)
    rng = np.random.default_rng(2)
    corner = position[faces]
    area = np.linalg.norm(
        np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1
    )
    face = faces[rng.choice(len(area), 1500, p=area / area.sum())]
    share = rng.dirichlet([1, 1, 1], len(face))[..., None]
    place, out, along = ((rows[face] * share).sum(1) for rows in (position, normal, tangent[:, :3]))
    out, along = unit(out), unit(along)
    # As the specification has it; green points up in the picture.
    up = np.cross(out, along) * tangent[face[:, 0], 3:]
    seen = between(picture(glb), (uv[face] * share).sum(1)) / 127.5 - 1
    shaded = unit(seen[:, :1] * along + seen[:, 1:2] * up + seen[:, 2:] * out)
    # In the model's frame; the full surface has a vertex every 0.007.
    place, shaded, out = (
        np.stack([rows[:, 0], -rows[:, 2], rows[:, 1]], 1) for rows in (place, shaded, out)
    )
    nearest = np.concatenate(
        [
            ((some[:, None] - full.vertices[None]) ** 2).sum(2).argmin(1)
            for some in np.array_split(place, 30)
        ]
    )
    wanted = smooth_normals(full)[nearest]
    cosines = [np.clip((rows * wanted).sum(1), -1, 1) for rows in (shaded, out)]
    with_it, without = (float(np.median(np.degrees(np.arccos(each)))) for each in cosines)
    return with_it, without


def baked(full: Mesh, low: Mesh | None = None, **options: Any) -> bytes:
    low = low or export.prepare(full, decimation_target=600)
    return export.textured_glb(
        low, shapes.field(24), original=full, texture_size=SIZE, normal_map=True, **options
    )


@pytest.mark.costly
@pytest.mark.parametrize("texture_format", ["auto", "png"])
def test_a_normal_map_shows_the_full_surface(texture_format: str) -> None:
    full = bumpy()
    content = baked(full, texture_format=texture_format)
    assert khronos.messages(content) == []
    with_it, without = angles(content, full)
    assert with_it < 3
    assert with_it * 3 < without


@pytest.mark.costly
def test_faces_of_the_full_surface_may_be_wound_in_any_way() -> None:
    full = bumpy()
    low = export.prepare(full, decimation_target=600)
    turned = np.random.default_rng(1).random(len(full.faces)) < 0.4
    faces = np.where(turned[:, None], full.faces[:, ::-1], full.faces)
    with_it, _ = angles(baked(Mesh(full.vertices, faces), low), full)
    assert with_it < 3


def test_a_normal_map_of_a_mesh_that_was_not_decimated_is_nearly_flat() -> None:
    ball = shapes.sphere(24)
    pixels = picture(Glb(baked(ball, ball, texture_format="png"))) / 127.5 - 1
    assert pixels[..., 2].min() > 0.99


def angle(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The mean angle between normals whose sign means nothing, degrees."""
    return float(np.degrees(np.arccos(np.clip(np.abs((one * other).sum(1)), 0, 1))).mean())


def test_normals_that_turn_to_and_fro_as_on_steps_of_voxels_are_smoothed() -> None:
    torus = shapes.torus(160, 80)
    exact = smooth_normals(torus)
    heights = np.random.default_rng(2).uniform(-0.002, 0.002, (len(exact), 1))
    rough = Mesh((torus.vertices + exact * heights).astype(np.float32), torus.faces)
    assert angle(smooth_normals(rough), exact) > 2 * angle(smoothed_normals(rough), exact)


def test_normals_of_what_is_larger_than_a_few_faces_are_kept() -> None:
    torus = shapes.torus(160, 80)
    exact = smooth_normals(torus)
    heights = 0.004 * np.sin(16 * np.arctan2(torus.vertices[:, 1:2], torus.vertices[:, :1]))
    waved = Mesh((torus.vertices + exact * heights).astype(np.float32), torus.faces)
    assert angle(smooth_normals(waved), exact) > 5
    assert angle(smoothed_normals(waved), smooth_normals(waved)) < 0.5


def test_tangents_follow_the_texture_on_both_sides() -> None:
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    mesh = Mesh(corners, np.array([[0, 1, 2], [0, 2, 3]], np.int32))
    source = np.arange(4, dtype=np.int32)
    # Seen from +Z: as the picture is; mirrored; turned by a quarter.
    for uv, along, hand in (
        ([[0, 8], [8, 8], [8, 0], [0, 0]], (1, 0, 0), 1),
        ([[8, 8], [0, 8], [0, 0], [8, 0]], (-1, 0, 0), -1),
        ([[0, 0], [0, 8], [8, 8], [8, 0]], (0, 1, 0), 1),
    ):
        atlas = Atlas(np.array(uv, np.float32), source, mesh.faces, np.zeros(2, np.int32), 8)
        found = tangents(mesh, smooth_normals(mesh), atlas)
        np.testing.assert_allclose(found, np.tile([*along, hand], (4, 1)), atol=1e-6)


@pytest.mark.parametrize("shape", ["soup", "needles", "moebius", "sheet"])
def test_bad_meshes_have_normal_maps_too(shape: str) -> None:
    mesh = export.prepare(shapes.ALL[shape](), decimation_target=400)
    content = export.textured_glb(
        mesh, shapes.field(24), original=shapes.ALL[shape](), texture_size=SIZE, normal_map=True
    )
    assert khronos.messages(content) == []
    assert picture(Glb(content))[..., 2].min() >= 128


def test_compressed_files_have_tangents() -> None:
    pytest.importorskip("meshopt")
    content = baked(bumpy(), compress="meshopt")
    assert {message["code"] for message in khronos.messages(content)} <= {"UNSUPPORTED_EXTENSION"}
    (primitive,) = Glb(content).json["meshes"][0]["primitives"]
    assert "TANGENT" in primitive["attributes"]


def test_without_the_field_files_have_neither_tangents_nor_another_texture() -> None:
    ball = shapes.sphere(12)
    document = Glb(export.textured_glb(ball, shapes.field(24), texture_size=64)).json
    assert "normalTexture" not in document["materials"][0]
    assert "TANGENT" not in document["meshes"][0]["primitives"][0]["attributes"]
