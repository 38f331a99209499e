from __future__ import annotations

import numpy as np
import pytest

from trellis2_server.inputs.meshes import welding
from trellis2_server.inputs.meshes.welding import weld


def test_vertices_at_the_same_position_are_merged_and_faces_keep_their_order() -> None:
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [-0.0, 0, 0], [1, 1, 0]], np.float32)
    faces = np.array([[0, 1, 2], [3, 4, 1]], np.int32)
    mesh = weld(points, faces)
    assert len(mesh.vertices) == 4
    assert mesh.vertices[mesh.faces].tolist() == (points[faces] + 0).tolist()


@pytest.mark.parametrize("factors", [(0, 0, 0), (1, 1, 2**40 + 1)])
def test_positions_whose_mixed_numbers_are_equal_stay_apart(
    monkeypatch: pytest.MonkeyPatch, factors: tuple[int, ...]
) -> None:
    points = np.random.default_rng(0).integers(0, 9, (400, 3)).astype(np.float32)
    faces = np.arange(399, dtype=np.int32).reshape(-1, 3)
    expected = weld(points, faces)
    assert expected.vertices[expected.faces].tolist() == points[faces].tolist()
    assert len(expected.vertices) == len(np.unique(points, axis=0))
    monkeypatch.setattr(welding, "_FACTORS", np.array(factors, np.uint64))
    mesh = weld(points, faces)
    assert mesh.vertices.tolist() == expected.vertices.tolist()
    assert mesh.faces.tolist() == expected.faces.tolist()


@pytest.mark.parametrize("values", [(-2.5, -1, 0, 1e-45, 3), (0, 1)], ids=["few ties", "ties"])
def test_vertices_are_in_the_order_of_their_last_coordinates(values: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    points = rng.choice(np.array(values, np.float32), (60, 3))
    points[:, 1] += rng.permutation(60).astype(np.float32) * (len(values) > 2)
    mesh = weld(points, np.arange(60, dtype=np.int32).reshape(-1, 3))
    expected = sorted({tuple(row) for row in points.tolist()}, key=lambda row: row[::-1])
    assert mesh.vertices.tolist() == [list(row) for row in expected]
