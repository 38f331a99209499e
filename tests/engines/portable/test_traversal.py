from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from trellis2_server.engines.portable import traversal  # noqa: E402

Tensor = Any


def grid(size: int = 8) -> traversal.Grid:
    return traversal.Grid(torch.tensor([size] * 3))


def rows(parts: Any) -> list[tuple[int, ...]]:
    """All voxels of all chunks, sorted."""
    return sorted(tuple(v) for voxels, _ in parts for v in voxels.tolist())


def test_keys_and_voxels_are_each_others_inverse() -> None:
    voxels = torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(5))
    made = traversal.Grid(torch.tensor([3, 4, 5]))
    keys = made.key(voxels)
    assert keys.tolist() == list(range(60))
    assert torch.equal(made.voxels(keys), voxels)


def test_a_line_passes_the_voxels_between_its_ends() -> None:
    lines = torch.tensor([[[0.5, 1.5, 2.5], [3.5, 1.5, 2.5]]], dtype=torch.float64)
    assert rows(traversal.passed(lines, grid())) == [(x, 1, 2) for x in range(4)]
    outside = torch.tensor([[[-3.0, 0.5, 0.5], [1.5, 0.5, 0.5]]], dtype=torch.float64)
    assert rows(traversal.passed(outside, grid())) == [(0, 0, 0), (1, 0, 0)]


def test_a_triangle_touches_the_voxels_of_its_plane() -> None:
    triangle = torch.tensor(
        [[[0.5, 0.5, 4.5], [2.4, 0.5, 4.5], [0.5, 2.4, 4.5]]], dtype=torch.float64
    )
    expected = [(0, 0, 4), (0, 1, 4), (0, 2, 4), (1, 0, 4), (1, 1, 4), (2, 0, 4)]
    assert rows(traversal.touched(triangle, grid())) == expected


def test_a_triangle_crosses_the_edges_of_the_grid_through_it() -> None:
    triangle = torch.tensor(
        [[[0.5, 0.5, 4.25], [3.0, 0.5, 4.25], [0.5, 3.0, 4.25]]], dtype=torch.float64
    )
    voxels, axis, points, owner = traversal.crossings(triangle, grid())
    found = sorted(zip(map(tuple, voxels.tolist()), axis.tolist(), strict=True))
    assert found == [((0, 0, 4), 2), ((0, 1, 4), 2), ((1, 0, 4), 2)]
    assert (points[:, 2] - 4.25).abs().max() < 1e-12
    assert owner.tolist() == [0] * 3
