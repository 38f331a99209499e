"""Rows of a binary PLY, of either byte order.

Does not know: headers, what elements mean.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes.ply_rows import Rows
from trellis2_server.inputs.meshes.scene import check_count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from trellis2_server.inputs.meshes.ply_rows import Element

#: Shown of an element's name, characters.
_NAME_LENGTH: Final = 40


def read_binary_rows(
    content: memoryview,
    order: str,
    elements: Sequence[Element],
    wanted: Mapping[str, Sequence[int]],
) -> dict[str, Rows]:
    """Read the elements of a binary PLY, by their names.

    Args:
        content: bytes behind the header.
        order: `<` for little endian, `>` for big endian.
        elements: of the header.
        wanted: positions of the properties to read: scalars or one list.

    Raises:
        InputError: the content is too short, or the length of a list is negative.
    """
    rows: dict[str, Rows] = {}
    at = 0
    for element in elements:
        found = _read_uniform(content, at, element, order, wanted[element.name])
        if found is None:
            found = _read_row_by_row(content, at, element, order, wanted[element.name])
        rows[element.name], at = found
    return rows


def _check_remaining(content: memoryview, at: int, size: int) -> None:
    if at + size > len(content):
        raise InputError("mesh: the PLY file is cut short")


def _no_list() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.empty(0, np.int64), np.empty(0, np.int64)


def _read_uniform(
    content: memoryview, at: int, element: Element, order: str, wanted: Sequence[int]
) -> tuple[Rows, int] | None:
    """Read all rows at once if all lists have the length of the first; else return None."""
    fields: list[tuple[str, str] | tuple[str, str, int]] = []
    first = at
    for number, (_, kind, length) in enumerate(element.properties):
        if length is None:
            fields.append((f"s{number}", order + kind))
            first += int(kind[1])
            continue
        if not element.count:
            return Rows((), *_no_list()), at
        size, first = _read_length(content, first, order + length)
        first += size * int(kind[1])
        _check_remaining(content, first, 0)
        fields += [(f"n{number}", order + length), (f"l{number}", order + kind, size)]
    dtype = np.dtype(fields)
    has_lists = any(length for _, _, length in element.properties)
    end = at + element.count * dtype.itemsize
    if end > len(content):
        if not has_lists:
            raise InputError("mesh: the PLY file is cut short")
        return None
    rows = np.frombuffer(content, dtype, element.count, at)
    for number, (_, _, length) in enumerate(element.properties):
        if length is not None and (rows[f"n{number}"] != rows[f"n{number}"][0]).any():
            return None
    columns: list[NDArray[Any]] = []
    values, sizes = _no_list()
    for number in wanted:
        if element.properties[number][2] is None:
            columns.append(rows[f"s{number}"].astype(_native(element.properties[number][1])))
        else:
            lists = rows[f"l{number}"].reshape(element.count, -1)
            values = lists.astype(np.int64).reshape(-1)
            sizes = np.full(element.count, lists.shape[1])
    return Rows(tuple(columns), values, sizes), end


def _native(kind: str) -> str:
    """Return the type for numbers of a type: float32 only if the file has no more digits."""
    return "f4" if kind == "f4" else "f8"


def _read_length(content: memoryview, at: int, kind: str) -> tuple[int, int]:
    """Return a list's length, and where its values start."""
    dtype = np.dtype(kind)
    _check_remaining(content, at, dtype.itemsize)
    return check_count(int(np.frombuffer(content, dtype, 1, at)[0])), at + dtype.itemsize


@dataclass(slots=True)
class _Places:
    """Where the values of one property are.

    Attributes:
        offsets: of each row, bytes.
        sizes: of each row, number of values.
    """

    offsets: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))


def _read_row_by_row(
    content: memoryview, at: int, element: Element, order: str, wanted: Sequence[int]
) -> tuple[Rows, int]:
    """Go through an element with lists of different lengths."""
    places = {number: _Places() for number in wanted}
    steps = [
        (
            Struct(order + np.dtype(length).char).unpack_from if length else None,
            int((length or kind)[1]),
            int(kind[1]),
            places.get(number),
        )
        for number, (_, kind, length) in enumerate(element.properties)
    ]
    for row in range(element.count):
        for unpack, size, item_size, place in steps:
            start, count = at + size, 1
            if unpack is None:
                if place is not None:
                    place.offsets.append(at)
                at = start
                continue
            if at + size > len(content):
                raise _cut_short(element, row)
            (count,) = unpack(content, at)
            at = start + check_count(count) * item_size
            if place is not None:
                place.offsets.append(start)
                place.sizes.append(count)
        if at > len(content):
            raise _cut_short(element, row)
    data = np.frombuffer(content, np.uint8)
    columns: list[NDArray[Any]] = []
    values, sizes = _no_list()
    for number, place in places.items():
        _, kind, length = element.properties[number]
        offsets = np.array(place.offsets, np.int64)
        if length is None:
            columns.append(_gather(data, offsets, order + kind).astype(_native(kind)))
        else:
            sizes = np.array(place.sizes, np.int64)
            before = np.cumsum(sizes) - sizes
            within = np.arange(int(sizes.sum())) - np.repeat(before, sizes)
            each = np.repeat(offsets, sizes) + within * int(kind[1])
            values = _gather(data, each, order + kind).astype(np.int64)
    return Rows(tuple(columns), values, sizes), at


def _cut_short(element: Element, row: int) -> InputError:
    where = f'row {row + 1} of {element.count} of the element "{element.name[:_NAME_LENGTH]}"'
    return InputError(f"mesh: the PLY file is cut short in {where}")


def _gather(data: NDArray[np.uint8], offsets: NDArray[np.int64], kind: str) -> NDArray[Any]:
    """Return the values at any offsets, of that type."""
    dtype = np.dtype(kind)
    return data[offsets[:, None] + np.arange(dtype.itemsize)].reshape(-1).view(dtype)
