from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.export import shapes
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
