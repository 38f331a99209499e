"""`Element`, which a PLY's header declares, and `Rows`, what is read of one; errors about a row.

Does not know: text, bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Shown of an element's name, characters.
_NAME_LENGTH: Final = 40


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
class RowLists:
    """One list property of all rows of an element.

    Attributes:
        values: integers or float64, of all rows.
        sizes: integers [R], the lists' lengths.
    """

    values: NDArray[Any]
    sizes: NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Some properties of all rows of an element.

    Attributes:
        columns: arrays [R] of the wanted scalars.
        lists: the wanted lists.
    """

    columns: tuple[NDArray[Any], ...]
    lists: tuple[RowLists, ...]


def row_error(element: str, row: int, text: str) -> InputError:
    """Return an error that names a row of an element.

    Args:
        element: its name.
        row: from 0.
        text: what is wrong.
    """
    where = f'row {row + 1} of the element "{element[:_NAME_LENGTH]}"'
    return InputError(f"mesh: in {where} of the PLY file, {text}")


def cut_short(element: Element, row: int, size: int | None = None) -> InputError:
    """Return the error for a file that ends too early.

    Args:
        element: that is not complete.
        row: the first that is not, from 0.
        size: of a binary file, bytes.
    """
    where = f'row {row + 1} of {element.count} of the element "{element.name[:_NAME_LENGTH]}"'
    behind = "" if size is None else f", at byte {size}"
    return InputError(f"mesh: the PLY file is cut short in {where}{behind}")
