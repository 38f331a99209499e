"""What the benchmark of the preview engine measures, on models of which the figures are known."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from bench.preview import beside, summary
from bench.preview_discs import DISCS, disc
from bench.preview_maps import angles, back_contrast, front_maps, spearman
from bench.preview_shapes import LIGHTS, SHAPES, SIZE_PX, picture, truth
from tests.bench.test_render import pack


def as_glb(mesh: trimesh.Trimesh) -> bytes:
    mesh.visual = trimesh.visual.ColorVisuals()
    return trimesh.Scene(mesh).export(file_type="glb")


@given(arrays(np.float64, (2, 20), elements=st.integers(-3, 3)))
@settings(max_examples=20, deadline=None)
def test_the_rank_correlation_is_that_of_scipy(values: np.ndarray) -> None:
    if np.ptp(values, axis=1).min() == 0:
        assert spearman(*values) == 0
    else:
        assert spearman(*values) == pytest.approx(stats.spearmanr(*values).statistic)


def test_the_truth_of_a_sphere_is_a_sphere() -> None:
    known = truth("sphere")
    rows, columns = np.nonzero(known.mask)
    radius = (np.ptp(columns) + 1) / 2
    x, y = (columns - columns.mean()) / radius, -(rows - rows.mean()) / radius
    inner = np.hypot(x, y) < 0.95
    z = np.sqrt(1 - (x**2 + y**2)[inner])
    depth = known.depth[known.mask][inner]
    assert np.corrcoef(depth, z)[0, 1] > 0.999
    expected = np.stack([x[inner], y[inner], z], 1)
    assert np.median(angles(known.normals[known.mask][inner], expected)) < 2
    assert np.isnan(known.depth[~known.mask]).all()
    assert known.depth_per_width == pytest.approx(1, abs=0.01)


def test_a_model_that_is_the_truth_has_the_best_figures() -> None:
    known = truth("sphere")
    maps = front_maps(as_glb(trimesh.creation.icosphere(5, 0.4)), known.mask)
    both = maps.covered & known.mask
    assert (maps.covered ^ known.mask).sum() < 0.01 * known.mask.sum()
    assert spearman(maps.depth[both], known.depth[both]) > 0.999
    assert np.median(angles(maps.normals, known.normals)[both]) < 2
    assert maps.depth_per_width == pytest.approx(1, abs=0.01)
    assert maps.depth.max() == pytest.approx((np.ptp(np.nonzero(known.mask)[1]) + 1) / 2, abs=1)


def test_a_model_that_is_not_the_truth_has_worse_ones() -> None:
    known = truth("sphere")
    flat = trimesh.creation.icosphere(4, 0.4).apply_scale((1, 1, 0.25))
    maps = front_maps(as_glb(flat), known.mask)
    assert maps.depth_per_width == pytest.approx(0.25, abs=0.01)
    assert np.median(angles(maps.normals, known.normals)[maps.covered & known.mask]) > 20


def test_each_light_shows_another_picture_of_the_same_outline() -> None:
    shown = [picture("sphere", light) for light in LIGHTS]
    for each in shown:
        assert each.shape == (SIZE_PX, SIZE_PX, 4)
        assert (each[..., 3] == shown[0][..., 3]).all()
    middle = SIZE_PX // 2
    left, right = (image[middle, [middle // 2, -middle // 2], :3].mean(1) for image in shown[:2])
    assert left[0] > right[0] + 20
    assert right[1] > left[1] + 20
    assert len(SHAPES) >= 12


def test_the_discs_differ_in_their_paint_only() -> None:
    shown = {name: disc(name) for name in DISCS}
    for name, each in shown.items():
        assert (each[..., 3] == shown["plain"][..., 3]).all()
        spread = each[..., :3][each[..., 3] == 255].std()
        assert (spread > 15) == (name != "plain")


def two_sided(front: np.ndarray, back: np.ndarray) -> bytes:
    """Return a plate of two quads with one picture on each side."""
    texture = np.concatenate([front, back], 1)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32) / 2
    positions = np.concatenate(
        [np.pad(corners, ((0, 0), (0, 1)), constant_values=side) for side in (0.01, -0.01)]
    )
    u = np.array([[0, 1], [0.5, 1], [0.5, 0], [0, 0]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 6, 5], [4, 7, 6]], np.uint32)
    return pack(positions, np.concatenate([u, u + np.float32([0.5, 0])]), faces, texture)


@pytest.mark.costly
def test_the_contrast_of_a_back_is_that_of_its_picture() -> None:
    y, x = np.mgrid[:256, :256]
    check = np.repeat(np.where((x // 16 + y // 16) % 2, 200, 60)[..., None], 3, 2).astype(np.uint8)
    grey = np.full_like(check, 130)
    assert back_contrast(two_sided(check, check), 128) == pytest.approx(1, abs=0.05)
    assert back_contrast(two_sided(check, grey), 128) < 0.05


def test_rows_stand_beside_those_of_another_checkout_and_are_summed_up() -> None:
    rows = [
        beside({"shape": "a", "truth": 1.0, "angle": 10.0, "is_closed": True},
               {"shape": "a", "truth": 1.0, "angle": 20.0, "is_closed": True}),
        beside({"shape": "b", "truth": 1.0, "angle": 20.0, "is_closed": False},
               {"shape": "b", "truth": 1.0, "angle": 20.0, "is_closed": True}),
    ]  # fmt: skip
    assert summary("shapes", rows) == {
        "of": "shapes", "rows": 2, "truth": 1.0, "angle": 15.0, "is_closed": False,
        "against_angle": 20.0, "against_is_closed": True,
    }  # fmt: skip
