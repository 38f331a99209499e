"""Rows of numbers: which are equal, and vectors of length 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Odd number, by which the bits of the numbers are mixed.
_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)
_SHIFT: Final = np.uint64(29)


def group_rows(rows: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Group rows with the same bits, in the order in which they come first.

    Sorting one mixed number is several times faster than sorting by all of a row.

    Args:
        rows: float32 [N, C].

    Returns:
        int64 [G], the first row of each group, ascending.
        int32 [N], the group of each row.
    """
    bits = np.ascontiguousarray(rows, np.float32).view(np.uint32)
    mixed = np.zeros(len(bits), np.uint64)
    for column in range(bits.shape[1]):
        mixed += bits[:, column]
        mixed *= _FACTOR
        mixed ^= mixed >> _SHIFT
    order = np.argsort(mixed, kind="stable")
    keys, ordered = mixed[order], bits[order]
    is_new = np.ones(len(bits), bool)
    np.not_equal(keys[1:], keys[:-1], out=is_new[1:])
    if (ordered[1:] != ordered[:-1])[~is_new[1:]].any():
        # Two rows have the same number, which a file can be made for. The sort is stable, too.
        order = np.lexsort(bits.T)
        ordered = bits[order]
        np.any(ordered[1:] != ordered[:-1], axis=1, out=is_new[1:])
    first = order[is_new]
    ascending = np.argsort(first)
    rank = np.empty(len(first), np.int32)
    rank[ascending] = np.arange(len(first), dtype=np.int32)
    groups = np.empty(len(bits), np.int32)
    groups[order] = rank[np.cumsum(is_new) - 1]
    return first[ascending], groups


def unit_vectors(
    vectors: NDArray[np.float64], without: tuple[int, int, int] = (0, 0, 1)
) -> NDArray[np.float32]:
    """Return vectors of length 1, float32 [N, 3].

    Args:
        vectors: float64 [N, 3], of any size: scaled before they are squared.
        without: for those without a direction.
    """
    largest = np.abs(vectors).max(axis=1, initial=0, keepdims=True)
    scaled = np.where(largest > 0, vectors / np.where(largest > 0, largest, 1), without)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    return (scaled / np.where(length > 0, length, 1)).astype(np.float32)
