from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs torch")

from tests.support.synchronization import waits_for_device  # noqa: E402
from tests.support.voxels import random_voxels  # noqa: E402
from trellis2_server.engines.portable import neighbors  # noqa: E402

Tensor = Any
VOXEL = st.tuples(st.integers(0, 2), *[st.integers(-4, 4)] * 3)
KERNEL = st.tuples(*[st.sampled_from([1, 3, 5])] * 3)
DILATION = st.tuples(*[st.integers(1, 3)] * 3)


def tensor(voxels: list[tuple[int, ...]]) -> Tensor:
    return torch.tensor(voxels, dtype=torch.int32).view(-1, 4)


def offsets(kernel: tuple[int, ...], dilation: tuple[int, ...]) -> list[tuple[int, ...]]:
    axes = [range(-(k // 2) * d, k // 2 * d + 1, d) for k, d in zip(kernel, dilation, strict=True)]
    return list(itertools.product(*axes))


def slow_rows(
    voxels: list[tuple[int, ...]], kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> list[list[int]]:
    """The map by its definition, one cell at a time."""
    row_of = {voxel: row for row, voxel in enumerate(voxels)}
    return [
        [row_of.get((b, x + i, y + j, z + k), len(voxels)) for b, x, y, z in voxels]
        for i, j, k in offsets(kernel, dilation)
    ]


@given(st.lists(VOXEL, unique=True, max_size=60), KERNEL, DILATION)
def test_a_map_has_the_rows_of_its_definition(
    voxels: list[tuple[int, ...]], kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> None:
    found = neighbors.find_neighbors(tensor(voxels), kernel, dilation)
    assert found.rows.dtype == torch.int32
    assert found.rows.tolist() == slow_rows(voxels, kernel, dilation)


@given(st.lists(VOXEL, unique=True, max_size=60))
def test_a_map_of_three_cells_an_axis_has_the_rows_of_its_definition(
    voxels: list[tuple[int, ...]],
) -> None:
    found = neighbors.find_neighbors(tensor(voxels), (3, 3, 3))
    assert found.rows.tolist() == slow_rows(voxels, (3, 3, 3), (1, 1, 1))


@given(st.lists(VOXEL, min_size=2, max_size=40), KERNEL)
def test_duplicates_of_a_voxel_do_not_lead_to_other_voxels(
    voxels: list[tuple[int, ...]], kernel: tuple[int, ...]
) -> None:
    rows = neighbors.find_neighbors(tensor([*voxels, voxels[0]]), kernel).rows.tolist()
    voxels = [*voxels, voxels[0]]
    for (i, j, k), cell in zip(offsets(kernel, (1, 1, 1)), rows, strict=True):
        for (b, x, y, z), row in zip(voxels, cell, strict=True):
            assert row == len(voxels) or voxels[row] == (b, x + i, y + j, z + k)


def test_the_map_of_a_full_grid_is_that_of_its_definition() -> None:
    voxels = [tuple(c) for c in random_voxels(6, 1.0, batch=2).tolist()]
    found = neighbors.find_neighbors(tensor(voxels), (3, 3, 3))
    assert found.rows.tolist() == slow_rows(voxels, (3, 3, 3), (1, 1, 1))


@pytest.mark.parametrize(
    ("kernel", "dilation"), [((3, 3, 3), (1, 1, 1)), ((5, 3, 1), (2, 1, 1)), ((3, 3, 3), (1, 1, 2))]
)
def test_nothing_waits_for_the_device(kernel: tuple[int, ...], dilation: tuple[int, ...]) -> None:
    coords = random_voxels(8, 0.3, batch=2)
    with waits_for_device() as waits:
        neighbors.tile(neighbors.find_neighbors(coords, kernel, dilation))
    assert waits == []
    # Tensors without data: whatever reads them, fails.
    found = neighbors.tile(neighbors.find_neighbors(coords.to("meta"), kernel, dilation))
    assert found.rows.shape == (kernel[0] * kernel[1] * kernel[2], len(coords))


@given(st.lists(VOXEL, unique=True, max_size=300))
def test_tiles_have_every_voxel_once_with_the_cells_of_its_tile(
    voxels: list[tuple[int, ...]],
) -> None:
    count = len(voxels)
    before = neighbors.find_neighbors(tensor(voxels), (3, 3, 3)).rows.clone()
    tiled = neighbors.tile(neighbors.find_neighbors(tensor(voxels), (3, 3, 3)))
    assert tiled.tiles is not None
    order = tiled.tiles.order.long()
    assert order.sort().values.tolist() == list(range(count))
    assert torch.equal(tiled.rows, before[:, order])
    has = tiled.rows < count
    number = len(range(0, count, neighbors.TILE_ROWS))
    assert tiled.tiles.cells.shape == (number, 27)
    for i in range(number):
        part = has[:, i * neighbors.TILE_ROWS :][:, : neighbors.TILE_ROWS]
        used = part.any(dim=1).nonzero()[:, 0].tolist()
        cells = tiled.tiles.cells[i].tolist()
        assert cells[: tiled.tiles.counts[i]] == used
        assert sorted(cells) == list(range(27))


def test_tiles_leave_out_cells_that_a_surface_does_not_have() -> None:
    grid = random_voxels(64, 1.0)
    away = ((grid[:, 1:] - 31.5).float().norm(dim=1) - 25).abs()
    tiled = neighbors.tile(neighbors.find_neighbors(grid[away < 0.6], (3, 3, 3)))
    assert tiled.tiles is not None
    # Voxels have 12 to 13 cells on average; in the order of the grid, tiles have all 27.
    assert 12 < tiled.tiles.counts.float().mean() < 23
