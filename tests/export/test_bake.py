from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.interpolate import RegularGridInterpolator

from tests.support import shapes
from tests.support.sampling import sample_field
from trellis2_server import export
from trellis2_server.export import bake
from trellis2_server.export.unwrap import unwrap
from trellis2_server.mesh import Mesh, VoxelField


def test_a_full_grid_is_sampled_as_scipy_samples_it() -> None:
    field = shapes.field(20)
    axis = (np.arange(20) + 0.5) / 20 - 0.5
    points = np.random.default_rng(0).uniform(-0.47, 0.47, (500, 3))
    wanted = RegularGridInterpolator((axis,) * 3, field.attributes.reshape(20, 20, 20, 6))(points)
    np.testing.assert_allclose(sample_field(points, field), wanted, atol=1e-6)


def test_absent_voxels_are_ignored_and_weights_renormalised() -> None:
    coords = np.array([[3, 3, 3], [4, 3, 3]], np.int32)
    field = VoxelField(coords, np.array([[0.2] * 6, [0.6] * 6], np.float32), 9)
    middle = (np.array([[4.0, 3.9, 3.1], [3.5, 3.5, 3.5], [0.5, 0.5, 0.5]]) / 9) - 0.5
    values = sample_field(middle, field)
    np.testing.assert_allclose(values[0], 0.4, atol=1e-6)
    np.testing.assert_allclose(values[1], 0.2, atol=1e-6)
    assert np.isnan(values[2]).all()


def test_values_outside_zero_to_one_are_clamped() -> None:
    coords = np.array([[0, 0, 0]], np.int32)
    field = VoxelField(coords, np.array([[-3, 0.5, 3, 0, 1, 9]], np.float32), 1)
    values = sample_field(np.zeros((1, 3)), field)
    np.testing.assert_allclose(values, [[0, 0.5, 1, 0, 1, 1]])


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([3, 4, 17, 64, 130]))
def test_all_voxels_of_a_random_set_are_found(seed: int, count: int, resolution: int) -> None:
    rng = np.random.default_rng(seed)
    coords = np.unique(rng.integers(0, resolution, (count, 3)), axis=0).astype(np.int32)
    rng.shuffle(coords)
    values = rng.random((len(coords), 6)).astype(np.float32)
    middle = (coords + 0.5) / resolution - 0.5
    found = sample_field(middle, VoxelField(coords, values, resolution))
    np.testing.assert_allclose(found, values, atol=1e-5)


@pytest.mark.costly
@pytest.mark.parametrize("shape", ["sphere", "links", "soup", "moebius", "needles"])
def test_the_closest_point_is_the_closest_of_all_faces(shape: str) -> None:
    mesh = export.prepare(shapes.ALL[shape](), decimation_target=800)
    corner = mesh.vertices[mesh.faces].astype(np.float64)
    # A dense set of points on each face represents the surface.
    w = np.random.default_rng(0).dirichlet([1, 1, 1], 400)
    dense = (w[:, None, :, None] * corner[None]).sum(2).reshape(-1, 3)
    points = np.random.default_rng(3).uniform(-0.5, 0.5, (100, 3))
    best = np.array([np.linalg.norm(dense - p, axis=1).min() for p in points])
    ours = project(mesh, points)
    away = np.linalg.norm(ours - points, axis=1)
    inside = np.isfinite(away)
    assert inside.sum() > 80
    best, away = best[inside], away[inside]
    assert (away <= best + 1e-6).all()
    assert (best - away < 0.015).all()


def project(mesh: Mesh, points: np.ndarray) -> np.ndarray:
    """The closest points by `bake`, decoded from a field whose colours are positions."""
    resolution = 8
    axis = np.arange(resolution, dtype=np.int32)
    coords = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    positions = np.zeros((len(coords), 6), np.float32)
    positions[:, :3] = (coords + 0.5) / resolution
    found = sample_field(points, VoxelField(coords, positions, resolution), mesh)[:, :3] - 0.5
    # Beyond the centres of the outermost voxels, the field is constant.
    return np.where(np.abs(found) < 0.4374, found, np.nan)


@pytest.mark.parametrize("shape", shapes.ALL)
def test_every_face_has_data(shape: str) -> None:
    mesh = export.prepare(shapes.ALL[shape](), decimation_target=3000)
    atlas = unwrap(mesh, 256)
    maps = bake.bake(mesh, atlas, bake.build_index(shapes.field()))
    middle = atlas.uv[atlas.faces].mean(1)
    x, y = np.clip(middle, 0, 255.999).astype(int).T
    assert (maps.covered[y, x] > 0).all()


def test_texels_have_the_colour_of_their_position() -> None:
    mesh = shapes.torus()
    atlas = unwrap(mesh, 256)
    maps = bake.bake(mesh, atlas, bake.build_index(shapes.field(96)))
    middle = atlas.uv[atlas.faces].mean(1)
    x, y = middle.astype(int).T
    wanted = 255 * shapes.colors(mesh.vertices[mesh.faces].mean(1))
    assert np.abs(maps.base_color[y, x] - wanted[:, [0, 1, 2, 5]]).mean() < 3
    assert np.abs(maps.metal_rough[y, x, 1] - wanted[:, 4]).mean() < 3
    assert np.abs(maps.metal_rough[y, x, 2] - wanted[:, 3]).mean() < 3


def test_texels_outside_all_faces_get_the_colours_of_the_nearest_ones() -> None:
    mesh = shapes.sphere(12)
    coords = shapes.field(8).coords
    red = np.tile(np.array([1, 0.5, 0.25, 0, 1, 1], np.float32), (len(coords), 1))
    maps = bake.bake(mesh, unwrap(mesh, 128), bake.build_index(VoxelField(coords, red, 8)))
    assert (maps.covered == 0).any()
    np.testing.assert_array_equal(
        np.unique(maps.base_color.reshape(-1, 4), axis=0), [[255, 128, 64, 255]]
    )


def test_a_decimated_mesh_takes_its_colours_from_the_original() -> None:
    original = shapes.sphere(48)
    mesh = export.prepare(original, decimation_target=24)
    coords = shapes.field(64).coords
    radius = np.linalg.norm((coords + 0.5) / 64 - 0.5, axis=1)
    # Green near the original surface, red farther inside.
    values = np.where(radius[:, None] > 0.365, [0, 1, 0, 0, 1, 1], [1, 0, 0, 0, 1, 1])
    field = VoxelField(coords, values.astype(np.float32), 64)
    atlas = unwrap(mesh, 128)
    near = bake.bake(mesh, atlas, bake.build_index(field, original))
    far = bake.bake(mesh, atlas, bake.build_index(field))
    assert (near.base_color[near.covered == 1][:, 0] > 0).sum() == 0
    assert (far.base_color[far.covered == 1][:, 0] > 0).mean() > 0.2


@pytest.mark.parametrize("shape", ["noisy_blob", "thin_box", "needles"])
def test_a_search_with_a_seed_finds_the_same_points_as_one_without(shape: str) -> None:
    original = shapes.ALL[shape]()
    mesh = export.prepare(original, decimation_target=500)
    field, atlas = shapes.field(64), unwrap(mesh, 128)
    owner = bake.rasterize(atlas, gutter=0)
    maps = bake.bake(mesh, atlas, bake.build_index(field, original))
    row, column = np.nonzero(owner >= 0)
    face = owner[row, column]
    a, b, c = (atlas.uv[atlas.faces[face, k]].astype(np.float64) for k in range(3))
    texel = np.stack([column + 0.5, row + 0.5], 1)
    sides = np.stack([b - a, c - a], 2)
    wide = np.abs(np.linalg.det(sides)) > 0.1
    sides, texel, face, a = sides[wide], texel[wide], face[wide], a[wide]
    s, t = np.linalg.solve(sides, (texel - a)[..., None])[..., 0].T
    weights = np.stack([1 - s - t, s, t], 1).clip(0)
    weights /= weights.sum(1, keepdims=True)
    places = (weights[..., None] * mesh.vertices[mesh.faces[face]]).sum(1)
    wanted = 255 * sample_field(places, field, original)
    have = maps.base_color[row[wide], column[wide]]
    assert len(have) > 1000
    assert np.abs(have - wanted[:, [0, 1, 2, 5]]).max() < 0.51


@pytest.mark.parametrize(("size", "width"), [(128, 2), (1024, 3)])
def test_a_gutter_with_the_colours_of_the_chart_is_around_each_chart(size: int, width: int) -> None:
    mesh = shapes.sphere(6)
    coords = shapes.field(8).coords
    values = np.full((len(coords), 6), 0.5, np.float32)
    maps = bake.bake(mesh, unwrap(mesh, size), bake.build_index(VoxelField(coords, values, 8)))
    inside = maps.covered == 1
    near = ndimage.binary_dilation(inside, np.ones((3, 3)), width)
    assert (near & ~inside).sum() > 100
    np.testing.assert_array_equal(maps.covered == 2, near & ~inside)
