"""Ambient occlusion, compared with 1,024 rays that NumPy traces."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.support import khronos, shapes
from trellis2_server import export
from trellis2_server.export import occlusion as module
from trellis2_server.export.occlusion import draw_occlusion, measure_occlusion
from trellis2_server.export.triangle_tree import TriangleTree
from trellis2_server.export.unwrap import unwrap
from trellis2_server.inputs.meshes import Glb
from trellis2_server.mesh import Mesh, VoxelField

if TYPE_CHECKING:
    from numpy.typing import NDArray

POINTS, RAYS, SIZE = 150, 1024, 512


def box(low: tuple[float, ...], high: tuple[float, ...]) -> Mesh:
    """A closed box of twelve faces."""
    corners = np.array([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)])
    sides = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    faces = [each for a, b, c, d in sides for each in ([a, b, c], [a, c, d])]
    places = np.array(low) + corners * (np.array(high) - np.array(low))
    return Mesh(places.astype(np.float32), np.array(faces, np.int32))


def small_links() -> Mesh:
    return shapes.joined(
        shapes.torus(20, 10, middle=-0.12), shapes.torus(20, 10, middle=0.12, turned=True)
    )


def chair() -> Mesh:
    """Boxes with long faces: what is dark lies in the middle of faces."""
    return shapes.joined(
        box((-0.4, -0.4, -0.02), (0.4, 0.4, 0.0)),
        box((-0.4, 0.3, 0.01), (0.4, 0.4, 0.4)),
        box((-0.1, -0.1, 0.005), (0.1, 0.1, 0.2)),
    )


def room() -> Mesh:
    """A box without a lid, seen from inside and from outside: a sheet without a thickness."""
    whole = box((-0.3, -0.3, -0.2), (0.3, 0.3, 0.2))
    return Mesh(whole.vertices, whole.faces[:-2])


def points_of(mesh: Mesh, count: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Random points of the surface: their faces, shares of the corners, places."""
    rng = np.random.default_rng(5)
    corner = mesh.vertices[mesh.faces].astype(np.float64)
    area = np.linalg.norm(
        np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1
    )
    face = rng.choice(len(area), count, p=area / area.sum())
    share = rng.dirichlet([1, 1, 1], count)
    return face, share, (corner[face] * share[..., None]).sum(1)


def reference(mesh: Mesh, face: NDArray[Any], place: NDArray[Any], side: int = 1) -> NDArray[Any]:
    """Share of cosine-weighted rays that hit nothing, by testing each ray with each face."""
    rng = np.random.default_rng(9)
    corner = mesh.vertices[mesh.faces].astype(np.float64)
    u, v = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    normal = np.cross(u, v)
    normal *= side / np.linalg.norm(normal, axis=1, keepdims=True)
    found = np.empty(len(face))
    for i, (f, start) in enumerate(zip(face, place, strict=True)):
        # A point of the unit sphere, added to the normal, is cosine-weighted around it.
        ray = rng.normal(size=(RAYS, 3))
        ray = normal[f] + ray / np.linalg.norm(ray, axis=1, keepdims=True)
        # Moeller and Trumbore: the ray's matrix with each face, by determinants.
        w = start + 1e-4 * normal[f] - corner[:, 0]
        p = np.cross(ray[:, None], v[None])
        det = np.einsum("rfk,fk->rf", p, u)
        det = np.where(np.abs(det) < 1e-15, np.inf, det)
        s = np.einsum("rfk,fk->rf", p, w) / det
        q = np.cross(w, u)
        t = np.einsum("rk,fk->rf", ray, q) / det
        away = (q * v).sum(1) / det
        found[i] = 1 - ((s >= 0) & (t >= 0) & (s + t <= 1) & (away > 0)).any(1).mean()
    return found


def baked(mesh: Mesh, face: NDArray[Any], share: NDArray[Any]) -> NDArray[Any]:
    """The baked values at points of the surface, 0 … 1."""
    atlas = unwrap(mesh, SIZE)
    drawn = draw_occlusion(measure_occlusion(mesh), atlas)
    texel = (atlas.uv[atlas.faces[face]] * share[..., None]).sum(1)
    x, y = np.clip(texel, 0, SIZE - 1).astype(int).T
    return drawn[y, x] / 255


@pytest.mark.costly
@pytest.mark.parametrize("shape", [small_links, chair])
def test_occlusion_is_that_of_1024_rays(shape: Any) -> None:
    mesh = shape()
    face, share, place = points_of(mesh, POINTS)
    wanted = reference(mesh, face, place)
    assert wanted.std() > 0.15
    error = baked(mesh, face, share) - wanted
    assert np.sqrt((error**2).mean()) < 0.05
    assert abs(error.mean()) < 0.02


def test_an_open_sheet_has_the_brighter_side_where_one_side_is_dark() -> None:
    mesh = room()
    face, share, place = points_of(mesh, POINTS)
    front, back = (reference(mesh, face, place, side) for side in (1, -1))
    wanted = np.where(front < 0.125, np.maximum(front, back), front)
    assert np.sqrt(((baked(mesh, face, share) - wanted) ** 2).mean()) < 0.05


@pytest.mark.parametrize("bits", range(8))
def test_edges_are_split_without_holes_or_turned_faces(bits: int) -> None:
    mesh = box((0, 0, 0), (1, 2, 3))
    whole = np.arange(12, dtype=np.int32)
    surface = module._Surface(mesh.vertices, mesh.faces, whole, np.tile(np.eye(3), (12, 1, 1)))
    marks = np.where(whole == 7, bits, 0).astype(np.uint8)
    split = module._split_once(surface, marks, np.flatnonzero(marks)) if bits else surface
    assert len(split.faces) == 12 + bits.bit_count()

    def areas(vertices: NDArray[Any], faces: NDArray[Any]) -> NDArray[Any]:
        a, b, c = (vertices[faces[:, k]] for k in range(3))
        return np.cross(b - a, c - a)

    found, wanted = areas(split.vertices, split.faces), areas(mesh.vertices, mesh.faces)
    for face in range(12):
        assert found[split.whole == face].sum(0) == pytest.approx(wanted[face])
        assert (found[split.whole == face] @ wanted[face] > 0).all()
    places = np.einsum("fkc,fcx->fkx", split.shares, mesh.vertices[mesh.faces][split.whole])
    assert places == pytest.approx(split.vertices[split.faces])


@pytest.mark.parametrize("count", [1, 2, 5, 64])
def test_openness_is_the_share_of_open_rays_of_any_number(count: int) -> None:
    mesh = room()
    surface = module._split(mesh)
    corners = surface.vertices[surface.faces[::997]]
    points = corners.mean(1)
    normals = np.cross(corners[:, 2] - corners[:, 0], corners[:, 1] - corners[:, 0])  # inward
    normals = (normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32)
    tree = TriangleTree(mesh)
    some = module._Surface(
        corners.reshape(-1, 3), np.arange(3 * len(points), dtype=np.int32).reshape(-1, 3),
        surface.whole[::997], surface.shares[::997],
    )  # fmt: skip
    values = module._front_openness(tree, some, points, normals, count)
    shares = values * count
    assert shares == pytest.approx(np.rint(shares), abs=1e-4)
    assert 0 <= values.min() < values.max() <= 1
    all_rays = module.openness(tree, points, normals, count)
    # Where the first rays hit nothing, no others are traced.
    assert np.where(values < 1, values - all_rays, 0) == pytest.approx(0, abs=1e-6)


def test_nothing_of_a_convex_shape_is_dark() -> None:
    sphere = shapes.sphere(16)
    drawn = draw_occlusion(measure_occlusion(sphere), unwrap(sphere, 128))
    assert drawn.min() == 255


def test_faces_that_are_wound_inward_are_not_dark() -> None:
    sphere = shapes.sphere(16)
    faces = sphere.faces.copy()
    faces[:200] = faces[:200, ::-1]
    mesh = Mesh(sphere.vertices, faces)
    drawn = draw_occlusion(measure_occlusion(mesh), unwrap(mesh, 128))
    assert drawn.min() > 240


@pytest.mark.parametrize("shape", ["soup", "needles", "moebius"])
def test_bad_meshes_have_occlusion_too(shape: str) -> None:
    occlusion = measure_occlusion(shapes.ALL[shape]())
    assert np.isfinite(occlusion.values).all()
    assert occlusion.values.min() >= 0
    assert occlusion.values.max() <= 1


def test_the_same_mesh_has_the_same_occlusion_on_any_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mesh = shapes.links()
    first = measure_occlusion(mesh).values
    monkeypatch.setattr("trellis2_server.export.parallel._THREADS", 5)
    np.testing.assert_array_equal(measure_occlusion(mesh).values, first)


def image(glb: Glb, texture: int) -> NDArray[np.uint8]:
    source = glb.item("images", glb.item("textures", texture)["source"])
    with Image.open(io.BytesIO(glb.view(source["bufferView"]))) as opened:
        return np.asarray(opened.convert("RGB"))


def test_a_file_has_occlusion_in_the_red_channel_of_its_linear_texture() -> None:
    mesh = export.prepare(shapes.links(), decimation_target=3000)
    options: dict[str, Any] = {"texture_size": SIZE, "texture_format": "png"}
    plain = Glb(export.textured_glb(mesh, shapes.field(), **options))
    content = export.textured_glb(mesh, shapes.field(), occlusion=True, **options)
    assert khronos.messages(content) == []
    glb = Glb(content)
    (material,) = glb.json["materials"]
    shared = material["pbrMetallicRoughness"]["metallicRoughnessTexture"]
    assert material["occlusionTexture"] == shared
    assert len(glb.json["images"]) == 2
    with_it, without = (image(each, shared["index"]) for each in (glb, plain))
    np.testing.assert_array_equal(with_it[..., 1:], without[..., 1:])
    drawn = draw_occlusion(measure_occlusion(mesh), unwrap(mesh, SIZE))
    np.testing.assert_array_equal(with_it[..., 0], drawn)


def test_occlusion_is_kept_where_metallic_and_roughness_are_constant() -> None:
    field = shapes.field(24)
    attributes = field.attributes.copy()
    attributes[:, 3:5] = 0.2, 0.6
    field = VoxelField(field.coords, attributes, field.resolution)
    mesh = export.prepare(shapes.links(), decimation_target=2000)
    glb = Glb(export.textured_glb(mesh, field, texture_size=64, occlusion=True))
    (material,) = glb.json["materials"]
    assert "metallicFactor" not in material["pbrMetallicRoughness"]
    pixels = image(glb, material["occlusionTexture"]["index"])
    np.testing.assert_allclose(pixels[..., 1:].mean((0, 1)) / 255, (0.6, 0.2), atol=0.02)
    assert np.ptp(pixels[..., 0]) > 100
