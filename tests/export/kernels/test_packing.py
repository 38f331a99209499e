"""Packing of a few charts, cell by cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support import shapes
from tests.support.atlases import texels
from trellis2_server.export import packing
from trellis2_server.export.adjacency import twins
from trellis2_server.export.charts import project_charts
from trellis2_server.export.outlines import chart_rims, outlined_cells, outlines
from trellis2_server.export.unwrap import unwrap
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.export.charts import Charts

    Floats = NDArray[np.float64]


def polygons(seed: int, count: int) -> tuple[Charts, NDArray[np.int32]]:
    """Charts of one to four faces each: fans over random, mostly hollow or thin outlines."""
    random = np.random.default_rng(seed)
    vertices: list[Floats] = []
    faces: list[list[int]] = []
    chart: list[int] = []
    for number in range(count):
        corners = int(random.integers(3, 7))
        angles = np.sort(random.uniform(0, 5, corners - 1))
        radius = random.uniform(0.3, 1, corners - 1) * random.choice([0.3, 1.0])
        rim = np.stack([radius * np.cos(angles), radius * np.sin(angles)], 1)
        start = len(vertices)
        vertices += [np.zeros(2), *(rim * [1, random.choice([0.2, 1])])]
        faces += [[start, start + k, start + k + 1] for k in range(1, corners - 1)]
        chart += [number] * (corners - 2)
    places = np.pad(np.array(vertices), ((0, 0), (0, 1))).astype(np.float32)
    mesh = Mesh(places, np.array(faces, np.int32))
    axes = np.tile(np.float32([0, 0, 1]), (count, 1))
    charts = project_charts(mesh, np.array(chart, np.int32), axes)
    return charts, twins(mesh.faces, len(places))


def passed_cells(start: Floats, end: Floats) -> set[tuple[int, int]]:
    """The cells that a segment passes: those with a part of it."""
    cuts = [0.0, 1.0]
    for a, b in zip(start, end, strict=True):
        if a != b:
            low, high = sorted((a, b))
            cuts += [(at - a) / (b - a) for at in np.arange(np.ceil(low), np.floor(high) + 1)]
    times = np.unique(np.clip(cuts, 0, 1))
    middles = (times[1:] + times[:-1]) / 2 if len(times) > 1 else times
    return {tuple(np.floor(start + t * (end - start)).astype(int).tolist()) for t in middles}


@pytest.mark.parametrize("gap", [0, 1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_an_outline_has_the_first_and_last_cell_of_each_row_and_column(seed: int, gap: int) -> None:
    charts, twin = polygons(seed, 5)
    charts = packing._aligned(charts)
    edges, owner = chart_rims(charts.uv_faces, charts.chart, twin)
    scale = 9.3
    box = charts.boxes()[1]
    cells = np.ceil(box * scale).astype(np.int64) + 1 + 2 * gap
    first, low, high = outlines(charts.flat, edges, owner, scale, gap, cells)
    counts = outlined_cells(first, low, high, cells)
    for number in range(charts.count):
        wide, tall = cells[number]
        touched: set[tuple[int, int]] = set()
        for a, b in edges[owner == number]:
            touched |= passed_cells(charts.flat[a] * scale + gap, charts.flat[b] * scale + gap)
        spread = {
            (x + i, y + j)
            for x, y in touched
            for i in range(-gap, gap + 1)
            for j in range(-gap, gap + 1)
            if 0 <= x + i < wide and 0 <= y + j < tall
        }
        start = first[number]
        for axis, length in ((0, tall), (1, wide)):
            total = 0
            for row in range(length):
                found = [cell[axis] for cell in spread if cell[1 - axis] == row]
                at = start + row + (tall if axis else 0)
                if found:
                    assert (low[at], high[at]) == (min(found), max(found))
                    total += max(found) - min(found) + 1
                else:
                    assert high[at] < low[at]
            assert counts[axis, number] == total


@pytest.mark.parametrize(
    ("seed", "count", "size"), [(0, 1, 24), (1, 6, 40), (2, 14, 48), (3, 30, 64)]
)
def test_packed_charts_share_no_cell_and_keep_their_shape(seed: int, count: int, size: int) -> None:
    charts, twin = polygons(seed, count)
    uv = packing.pack(charts, twin, size).astype(np.float64)
    taken: set[tuple[int, int]] = set()
    scales: list[float] = []
    edges, owner = chart_rims(charts.uv_faces, charts.chart, twin)
    for number in range(count):
        rows = slice(charts.start[number], charts.start[number + 1])
        placed, flat = uv[rows], charts.flat[rows]
        away = [np.linalg.norm(p[:, None] - p, axis=2) for p in (placed, flat)]
        ratio = away[0][away[1] > 0] / away[1][away[1] > 0]
        assert np.ptp(ratio) < 1e-3 * ratio.mean()
        scales.append(float(ratio.mean()))
        cells: set[tuple[int, int]] = set()
        for a, b in edges[owner == number]:
            cells |= passed_cells(uv[a], uv[b])
        # With the free texel around it, it is within the texture and meets no other.
        around = {(x + i, y + j) for x, y in cells for i in (-1, 0, 1) for j in (-1, 0, 1)}
        assert min(min(cell) for cell in around) >= 0
        assert max(max(cell) for cell in around) < size
        assert not cells & taken
        taken |= around
    assert np.ptp(scales) < 1e-3 * scales[0]
    # The largest scale at which they fit is found: a quarter of the texture is used at least.
    assert count == 1 or charts.face_areas().sum() * scales[0] ** 2 > 0.2 * size * size


def test_charts_are_turned_into_their_smallest_boxes() -> None:
    random = np.random.default_rng(0)
    for _ in range(6):
        angle, wide, tall = random.uniform(0, np.pi), *random.uniform(0.1, 1, 2)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        corners = np.array([[0, 0], [wide, 0], [wide, tall], [0, tall]]) @ turn.T
        places = np.pad(corners, ((0, 0), (0, 1))).astype(np.float32)
        mesh = Mesh(places, np.array([[0, 1, 2], [0, 2, 3]], np.int32))
        charts = project_charts(mesh, np.zeros(2, np.int32), np.float32([[0, 0, 1]]))
        flat = packing._aligned(charts).flat
        np.testing.assert_allclose(flat.min(axis=0), 0, atol=1e-12)
        # Of 24 angles in a quarter turn, one is at most 1.9 degrees off; 2 % are no reason to turn.
        slack = np.sin(np.radians(1.9)) * (wide**2 + tall**2)
        assert flat.max(axis=0).prod() <= (wide * tall + slack) / 0.98


@pytest.mark.parametrize(("size", "gap"), [(1024, 1), (2048, 2)])
def test_large_textures_have_two_free_texels_around_charts(size: int, gap: int) -> None:
    atlas = unwrap(
        shapes.grid(2, 2, lambda u, v: np.stack([u, v, 0 * u], -1), wraps=(False,) * 2), size
    )
    np.testing.assert_allclose(atlas.uv.min(axis=0), gap, atol=1e-3)
    assert (atlas.uv.max(axis=0) > 0.9 * size).all()
    assert (atlas.uv.max(axis=0) <= size - gap).all()


@pytest.mark.parametrize("size", [126, 127, 128])
def test_a_texture_that_is_packed_coarsely_is_filled(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As textures of 4096 are; those of odd size are not."""
    monkeypatch.setattr("trellis2_server.export.unwrap._COARSE_PACKING_PX", 127)
    atlas = unwrap(shapes.sphere(5), size)
    count = texels(atlas)
    assert (count > 0).mean() > 0.35
    assert (count > 1).sum() <= 2
    assert (atlas.uv.max(axis=0) > 0.85 * size).all()
