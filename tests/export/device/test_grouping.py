"""Grouping in PyTorch, with tensors on the CPU, compared with the compiled loops."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch")

from tests.support import dual_grid, shapes
from trellis2_server import export
from trellis2_server.export.adjacency import twins
from trellis2_server.export.device.grouping import grouping_on
from trellis2_server.export.grouping import group_faces
from trellis2_server.export.kernels import grouping as kernels
from trellis2_server.export.unwrap import unwrap
from trellis2_server.export.validation import checked_mesh


@pytest.mark.parametrize("shape", [*shapes.ALL, "cloth", "crowded"])
def test_charts_are_connected_and_as_good_as_with_the_loops(shape: str) -> None:
    make = (shapes.ALL | dual_grid.REAL)[shape]
    mesh = export.prepare(checked_mesh(make()), decimation_target=4000)
    charts: list[np.ndarray] = []
    areas: list[float] = []
    for grouping in (group_faces, grouping_on("cpu")):
        atlas = unwrap(mesh, 512, grouping=grouping)
        charts.append(atlas.chart)
        flat = atlas.uv[atlas.faces].astype(np.float64)
        p, q = flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]
        areas.append(float(np.abs(p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum()))
        # Each chart is connected, and there are no further components.
        parts = np.empty_like(atlas.chart)
        twin = twins(mesh.faces, len(mesh.vertices))
        count = kernels.connected_components(twin, atlas.chart, parts, np.empty_like(parts))
        assert count == len(np.unique(atlas.chart)) == atlas.chart.max() + 1
    ours, theirs = (chart.max() + 1 for chart in charts)
    assert theirs <= 1.3 * ours + 8
    assert areas[1] > 0.9 * areas[0]


def test_the_same_mesh_has_the_same_groups() -> None:
    mesh = export.prepare(shapes.ALL["noisy_blob"](), decimation_target=4000)
    first, second = (unwrap(mesh, 256, grouping=grouping_on("cpu")) for _ in range(2))
    np.testing.assert_array_equal(first.uv, second.uv)
