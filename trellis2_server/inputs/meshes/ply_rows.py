"""`Element`, which a PLY's header declares, and `Rows`, what is read of one.

Does not know: text, bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(slots=True)
class Element:
    """An element of a PLY header.

    Attributes:
        name: `vertex`, `face` or another.
        count: number of rows.
        properties: (name, type, type of the list's length or None for a scalar).
    """

    name: str
    count: int
    properties: list[tuple[str, str, str | None]]

    @property
    def min_bytes(self) -> int:
        """Minimum size of a row in a binary file, in bytes."""
        return sum(int((length or kind)[1]) for _, kind, length in self.properties)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Some properties of all rows of an element: either numbers or one list.

    Attributes:
        columns: arrays [R] of the wanted scalars.
        values: integers, of the wanted list in all rows.
        sizes: integers [R], the lists' lengths.
    """

    columns: tuple[NDArray[Any], ...]
    values: NDArray[Any]
    sizes: NDArray[Any]
