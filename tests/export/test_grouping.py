from __future__ import annotations

import numpy as np
import pytest

from tests.support import shapes
from trellis2_server.export import grouping
from trellis2_server.export.adjacency import twins
from trellis2_server.export.cancellation import call
from trellis2_server.export.charts import face_normals
from trellis2_server.export.grouping import DIRECTIONS, group_faces
from trellis2_server.export.kernels import grouping as kernels


def test_no_direction_is_farther_than_37_degrees_from_one_of_the_list() -> None:
    directions = np.random.default_rng(0).normal(size=(10_000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    assert (directions @ DIRECTIONS.T).max(axis=1).min() > np.cos(np.radians(37))


def test_groups_are_merged_until_none_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = shapes.ALL["noisy_blob"]()
    twin, normals = twins(mesh.faces, len(mesh.vertices)), face_normals(mesh)

    def count() -> int:
        return group_faces(mesh.vertices, mesh.faces, twin, normals, 1000.0).max() + 1

    merged = count()
    monkeypatch.setattr(grouping, "_MERGE_ROUNDS", 1)
    assert count() > merged
    monkeypatch.setattr(grouping, "_MERGE_ROUNDS", 100)
    assert count() == merged


@pytest.mark.parametrize("shape", shapes.ALL)
def test_groups_are_connected_and_their_normals_within_a_cone(shape: str) -> None:
    mesh = shapes.ALL[shape]()
    twin, normals = twins(mesh.faces, len(mesh.vertices)), face_normals(mesh)
    group = group_faces(mesh.vertices, mesh.faces, twin, normals, 300.0)
    count = len(np.unique(group))
    assert group.max() + 1 == count
    parts = np.empty_like(group)
    assert call(kernels.connected_components, twin, group, parts, np.empty_like(group)) == count
    weighted = normals[:, :3].astype(np.float64) * normals[:, 3:]
    mean = np.stack([np.bincount(group, weighted[:, k], count) for k in range(3)], 1)
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-30)
    along = (normals[:, :3] * mean[group]).sum(1)
    # Only creased rims of a group deviate strongly.
    assert np.average(along, weights=normals[:, 3] + 1e-12) > 0.9
