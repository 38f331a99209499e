"""Sparse voxel coordinates as sorted integer keys, to be looked up in.

A voxel (b, x, y, z) has the key ((b · X + x) · Y + y) · Z + z, where X, Y, Z leave a margin
around the occupied box. So the key of a neighbour is the key plus a constant, and a
neighbour outside the box is never mistaken for a voxel of the next row.

What this module does not know: what the voxels carry.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

torch: Any = importlib.import_module("torch")
Tensor = Any

#: Kinds of devices on which keys are not sorted: Apple's has put int64 into a wrong order
#: without a word (pytorch #155560), and shares its memory with the CPU anyway.
SORTED_ON_CPU: Final = frozenset({"mps"})


def sortable(coords: Tensor) -> Tensor:
    """The same where a `Lookup` of it is to be made: on its device, or on the CPU."""
    return coords.cpu() if coords.device.type in SORTED_ON_CPU else coords


class Lookup:
    """Rows of `coords` by coordinate.

    Args:
        coords: integer [N, 4], `sortable`: batch, x, y, z, no duplicates.
        margin: voxels beyond the occupied box that may be asked for, per axis.

    Attributes:
        keys: int64 [N], ascending.
        order: int64 [N]; `keys[i]` is the key of `coords[order[i]]`.
    """

    def __init__(self, coords: Tensor, margin: Sequence[int]) -> None:
        wide = coords.long()
        bounds = torch.stack(
            [wide.amin(dim=0), wide.amax(dim=0)]
        ).tolist()  # the one wait for the device
        self._low = [bounds[0][0], *(bounds[0][i + 1] - margin[i] for i in range(3))]
        self._high = [bounds[1][0], *(bounds[1][i + 1] + margin[i] for i in range(3))]
        extent = [last - first + 1 for first, last in zip(self._low, self._high, strict=True)]
        self._stride = [extent[1] * extent[2] * extent[3], extent[2] * extent[3], extent[3], 1]
        self.keys, self.order = torch.sort(self.key(wide))

    def key(self, coords: Tensor) -> Tensor:
        """int64 [..., 4] → int64 [...]; meaningless outside the box and its margin."""
        key = coords[..., 3] - self._low[3]
        for axis in range(3):
            key = key + (coords[..., axis] - self._low[axis]) * self._stride[axis]
        return key

    def shift(self, offset: Sequence[int]) -> int:
        """What a move by (x, y, z) within the margin adds to a key."""
        return sum(o * s for o, s in zip(offset, self._stride[1:], strict=True))

    def find(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Where in `self.keys` each key is, int64, and whether it is there at all."""
        place = torch.searchsorted(self.keys, keys)
        place.clamp_(max=len(self.keys) - 1)
        return place, self.keys[place] == keys

    def rows(self, coords: Tensor) -> tuple[Tensor, Tensor]:
        """The row of each coordinate, int64 [...], and whether there is one; any coordinate."""
        home, coords = coords.device, sortable(coords)
        inside = torch.ones(coords.shape[:-1], dtype=torch.bool, device=coords.device)
        for axis in range(4):
            inside &= (coords[..., axis] >= self._low[axis]) & (
                coords[..., axis] <= self._high[axis]
            )
        place, found = self.find(self.key(coords.long()))
        return self.order[place].to(home), (found & inside).to(home)
