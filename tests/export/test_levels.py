"""Levels of detail in one file, with one texture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support import khronos, shapes
from trellis2_server import export
from trellis2_server.export import formats, levels
from trellis2_server.export.adjacency import is_watertight, twins
from trellis2_server.export.bake import closest_points
from trellis2_server.export.deviation import normal_deviation
from trellis2_server.export.geometry import smooth_normals
from trellis2_server.export.levels import create_levels
from trellis2_server.export.unwrap import unwrap
from trellis2_server.inputs.meshes import Glb
from trellis2_server.mesh import Mesh
from trellis2_server.parameters import PlacedFile, Placement

if TYPE_CHECKING:
    from numpy.typing import NDArray

TARGETS = (3000, 800)
SIZE = 256
#: What the validator says of an extension that it does not know, and of what only this one uses.
UNKNOWN = {"UNSUPPORTED_EXTENSION", "UNUSED_OBJECT"}


@pytest.fixture(scope="module")
def full() -> Mesh:
    return shapes.joined(
        shapes.torus(200, 100, middle=-0.12), shapes.torus(200, 100, middle=0.12, turned=True)
    )


@pytest.fixture(scope="module")
def content(full: Mesh) -> bytes:
    mesh = export.prepare(full, decimation_target=12_000)
    return export.textured_glb(
        mesh, shapes.field(24), original=full, texture_size=SIZE, normal_map=True, lods=TARGETS
    )


def rows(glb: Glb, number: int) -> NDArray[Any]:
    item = glb.item("accessors", number)
    width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}[item["type"]]
    dtype = {5123: "<u2", 5125: "<u4", 5126: "<f4"}[item["componentType"]]
    values = np.frombuffer(bytes(glb.view(item["bufferView"])), dtype)
    return values[: item["count"] * width].reshape(-1, width)


def test_one_file_has_all_levels_with_one_material(content: bytes) -> None:
    glb = Glb(content)
    assert glb.json["scenes"] == [{"nodes": [0]}]
    assert glb.json["nodes"][0]["extensions"] == {"MSFT_lod": {"ids": [1, 2]}}
    assert len(glb.json["nodes"][0]["extras"]["MSFT_screencoverage"]) == 3
    assert "MSFT_lod" not in glb.json.get("extensionsRequired", [])
    assert len(glb.json["materials"]) == 1
    counts = []
    for node in glb.json["nodes"]:
        (primitive,) = glb.json["meshes"][node["mesh"]]["primitives"]
        assert primitive["material"] == 0
        counts.append(glb.item("accessors", primitive["indices"])["count"] // 3)
    assert [round(count, -1) for count in counts] == [12_000, *TARGETS]
    assert {message["code"] for message in khronos.messages(content)} <= UNKNOWN


def test_levels_show_what_the_finest_one_shows_there(full: Mesh) -> None:
    mesh = export.prepare(full, decimation_target=12_000)
    atlas = unwrap(mesh, SIZE)
    first = mesh.vertices[atlas.source]
    for level, most in zip(create_levels(mesh, atlas, TARGETS), (0.004, 0.02), strict=True):
        is_held = np.isinf(level.footpoints.distances)
        assert is_held.mean() <= 0.05
        places = level.vertices[level.sources][~is_held]
        shown = level.footpoints.interpolate(first, atlas.faces)[~is_held]
        shift = np.linalg.norm(shown - closest_points(places.astype(np.float64), mesh), axis=1)
        assert np.median(shift) <= most / 10
        assert np.quantile(shift, 0.95) <= most


def wire() -> Mesh:
    """A closed wire, bent to a wavy ring, 1/33 as thick as it is wide."""

    def place(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        u, v = 2 * np.pi * u, 2 * np.pi * v
        ring = 0.4 + 0.012 * np.cos(v)
        height = 0.012 * np.sin(v) + 0.05 * np.cos(3 * u)
        return np.stack([ring * np.cos(u), ring * np.sin(u), height], -1)

    return shapes.grid(240, 16, place, wraps=(True, True))


def test_thin_wires_do_not_shrink() -> None:
    mesh = wire()

    def volume(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> float:
        a, b, c = vertices.astype(np.float64)[faces].transpose(1, 0, 2)
        return float((a * np.cross(b, c)).sum()) / 6

    whole = volume(mesh.vertices, mesh.faces)
    levels = create_levels(mesh, unwrap(mesh, 256), (1000, 400))
    for level, least in zip(levels, (0.97, 0.89), strict=True):
        assert least <= volume(level.vertices, level.faces) / whole <= 1.02


def test_levels_have_unit_normals_and_tangents_across_them(content: bytes) -> None:
    glb = Glb(content)
    for mesh in glb.json["meshes"]:
        attributes = mesh["primitives"][0]["attributes"]
        normals, tangents = rows(glb, attributes["NORMAL"]), rows(glb, attributes["TANGENT"])
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(tangents[:, :3], axis=1), 1, atol=1e-5)
        assert set(tangents[:, 3]) <= {-1.0, 1.0}
        across = np.abs((normals * tangents[:, :3]).sum(axis=1))
        assert np.quantile(across, 0.99) <= 1e-3


def test_what_a_level_loses_is_in_the_extras(content: bytes) -> None:
    measured = Glb(content).json["asset"]["extras"]["lods"]
    assert [round(each["faces"], -1) for each in measured] == [12_000, *TARGETS]
    for name in ("error_voxels", "normal_degrees"):
        assert measured[0][name] < measured[1][name] < measured[2][name]
    assert measured[2]["normal_degrees"] < 15


def test_closed_meshes_stay_closed(full: Mesh) -> None:
    mesh = export.prepare(full, decimation_target=12_000)
    for level, target in zip(
        create_levels(mesh, unwrap(mesh, SIZE), TARGETS), TARGETS, strict=True
    ):
        assert len(level.faces) <= target
        assert is_watertight(level.faces, twins(level.faces, len(mesh.vertices)))


def test_faces_keep_their_places_in_the_texture(full: Mesh) -> None:
    mesh = export.prepare(full, decimation_target=12_000)
    atlas = unwrap(mesh, SIZE)

    def covered(uv: NDArray[Any], faces: NDArray[Any]) -> float:
        flat = uv[faces].astype(np.float64)
        u, v = flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]
        return float(np.abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]).sum()) / 2

    for level in create_levels(mesh, atlas, TARGETS):
        uv = level.footpoints.interpolate(atlas.uv, atlas.faces)
        wanted = covered(atlas.uv, atlas.faces)
        assert covered(uv, level.uv_faces) == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize("shape", shapes.ALL)
def test_every_mesh_gets_as_few_faces_as_asked(shape: str) -> None:
    mesh = export.prepare(shapes.ALL[shape](), decimation_target=2000)
    (level,) = create_levels(mesh, unwrap(mesh, 512), (200,))
    assert len(level.faces) <= 200
    assert (level.faces >= 0).all()


def test_faces_weigh_as_much_as_their_surroundings_are_curved() -> None:
    mesh = shapes.torus(64, 48)
    normals, at = smooth_normals(mesh).astype(np.float64), mesh.vertices.astype(np.float64)
    curvature = np.zeros(len(mesh.faces))
    for a, b in ((0, 1), (1, 2), (2, 0)):
        turn, edge = (each[mesh.faces[:, b]] - each[mesh.faces[:, a]] for each in (normals, at))
        curvature += np.linalg.norm(turn, axis=1) / np.linalg.norm(edge, axis=1)
    a, b, c = (at[mesh.faces[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    sums, areas = np.zeros((2, len(at)))
    for k in range(3):
        np.add.at(sums, mesh.faces[:, k], curvature * area)
        np.add.at(areas, mesh.faces[:, k], area)
    around = (sums / areas)[mesh.faces].mean(1)
    weights = levels._face_weights(mesh)
    assert weights == pytest.approx(around / (around @ area / area.sum()), rel=1e-4)
    assert weights.max() > 1.05 * weights.min()


def test_the_deviation_of_normals_is_that_of_the_faces() -> None:
    plate = shapes.grid(9, 9, lambda u, v: np.stack([u, v, 0 * u], -1), wraps=(False, False))
    tilted = shapes.grid(
        9, 9, lambda u, v: np.stack([u, v, np.tan(np.radians(10)) * u], -1), wraps=(False, False)
    )
    assert normal_deviation(plate, tilted) == pytest.approx(10, abs=0.01)
    turned = Mesh(plate.vertices, np.ascontiguousarray(plate.faces[:, ::-1]))
    assert normal_deviation(turned, plate) == pytest.approx(0, abs=0.01)


def silhouette(vertices: NDArray[Any], faces: NDArray[Any], view: int) -> NDArray[np.bool_]:
    """Texels that a mesh covers, seen along an oblique axis; 384 of them along the cube."""
    turn = np.linalg.qr(np.random.default_rng(view).normal(size=(3, 3)))[0]
    flat = ((vertices.astype(np.float64) @ turn)[:, :2] + 0.75) * 256
    seen = np.zeros((384, 384), bool)
    for corner in flat[faces]:
        low, high = np.ceil(corner.min(0) - 0.5), np.floor(corner.max(0) - 0.5)
        x, y = np.meshgrid(
            np.arange(low[0], high[0] + 1) + 0.5, np.arange(low[1], high[1] + 1) + 0.5
        )
        if not x.size:
            continue
        sides = [
            (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])
            for a, b in zip(corner, np.roll(corner, -1, axis=0), strict=True)
        ]
        inside = np.all(np.stack(sides) >= 0, axis=0) | np.all(np.stack(sides) <= 0, axis=0)
        seen[(y - 0.5).astype(int)[inside], (x - 0.5).astype(int)[inside]] = True
    return seen


def bumpy() -> Mesh:
    ball = shapes.sphere(96)
    x, y, z = ball.vertices.T.astype(np.float64)
    bumps = 1 + 0.1 * np.sin(12 * x) * np.sin(12 * y + 1) + 0.02 * np.cos(40 * z)
    return Mesh((ball.vertices * bumps[:, None]).astype(np.float32), ball.faces)


@pytest.mark.costly
@pytest.mark.parametrize("shape", ["links", "bumpy"])
def test_levels_of_25000_and_5000_faces_keep_the_silhouette(shape: str, full: Mesh) -> None:
    finest = full if shape == "links" else bumpy()
    one = silhouette(finest.vertices, finest.faces, 1)
    levels = create_levels(finest, unwrap(finest, 512), (25_000, 5_000))
    for level, least in zip(levels, (0.995, 0.98), strict=True):
        other = silhouette(level.vertices, level.faces, 1)
        assert (one & other).sum() / (one | other).sum() >= least


def test_a_placed_file_places_every_level(content: bytes) -> None:
    placed = formats.convert(content, PlacedFile("glb", Placement("y", 2.0, "floor")))
    nodes = Glb(placed).json["nodes"]
    assert len(nodes) == 3
    assert all(node["scale"] == nodes[0]["scale"] for node in nodes)
    assert all(node["translation"] == nodes[0]["translation"] for node in nodes)


def test_files_of_one_level_have_the_finest(content: bytes) -> None:
    stl = formats.convert(content, "stl")
    assert int.from_bytes(stl[80:84], "little") == pytest.approx(12_000, abs=10)


def test_compressed_levels_are_levels(full: Mesh) -> None:
    pytest.importorskip("meshopt")
    mesh = export.prepare(full, decimation_target=4000)
    packed = export.textured_glb(
        mesh, shapes.field(24), texture_size=64, lods=(500,), compress="meshopt"
    )
    assert len(Glb(packed).json["meshes"]) == 2
    assert {message["code"] for message in khronos.messages(packed)} <= UNKNOWN
