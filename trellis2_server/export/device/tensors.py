"""Rows with different numbers of items, in PyTorch."""

from __future__ import annotations

import importlib
from itertools import pairwise
from typing import Any, Final

torch: Any = importlib.import_module("torch")
Tensor = Any

#: Number of items that are processed together, which bounds the memory.
_MAX_ITEMS: Final = 1 << 22


def to_tensor(array: Any, device: Any) -> Tensor:
    """Copy an array or a tensor to the device."""
    return array.to(device) if isinstance(array, torch.Tensor) else torch.tensor(array).to(device)


def row_items(count: Tensor) -> tuple[Tensor, Tensor]:
    """Enumerate the items of rows with `count` items each.

    Args:
        count: int64 [R].

    Returns:
        row: int64 [items], the row of each item.
        item: int64 [items], the number of the item within its row.
    """
    row = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    first = torch.cumsum(count, 0) - count
    return row, torch.arange(len(row), device=count.device) - first[row]


def batches(count: Tensor) -> list[tuple[int, int]]:
    """Split rows into ranges with a bounded number of items, each with at least one row.

    Args:
        count: int64 [R], number of items of each row.
    """
    total = torch.cumsum(count, 0).cpu()
    cuts, done = [0], 0
    while cuts[-1] < len(total):
        stop = int(torch.searchsorted(total, done + _MAX_ITEMS, right=True))
        stop = min(max(stop, cuts[-1] + 1), len(total))
        done = int(total[stop - 1])
        cuts.append(stop)
    return list(pairwise(cuts))
