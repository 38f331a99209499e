"""Neighbour maps: which rows a convolution's kernel covers, for sparse voxels.

A map is computed once for a set of coordinates, without waiting for the device: voxels that
are missing are marked by `where`, not removed. z is the fastest axis of a `Lookup`'s keys, so
the three cells of a kernel along z are neighbours in the sorted keys: one search finds all
three. Half of the kernel is searched; the other half has the same pairs in reverse. A 3 x 3 x 3
kernel takes 4 searches.

Rows are [V, N], one kernel cell after the other: on a GPU, consecutive threads write and read
consecutive voxels of a cell.

Does not know: features, weights.
"""

from __future__ import annotations

import importlib
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines.portable.lookup import Lookup, sortable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

torch: Any = importlib.import_module("torch")
Tensor = Any

#: Columns of a tile.
TILE_ROWS: Final = 128
#: Largest kernel that can be tiled: its cells are bits of an int32.
TILED_CELLS: Final = 31


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """Columns of a neighbour map in tiles of `TILE_ROWS`, voxels with similar neighbours together.

    Attributes:
        order: int32 [N], voxel of each column.
        cells: int32 [T, V], kernel cells of each tile, those that one of its voxels has first.
        counts: int32 [T], number of these.
    """

    order: Tensor
    cells: Tensor
    counts: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class NeighborMap:
    """Rows that a kernel covers.

    Attributes:
        rows: int32 [V, N], row under each of the kernel's V cells, x slowest; N if the cell
            is empty. Consecutive along N; the distance of cells is N or more.
        tiles: order of the columns; None: column i belongs to voxel i.
    """

    rows: Tensor
    tiles: Tiles | None = None


def find_neighbors(
    coords: Tensor, kernel: Sequence[int], dilation: Sequence[int] = (1, 1, 1)
) -> NeighborMap:
    """Compute the neighbour map of a kernel over sparse voxels.

    Args:
        coords: int32 [N, 4]: batch, x, y, z; no duplicates.
        kernel: cells along x, y, z; odd.
        dilation: distance of cells along x, y, z, voxels.

    Raises:
        NotImplementedError: an even kernel has no centre.
    """
    if any(size % 2 == 0 for size in kernel):
        raise NotImplementedError("a submanifold convolution has an odd kernel")
    axes = [
        range(-(size // 2) * step, size // 2 * step + 1, step)
        for size, step in zip(kernel, dilation, strict=True)
    ]
    device, coords = coords.device, sortable(coords)
    count, centre = len(coords), kernel[0] * kernel[1] * kernel[2] // 2
    # Column N takes the reversed pairs that do not exist.
    rows = torch.full((2 * centre + 1, count + 1), count, dtype=torch.int32, device=coords.device)
    rows[centre] = torch.arange(count + 1, dtype=torch.int32, device=coords.device)
    if count:
        lookup = Lookup(coords, [axis[-1] for axis in axes])
        here = lookup.order
        order = torch.cat([here, here.new_full((1,), count)])
        row = here.int()
        is_triple = kernel[2] == 3 and dilation[2] == 1  # noqa: PLR2004 - one voxel each side
        for cell, place in (_triples if is_triple else _singles)(lookup, axes):
            there = order[place]
            rows[cell].scatter_(0, here, there.int())
            rows[-1 - cell].scatter_(0, there, row)
    return NeighborMap(rows[:, :count].to(device))


def tile(neighbors: NeighborMap) -> NeighborMap:
    """Sort the columns of a map by the cells that their voxels have; `rows` is reused.

    Args:
        neighbors: map with at most `TILED_CELLS` cells, and column i for voxel i.
    """
    rows = neighbors.rows
    cells, count = rows.shape
    has = torch.zeros(count, dtype=torch.int32, device=rows.device)
    for cell in range(cells):
        has |= (rows[cell] < count).int() << cell
    # Stable, so that equal coordinates have equal tiles on every device.
    has, order = torch.sort(has, stable=True)
    for cell in range(cells):
        rows[cell] = rows[cell][order]
    tiles = -(-count // TILE_ROWS)
    has = torch.nn.functional.pad(has, (0, tiles * TILE_ROWS - count)).view(tiles, TILE_ROWS)
    while has.shape[1] > 1:
        left, right = has.chunk(2, dim=1)
        has = left | right
    numbers = torch.arange(cells, dtype=torch.int32, device=rows.device)
    is_missing = has >> numbers & 1 ^ 1
    first = torch.sort(numbers + 64 * is_missing, dim=1).values % 64
    counts = cells - is_missing.sum(dim=1, dtype=torch.int32)
    return NeighborMap(rows, Tiles(order.int(), first, counts))


def _singles(lookup: Lookup, axes: Sequence[range]) -> Iterator[tuple[int, Tensor]]:
    """Cells of the kernel's first half; for each key the index of the one under it, or N."""
    offsets = list(itertools.product(*axes))
    for cell, offset in enumerate(offsets[: len(offsets) // 2]):
        place, found = lookup.find(lookup.keys + lookup.shift(offset))
        yield cell, torch.where(found, place, len(lookup.keys))


def _triples(lookup: Lookup, axes: Sequence[range]) -> Iterator[tuple[int, Tensor]]:
    """As `_singles`, for cells -1, 0 and 1 along z."""
    keys, count = lookup.keys, len(lookup.keys)
    # No voxel has the key after the last one's: it is beyond the box.
    padded = torch.cat([keys, keys.new_full((1,), torch.iinfo(keys.dtype).max)])
    columns = list(itertools.product(*axes[:2]))
    for column, (x, y) in enumerate(columns[: len(columns) // 2]):
        wanted = keys + lookup.shift((x, y, -1))
        place = torch.searchsorted(keys, wanted)
        for z in range(3):
            found = padded[place] == wanted + z
            yield 3 * column + z, torch.where(found, place, count)
            place = place + found
    # The voxel below along z is the key before.
    is_below = torch.cat([keys.new_zeros(1, dtype=torch.bool), keys[1:] == keys[:-1] + 1])
    before = torch.arange(-1, count - 1, device=keys.device)
    yield len(columns) // 2 * 3, torch.where(is_below, before, count)
