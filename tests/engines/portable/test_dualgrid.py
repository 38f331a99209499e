from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from tests.support.synchronization import waits_for_device  # noqa: E402
from tests.support.voxels import random_voxels  # noqa: E402
from trellis2_server.engines.portable import dualgrid  # noqa: E402

Tensor = Any
AROUND = {
    0: ((0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0)),
    1: ((0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)),
    2: ((0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 0)),
}


def slow_faces(coords: Tensor, flags: Tensor, weights: Tensor) -> list[list[int]]:
    """Faces by the definition, one edge at a time."""
    row_of = {tuple(c): i for i, c in enumerate(coords.tolist())}
    faces = []
    for row, (x, y, z) in enumerate(coords.tolist()):
        for axis in range(3):
            quad = [row_of.get((x + i, y + j, z + k)) for i, j, k in AROUND[axis]]
            if not flags[row, axis] or None in quad:
                continue
            a, b, c, d = quad
            if weights[a] * weights[c] > weights[b] * weights[d]:
                faces += [[a, b, c], [a, c, d]]
            else:
                faces += [[a, b, d], [d, b, c]]
    return faces


@pytest.mark.parametrize("chunk", [2**22, 100])
def test_the_dual_grid_makes_the_faces_of_its_definition_in_order(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dualgrid, "CHUNK_EDGES", chunk)
    torch.manual_seed(7)
    coords = random_voxels(9, 0.6)[:, 1:]
    count = len(coords)
    flags, weights = torch.rand(count, 3) > 0.5, torch.rand(count, 1) + 0.1
    dual = torch.rand(count, 3)
    box = [[-0.5] * 3, [0.5] * 3]
    vertices, faces = dualgrid.flexible_dual_grid_to_mesh(
        coords, dual, flags, weights, aabb=box, grid_size=9
    )
    assert faces.tolist() == slow_faces(coords, flags, weights[:, 0])
    assert torch.allclose(vertices, (coords + dual) / 9 - 0.5, atol=1e-6)


def test_without_weights_a_quad_is_split_where_it_is_flatter() -> None:
    coords = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 1, 0]], dtype=torch.int32)
    dual = torch.full((4, 3), 0.5)
    dual[2, 0] = 0.9  # one corner is higher: it has its own triangle
    flags = torch.zeros(4, 3, dtype=torch.bool)
    flags[0, 0] = True
    _, faces = dualgrid.flexible_dual_grid_to_mesh(
        coords, dual, flags, None, aabb=[[0.0] * 3, [1.0] * 3], voxel_size=0.5
    )
    assert faces.tolist() == [[0, 1, 3], [3, 1, 2]]


def test_a_grid_without_a_crossed_edge_has_no_faces() -> None:
    coords = random_voxels(4, 0.5)[:, 1:]
    flags = torch.zeros(len(coords), 3, dtype=torch.bool)
    _, faces = dualgrid.flexible_dual_grid_to_mesh(
        coords, torch.rand(len(coords), 3), flags, None, aabb=[[0.0] * 3, [1.0] * 3], grid_size=4
    )
    assert faces.shape == (0, 3)


def test_a_mesh_waits_for_the_device_for_its_numbers_of_edges_and_of_quads_only() -> None:
    coords = random_voxels(9, 0.6)[:, 1:]
    count = len(coords)
    flags, weights = torch.rand(count, 3) > 0.5, torch.rand(count, 1) + 0.1
    box = torch.tensor([[-0.5] * 3, [0.5] * 3])
    size = torch.tensor(9)
    for split in (weights, None):
        with waits_for_device() as waits:
            dualgrid.flexible_dual_grid_to_mesh(
                coords, torch.rand(count, 3), flags, split, aabb=box, grid_size=size
            )
        assert waits == ["nonzero", "nonzero"]
