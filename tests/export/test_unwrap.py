from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import dual_grid, shapes
from trellis2_server import export
from trellis2_server.errors import ExportError, MissingPackageError
from trellis2_server.export.unwrap import Atlas, unwrap, unwrap_with_xatlas
from trellis2_server.mesh import Mesh


def prepared(shape: str) -> Mesh:
    return export.prepare(shapes.ALL[shape](), decimation_target=4000)


def texels(atlas: Atlas) -> np.ndarray:
    """How many faces cover the middle of each texel, leaving out those on an edge."""
    count = np.zeros((atlas.size_px, atlas.size_px), int)
    for corner in atlas.uv[atlas.faces].astype(np.float64):
        low = np.floor(corner.min(0)).astype(int)
        high = np.ceil(corner.max(0)).astype(int)
        x, y = np.meshgrid(np.arange(low[0], high[0]) + 0.5, np.arange(low[1], high[1]) + 0.5)
        sides = []
        for k in range(3):
            (ax, ay), (bx, by) = corner[k], corner[(k + 1) % 3]
            sides.append((bx - ax) * (y - ay) - (by - ay) * (x - ax))
        side = np.stack(sides)
        inside = (side > 1e-7).all(0) | (side < -1e-7).all(0)
        count[low[1] : high[1], low[0] : high[0]] += inside
    return count


@pytest.mark.parametrize("shape", shapes.ALL)
def test_every_face_gets_a_place_in_the_texture(shape: str) -> None:
    mesh = prepared(shape)
    atlas = unwrap(mesh, 256)
    assert np.isfinite(atlas.uv).all()
    assert atlas.uv.min() >= 0
    assert atlas.uv.max() <= 256
    np.testing.assert_array_equal(atlas.source[atlas.faces], mesh.faces)
    assert atlas.chart.min() >= 0


@pytest.mark.parametrize("shape", shapes.ALL)
def test_no_two_faces_share_a_texel(shape: str) -> None:
    count = texels(unwrap(prepared(shape), 512))
    # Rounding between the test for overlaps and the final scale may leave a few at creases.
    assert (count > 1).sum() <= 0.002 * (count > 0).sum()


@pytest.mark.parametrize(("shape", "use"), [("hair", 0.4), ("crowded", 0.55)])
def test_stringy_charts_are_packed_apart_and_close(shape: str, use: float) -> None:
    mesh = dual_grid.voxelised(dual_grid.REAL[shape](), 128)
    atlas = unwrap(export.prepare(mesh, decimation_target=10_000), 512)
    count = texels(atlas)
    assert (count > 1).sum() <= 0.002 * (count > 0).sum()
    assert (count > 0).mean() > use


@pytest.mark.parametrize(("shape", "limit"), [("bolt", 1.02), ("hair", 1.1)])
def test_what_is_bent_along_a_rim_lies_flat(shape: str, limit: float) -> None:
    made = dual_grid.voxelised(dual_grid.REAL[shape](), 128)
    mesh = export.prepare(made, decimation_target=40_000)
    atlas = unwrap(mesh, 1024)
    corner = mesh.vertices[mesh.faces].astype(np.float64)
    flat = atlas.uv[atlas.faces].astype(np.float64)
    edge = np.linalg.norm(corner - np.roll(corner, -1, axis=1), axis=2).max(axis=1)
    texels = np.linalg.norm(flat - np.roll(flat, -1, axis=1), axis=2).max(axis=1)
    area = np.linalg.norm(
        np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1
    )
    order = np.argsort(edge / texels)
    share = np.cumsum(area[order]) / area.sum()
    middle, high = (edge / texels)[order][np.searchsorted(share, [0.5, 0.99])]
    assert high / middle < limit


@pytest.mark.parametrize("shape", ["torus", "sphere", "noisy_blob", "links", "sheet"])
def test_the_density_is_the_same_everywhere(shape: str) -> None:
    mesh = prepared(shape)
    atlas = unwrap(mesh, 512)
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(np.float64) for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    d, e, f = (atlas.uv[atlas.faces[:, k]].astype(np.float64) for k in range(3))
    flat = np.abs(np.cross(np.pad(e - d, ((0, 0), (0, 1))), np.pad(f - d, ((0, 0), (0, 1))))[:, 2])
    ratio = flat / area
    order = np.argsort(ratio)
    share = np.cumsum(area[order]) / area.sum()
    low, high = ratio[order][np.searchsorted(share, [0.05, 0.95])]
    assert high / low < 2
    assert 0.5 * flat.sum() > 0.45 * 512**2


def test_a_sheet_seen_from_the_front_is_one_chart() -> None:
    atlas = unwrap(shapes.sheet(), 256)
    assert np.bincount(atlas.chart).max() > 0.5 * len(atlas.faces)


def test_the_same_mesh_gets_the_same_atlas() -> None:
    first, second = (unwrap(prepared("noisy_blob"), 256) for _ in range(2))
    np.testing.assert_array_equal(first.uv, second.uv)
    np.testing.assert_array_equal(first.faces, second.faces)


def test_too_many_parts_for_a_small_texture_are_refused() -> None:
    mesh = shapes.soup()
    with pytest.raises(ExportError, match="do not fit"):
        unwrap(export.prepare(mesh, decimation_target=10_000), 16)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_charts_of_any_size_are_packed_apart(data: st.DataObject) -> None:
    sizes = data.draw(
        st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)), min_size=1, max_size=30)
    )
    parts = [
        Mesh(
            np.array([[0, i, 0], [w, i, 0], [w, i, h], [0, i, h]], np.float32),
            np.array([[0, 1, 2], [0, 2, 3]], np.int32),
        )
        for i, (w, h) in enumerate(sizes)
    ]
    atlas = unwrap(shapes.joined(*parts), 256)
    assert texels(atlas).max() <= 1
    # Two texels of air between any two charts.
    owner = np.full((256, 256), -1)
    for face, chart in zip(atlas.uv[atlas.faces], atlas.chart, strict=True):
        low, high = np.floor(face.min(0)).astype(int), np.ceil(face.max(0)).astype(int)
        there = owner[low[1] : high[1], low[0] : high[0]]
        assert set(np.unique(there)) <= {-1, chart}
        there[:] = chart


def test_xatlas_makes_an_atlas_in_another_process() -> None:
    mesh = prepared("torus")
    try:
        atlas = unwrap_with_xatlas(mesh, 256)
    except MissingPackageError as error:
        pytest.skip(str(error))
    np.testing.assert_array_equal(atlas.source[atlas.faces], mesh.faces)
    assert atlas.uv.min() >= 0
    assert atlas.uv.max() <= 256
    count = texels(atlas)
    assert (count > 1).sum() <= 0.002 * (count > 0).sum()


def singular_values(mesh: Mesh, atlas: Atlas) -> tuple[np.ndarray, np.ndarray]:
    """Of each face's map from its own plane into the texture, float64 [F, 2]; and its area."""
    corner = mesh.vertices[mesh.faces].astype(np.float64)
    p, q = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    long = np.linalg.norm(p, axis=1)
    along = (p * q).sum(1) / long
    up = np.linalg.norm(np.cross(p, q), axis=1) / long
    plane = np.stack([np.stack([long, along], 1), np.stack([0 * up, up], 1)], 1)
    flat = atlas.uv[atlas.faces].astype(np.float64)
    moved = np.stack([flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]], 2)
    values = np.linalg.svd(moved @ np.linalg.inv(plane), compute_uv=False)
    return values, 0.5 * long * up


def test_a_bent_chart_is_laid_out_in_the_size_that_its_faces_have_in_space() -> None:
    mesh = prepared("sphere")
    values, area = singular_values(mesh, unwrap(mesh, 1024))
    stretch = 1 / values[:, 1]
    order = np.argsort(stretch)
    share = np.cumsum(area[order]) / area.sum()
    median, p99 = stretch[order][np.searchsorted(share, [0.5, 0.99])]
    # Seen along their axes, the charts have 1.13.
    assert p99 / median < 1.04


@pytest.mark.parametrize("shape", ["noisy_blob", "links", "moebius", "thin_box", "soup"])
def test_no_face_of_a_chart_is_turned_over(shape: str) -> None:
    atlas = unwrap(prepared(shape), 512)
    flat = atlas.uv[atlas.faces].astype(np.float64)
    p, q = flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]
    twice = p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]
    whole = np.bincount(atlas.chart, twice)
    assert (twice * np.sign(whole)[atlas.chart] > -1e-3).all()


def test_a_ring_is_cut_where_it_would_enclose_a_hole() -> None:
    def place(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        ring = 0.35 + 0.1 * v
        return np.stack([ring * np.cos(2 * np.pi * u), ring * np.sin(2 * np.pi * u), 0 * u], -1)

    atlas = unwrap(shapes.grid(200, 5, place, wraps=(True, False)), 512)
    assert atlas.chart.max() + 1 >= 4
    assert (texels(atlas) > 0).mean() > 0.4
