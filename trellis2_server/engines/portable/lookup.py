"""Look-up of sparse voxels by sorted integer keys.

A voxel (b, x, y, z) has the key ((b · X + x) · Y + y) · Z + z, where X, Y, Z include a margin
around the occupied box. So the key of a neighbour is the key plus a constant, and a neighbour
outside the box never has the key of a voxel in the next row. The box stays on the device as
tensors: neither a `Lookup` nor a search in it waits for the device.

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
        low, high = wide.amin(dim=0), wide.amax(dim=0)
        for axis in range(3):
            low[axis + 1] -= margin[axis]
            high[axis + 1] += margin[axis]
        x, y, z = (high - low + 1).unbind()[1:]
        self._low, self._high = low.unbind(), high.unbind()
        self._stride = (x * y * z, y * z, z)
        self.keys, self.order = torch.sort(self.key(wide))

    def key(self, coords: Tensor) -> Tensor:
        """Return the keys of coordinates in box and margin, int [..., 4] → int64 [...]."""
        key = coords[..., 3] - self._low[3]
        for axis in range(3):
            key = key + (coords[..., axis] - self._low[axis]) * self._stride[axis]
        return key

    def shift(self, offset: Sequence[int]) -> Tensor:
        """Return the difference of keys for a move by (x, y, z) within the margin, int64 []."""
        return self._stride[1] * offset[0] + self._stride[2] * offset[1] + offset[2]

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
