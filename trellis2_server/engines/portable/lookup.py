"""Look-up of sparse voxels by sorted integer keys.

A voxel (b, x, y, z) has the key ((b · X + x) · Y + y) · Z + z, where X, Y, Z include a margin
around the occupied box. So the key of a neighbour is the key plus a constant, and a neighbour
outside the box never has the key of a voxel in the next row.

Does not know: the voxels' data.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

torch: Any = importlib.import_module("torch")
Tensor = Any

#: Kinds of devices whose keys are sorted on the CPU: Apple's sorts int64 wrongly without an
#: error (pytorch #155560), and shares its memory with the CPU.
SORTED_ON_CPU: Final = frozenset({"mps"})


def sortable(coords: Tensor) -> Tensor:
    """Move coordinates to the device where a `Lookup` sorts them: their own, or the CPU."""
    return coords.cpu() if coords.device.type in SORTED_ON_CPU else coords


class Lookup:
    """Rows of `coords` by coordinate.

    Args:
        coords: integer [N, 4], from `sortable`: batch, x, y, z, no duplicates.
        margin: voxels beyond the occupied box that `shift` may reach, per axis.

    Attributes:
        keys: int64 [N], ascending.
        order: int64 [N], where `keys[i]` is the key of `coords[order[i]]`.
    """

    def __init__(self, coords: Tensor, margin: Sequence[int]) -> None:
        wide = coords.long()
        bounds = torch.stack(
            [wide.amin(dim=0), wide.amax(dim=0)]
        ).tolist()  # the only wait for the device
        self._low = [bounds[0][0], *(bounds[0][i + 1] - margin[i] for i in range(3))]
        self._high = [bounds[1][0], *(bounds[1][i + 1] + margin[i] for i in range(3))]
        extent = [last - first + 1 for first, last in zip(self._low, self._high, strict=True)]
        self._stride = [extent[1] * extent[2] * extent[3], extent[2] * extent[3], extent[3], 1]
        self.keys, self.order = torch.sort(self.key(wide))

    def key(self, coords: Tensor) -> Tensor:
        """Return the keys of coordinates in box and margin, int [..., 4] → int64 [...]."""
        key = coords[..., 3] - self._low[3]
        for axis in range(3):
            key = key + (coords[..., axis] - self._low[axis]) * self._stride[axis]
        return key

    def shift(self, offset: Sequence[int]) -> int:
        """Return the difference of keys for a move by (x, y, z) within the margin."""
        return sum(o * s for o, s in zip(offset, self._stride[1:], strict=True))

    def find(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return the index of each key in `self.keys`, int64, and whether it exists, bool."""
        place = torch.searchsorted(self.keys, keys)
        place.clamp_(max=len(self.keys) - 1)
        return place, self.keys[place] == keys

    def rows(self, coords: Tensor) -> tuple[Tensor, Tensor]:
        """Return the row of each coordinate, int64 [...], and whether it exists; any coordinate."""
        device, coords = coords.device, sortable(coords)
        inside = torch.ones(coords.shape[:-1], dtype=torch.bool, device=coords.device)
        for axis in range(4):
            inside &= (coords[..., axis] >= self._low[axis]) & (
                coords[..., axis] <= self._high[axis]
            )
        place, found = self.find(self.key(coords.long()))
        return self.order[place].to(device), (found & inside).to(device)
