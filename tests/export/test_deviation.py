from __future__ import annotations

import numpy as np
import pytest

from tests.support import shapes
from trellis2_server.export.deviation import deviation
from trellis2_server.mesh import Mesh


def test_a_surface_does_not_deviate_from_itself() -> None:
    mesh = shapes.torus()
    assert deviation(mesh, mesh, 512).largest < 1e-4


def test_the_deviation_is_the_distance_in_voxels() -> None:
    sheet = shapes.grid(
        9, 9, lambda u, v: np.stack([u - 0.5, v - 0.5, 0 * u], -1), wraps=(False, False)
    )
    raised = sheet.vertices + np.array([0, 0, 0.01], np.float32)
    raised[0, 2] = 0.03
    found = deviation(Mesh(raised, sheet.faces), sheet, 100)
    assert found.largest == pytest.approx(3, rel=1e-3)
    assert 1 <= found.p99 < 3
