from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from tests.support.voxels import random_voxels  # noqa: E402
from trellis2_server.engines.portable import convolution, dualgrid, lookup, sampling  # noqa: E402

Tensor = Any
CONV = convolution.sparse_submanifold_conv3d


def test_look_ups_on_the_cpu_for_apples_devices_give_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(5)
    coords = random_voxels(6, 0.5)
    feats, weight = torch.randn(len(coords), 4), torch.randn(4, 3, 3, 3, 4)
    points, flags = torch.rand(1, 50, 3) * 6, torch.rand(len(coords), 3) > 0.5
    box = [[0.0] * 3, [1.0] * 3]

    def results() -> list[Tensor]:
        return [
            CONV(feats, coords, (), weight)[0],
            sampling.grid_sample_3d(feats, coords, (), points),
            *dualgrid.flexible_dual_grid_to_mesh(
                coords[:, 1:], feats[:, :3], flags, None, aabb=box, grid_size=6
            ),
        ]

    expected = results()
    monkeypatch.setattr(lookup, "SORTED_ON_CPU", frozenset({"cpu"}))
    assert all(torch.equal(a, b) for a, b in zip(expected, results(), strict=True))


def test_rows_are_found_for_any_coordinate() -> None:
    coords = random_voxels(6, 0.4, batch=2)
    table = lookup.Lookup(coords, (1, 1, 1))
    wanted = torch.cartesian_prod(torch.arange(-2, 4), *[torch.arange(-3, 9)] * 3)
    rows, found = table.rows(wanted)
    row_of = {tuple(c): i for i, c in enumerate(coords.tolist())}
    for c, row, is_found in zip(wanted.tolist(), rows.tolist(), found.tolist(), strict=True):
        assert is_found == (tuple(c) in row_of)
        assert not is_found or row == row_of[tuple(c)]


def test_a_shift_is_the_difference_of_keys() -> None:
    coords = random_voxels(5, 0.5)
    table = lookup.Lookup(coords, (2, 1, 3))
    for offset in ((2, 0, 0), (-1, 1, -3), (0, -1, 2)):
        moved = coords + torch.tensor([0, *offset], dtype=torch.int32)
        difference = table.key(moved.long()) - table.key(coords.long())
        assert (difference == table.shift(offset)).all()
