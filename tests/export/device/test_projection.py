"""Closest points in PyTorch, with tensors on the CPU, compared with the compiled loops."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from tests.support import shapes  # noqa: E402
from trellis2_server.export import bake  # noqa: E402
from trellis2_server.export.device.projection import closest_points  # noqa: E402
from trellis2_server.export.validation import checked_mesh  # noqa: E402


@pytest.mark.parametrize("shape", ["sphere", "links", "soup", "needles"])
def test_the_closest_points_are_as_close_as_those_of_the_loops(shape: str) -> None:
    mesh = checked_mesh(shapes.ALL[shape]())
    points = np.random.default_rng(3).uniform(-0.6, 0.6, (500, 3))
    found = closest_points(
        torch.from_numpy(points), torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces)
    ).numpy()
    wanted = bake.closest_points(points, mesh)
    away, best = (np.linalg.norm(p - points, axis=1) for p in (found, wanted))
    np.testing.assert_allclose(away, best, atol=1e-6)
