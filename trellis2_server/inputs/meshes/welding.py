"""Merge vertices at the same position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

#: Odd numbers, by which the bits of coordinates are mixed.
_FACTORS: Final = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)
_SHIFT: Final = np.uint64(29)
_SIGN: Final = np.int32(-(2**31))


def weld(points: NDArray[np.float32], faces: NDArray[np.int32]) -> Mesh:
    """Merge vertices with equal coordinates; faces keep their order.

    Args:
        points: float32 [N, 3].
        faces: int32 [F, 3].

    Returns:
        Vertices in the order of their last, then their second, then their first coordinate.
    """
    points = np.ascontiguousarray(points) + np.float32(0)  # makes -0.0 and 0.0 equal
    first, index = _groups(points)
    rows = points[first]
    order = _order(rows)
    rank = np.empty(len(rows), np.int32)
    rank[order] = np.arange(len(rows), dtype=np.int32)
    return Mesh(np.ascontiguousarray(rows[order]), rank[index[faces]])


def _groups(points: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return one point of each position, and the group of each point.

    Sorting one mixed number is several times faster than sorting by three coordinates.

    Args:
        points: float32 [N, 3].
    """
    bits = points.view(np.uint32)
    mixed = np.zeros(len(points), np.uint64)
    columns = [np.ascontiguousarray(column) for column in bits.T]
    for axis, column in enumerate(columns):
        mixed += column
        mixed *= _FACTORS[axis]
        mixed ^= mixed >> _SHIFT
    # Two positions may have the same number, which is rare, or which a file is made for.
    first, index = np.empty(0, np.int64), np.empty(0, np.int32)
    for order, is_new in _sorted(mixed, bits):
        index = np.empty(len(points), np.int32)
        index[order] = np.cumsum(is_new, dtype=np.int32) - 1
        first = order[is_new]
        if all(bool((column[first][index] == column).all()) for column in columns):
            break
    return first, index


def _order(rows: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the order of different points by their last, then second, then first coordinate.

    Args:
        rows: float32 [N, 3].
    """
    bits = rows.view(np.int32)
    # Of numbers below 0, larger bits are smaller numbers.
    y, z = (np.where(column < 0, ~column, column ^ _SIGN).view(np.uint32) for column in bits.T[1:])
    keys = z.astype(np.uint64) << np.uint64(32) | y
    order = np.argsort(keys)
    keys = keys[order]
    return np.lexsort(rows.T) if bool((keys[1:] == keys[:-1]).any()) else order


def _sorted(
    mixed: NDArray[np.uint64], bits: NDArray[np.uint32]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Yield orders, and which points differ from the one before: fast ones first, the last exact.

    Args:
        mixed: uint64 [N], a number of each point.
        bits: uint32 [N, 3], the points.
    """
    # Sorting values is faster than sorting places: a place replaces the low bits of each.
    width = np.uint64(len(mixed).bit_length())
    packed = (mixed >> width << width) | np.arange(len(mixed), dtype=np.uint64)
    packed.sort()
    order = (packed & ((np.uint64(1) << width) - np.uint64(1))).astype(np.int64)
    yield order, _changes(packed >> width)
    order = np.argsort(mixed)
    yield order, _changes(mixed[order])
    order = np.lexsort(bits.T)
    rows = bits[order]
    is_new = np.ones(len(rows), bool)
    np.any(rows[1:] != rows[:-1], axis=1, out=is_new[1:])
    yield order, is_new


def _changes(values: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which of sorted values differ from the one before."""
    is_new = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=is_new[1:])
    return is_new
