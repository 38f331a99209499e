"""Time and memory of an export depend on faces and texels, on no ratio of lengths."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress

import numpy as np
import pytest

from tests.support import hostile_shapes, shapes
from trellis2_server.errors import ExportError
from trellis2_server.export import bake
from trellis2_server.export.charts import _largest_grid
from trellis2_server.export.unwrap import unwrap

SIZE_PX = 256


@pytest.mark.parametrize("name", hostile_shapes.HOSTILE)
def test_the_memory_of_unwrapping_is_bounded_by_faces_and_texels(name: str) -> None:
    unwrap(shapes.sphere(2), 32)  # what is loaded once does not count
    mesh = hostile_shapes.HOSTILE[name]()
    tracemalloc.start()
    try:
        with suppress(ExportError):  # too many charts for this texture
            atlas = unwrap(mesh, SIZE_PX)
            assert bool(np.isfinite(atlas.uv).all())
            assert 0.0 <= float(atlas.uv.min()) <= float(atlas.uv.max()) <= SIZE_PX
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    # A needle took 850,000 bytes.
    assert peak < 1000 * len(mesh.faces) + 64 * SIZE_PX * SIZE_PX + (1 << 25)


@pytest.mark.parametrize("name", ["without area", "far apart", "one needle", "hub", "rounded"])
def test_meshes_with_few_charts_fit_into_a_texture(name: str) -> None:
    atlas = unwrap(hostile_shapes.HOSTILE[name](), 1024)
    assert bool(np.isfinite(atlas.uv).all())
    assert float(np.ptp(atlas.uv, axis=0).max()) > 100


def test_grids_of_usual_charts_are_not_limited_and_those_of_needles_share_a_budget() -> None:
    assert _largest_grid(np.full(100, 5000), 1000, 256) == np.inf
    cells = np.array([10, 50, 10**6, 10**8, 10**8])
    limit = _largest_grid(cells, 5, 256)
    assert np.minimum(cells, limit).sum() == pytest.approx(32 * 256 * 256 + 64 * 5)


def test_large_faces_all_over_the_box_do_not_fill_every_cell() -> None:
    corners = np.random.default_rng(5).uniform(-0.5, 0.5, (4000, 3, 3))
    mesh = hostile_shapes.separate(corners)
    *_, members, _ = bake.index_faces(mesh)
    assert len(members) < 64 * len(mesh.faces)
    points = np.random.default_rng(6).uniform(-0.5, 0.5, (20, 3))
    closest = bake.closest_points(points, mesh)
    vertices = mesh.vertices[mesh.faces].astype(np.float64)
    nearest = np.linalg.norm(vertices - points[:, None, None], axis=3).min(axis=(1, 2))
    assert (np.linalg.norm(closest - points, axis=1) <= nearest + 1e-6).all()
