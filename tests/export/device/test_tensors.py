"""Rows with different numbers of items, in PyTorch."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from trellis2_server.export.device import tensors  # noqa: E402


def test_the_items_of_rows_are_enumerated() -> None:
    row, item = tensors.row_items(torch.tensor([2, 0, 3]))
    assert row.tolist() == [0, 0, 2, 2, 2]
    assert item.tolist() == [0, 1, 0, 1, 2]


def test_batches_cover_all_rows_and_bound_the_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "_MAX_ITEMS", 4)
    assert tensors.batches(torch.tensor([1, 2, 3, 9, 0, 4])) == [(0, 2), (2, 3), (3, 4), (4, 6)]
    assert tensors.batches(torch.tensor([], dtype=torch.int64)) == []
