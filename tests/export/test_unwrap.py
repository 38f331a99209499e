from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support import dual_grid, shapes
from tests.support.atlases import texels
from trellis2_server import export
from trellis2_server.errors import TooLargeError
from trellis2_server.export.unwrap import unwrap
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from trellis2_server.export.atlas import Atlas


def prepared(shape: str) -> Mesh:
    return export.prepare(shapes.ALL[shape](), decimation_target=4000)


@pytest.mark.parametrize("shape", shapes.ALL)
def test_every_face_has_texture_coordinates(shape: str) -> None:
    mesh = prepared(shape)
    atlas = unwrap(mesh, 256)
    assert np.isfinite(atlas.uv).all()
    assert atlas.uv.min() >= 0
    assert atlas.uv.max() <= 256
    np.testing.assert_array_equal(atlas.source[atlas.faces], mesh.faces)
    assert atlas.chart.min() >= 0


@pytest.mark.costly
@pytest.mark.parametrize("shape", shapes.ALL)
def test_no_two_faces_share_a_texel(shape: str) -> None:
    count = texels(unwrap(prepared(shape), 512))
    # A few at creases are possible: overlaps are tested at another scale than the final one.
    assert (count > 1).sum() <= 0.002 * (count > 0).sum()


@pytest.mark.costly
@pytest.mark.parametrize(("shape", "use"), [("hair", 0.4), ("crowded", 0.55)])
def test_long_thin_charts_are_packed_closely_without_overlaps(shape: str, use: float) -> None:
    mesh = dual_grid.voxelised(dual_grid.REAL[shape](), 128)
    atlas = unwrap(export.prepare(mesh, decimation_target=10_000), 512)
    count = texels(atlas)
    assert (count > 1).sum() <= 0.002 * (count > 0).sum()
    assert (count > 0).mean() > use


@pytest.mark.costly
@pytest.mark.parametrize(("shape", "limit"), [("bolt", 1.02), ("hair", 1.1)])
def test_charts_bent_along_a_rim_are_flattened(shape: str, limit: float) -> None:
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


def test_most_of_a_wavy_sheet_is_one_chart() -> None:
    atlas = unwrap(shapes.sheet(), 256)
    assert np.bincount(atlas.chart).max() > 0.5 * len(atlas.faces)


def test_the_same_mesh_gets_the_same_atlas() -> None:
    first, second = (unwrap(prepared("noisy_blob"), 256) for _ in range(2))
    np.testing.assert_array_equal(first.uv, second.uv)
    np.testing.assert_array_equal(first.faces, second.faces)


def test_too_many_charts_for_a_small_texture_are_an_error() -> None:
    mesh = shapes.soup()
    with pytest.raises(TooLargeError, match="do not fit"):
        unwrap(export.prepare(mesh, decimation_target=10_000), 16)


def test_hopelessly_many_charts_are_refused_before_they_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    corners = np.random.default_rng(0).random((5_000, 3, 3)).astype(np.float32)
    loose = Mesh(corners.reshape(-1, 3), np.arange(15_000, dtype=np.int32).reshape(-1, 3))
    sphere = shapes.sphere()
    folded = sphere.vertices.copy()  # connected, with a group for nearly every face
    folded[:] += np.random.default_rng(0).normal(size=folded.shape)
    with monkeypatch.context() as patch:
        patch.delattr("trellis2_server.export.unwrap.build_charts")
        with pytest.raises(TooLargeError, match="charts do not fit into a texture"):
            unwrap(Mesh(folded, sphere.faces), 16)
        with pytest.raises(NameError):  # 5000 texels with gaps could fit
            unwrap(loose, 256)
        patch.delattr("trellis2_server.export.unwrap.group_faces")
        with pytest.raises(TooLargeError, match="5000 charts do not fit into a texture"):
            unwrap(loose, 128)


def singular_values(mesh: Mesh, atlas: Atlas) -> tuple[np.ndarray, np.ndarray]:
    """Singular values of each face's map from its plane into the texture [F, 2], and areas [F]."""
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


def test_the_faces_of_a_bent_chart_have_their_size_in_space() -> None:
    mesh = prepared("sphere")
    values, area = singular_values(mesh, unwrap(mesh, 1024))
    stretch = 1 / values[:, 1]
    order = np.argsort(stretch)
    share = np.cumsum(area[order]) / area.sum()
    median, p99 = stretch[order][np.searchsorted(share, [0.5, 0.99])]
    # It is 1.13 for charts that are only projected.
    assert p99 / median < 1.04


@pytest.mark.parametrize("shape", ["noisy_blob", "links", "moebius", "thin_box", "soup"])
def test_no_face_of_a_chart_is_flipped(shape: str) -> None:
    atlas = unwrap(prepared(shape), 512)
    flat = atlas.uv[atlas.faces].astype(np.float64)
    p, q = flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]
    twice = p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]
    whole = np.bincount(atlas.chart, twice)
    assert (twice * np.sign(whole)[atlas.chart] > -1e-3).all()


def test_a_ring_that_would_enclose_a_hole_is_cut() -> None:
    def place(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        ring = 0.35 + 0.1 * v
        return np.stack([ring * np.cos(2 * np.pi * u), ring * np.sin(2 * np.pi * u), 0 * u], -1)

    atlas = unwrap(shapes.grid(200, 5, place, wraps=(True, False)), 512)
    assert atlas.chart.max() + 1 >= 4
    assert (texels(atlas) > 0).mean() > 0.4
