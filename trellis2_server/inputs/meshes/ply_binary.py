"""Rows of a binary PLY, of either byte order.

Does not know: headers, what elements mean.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING, Any

import numpy as np

from trellis2_server.inputs.meshes.ply_rows import RowLists, Rows, cut_short, row_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from trellis2_server.inputs.meshes.ply_rows import Element


def read_binary_rows(
    content: bytes,
    start: int,
    order: str,
    elements: Sequence[Element],
    wanted: Mapping[str, Sequence[int]],
) -> dict[str, Rows]:
    """Read the elements of a binary PLY, by their names.

    Args:
        content: of the file.
        start: where its rows begin.
        order: `<` for little endian, `>` for big endian.
        elements: of the header.
        wanted: positions of the properties to read.

    Raises:
        InputError: the content is too short, or the length of a list is negative.
    """
    rows: dict[str, Rows] = {}
    at = start
    for element in elements:
        found = _read_uniform(content, at, element, order, wanted[element.name])
        if found is None:
            found = _read_row_by_row(content, at, element, order, wanted[element.name])
        rows[element.name], at = found
    return rows


def _read_uniform(
    content: bytes, at: int, element: Element, order: str, wanted: Sequence[int]
) -> tuple[Rows, int] | None:
    """Read all rows at once if all lists have the length of the first; else return None."""
    if not element.properties:
        return Rows((), ()), at
    dtype = _type_of_first(content, at, element, order)
    end = at + element.count * dtype.itemsize
    if end > len(content):
        if all(length is None for _, _, length in element.properties):
            raise cut_short(element, (len(content) - at) // dtype.itemsize, len(content))
        return None
    rows = np.frombuffer(content, dtype, element.count, at if element.count else 0)
    for number, (_, _, length) in enumerate(element.properties):
        if length is not None and (rows[f"n{number}"] != rows[f"n{number}"][:1]).any():
            return None
    columns: list[NDArray[Any]] = []
    lists: list[RowLists] = []
    for number in wanted:
        _, kind, length = element.properties[number]
        if length is None:
            columns.append(rows[f"s{number}"].astype(_native(kind)))
        else:
            values = rows[f"l{number}"].reshape(element.count, -1 if element.count else 1)
            sizes = np.full(element.count, values.shape[1])
            lists.append(RowLists(values.astype(_native_in_list(kind)).reshape(-1), sizes))
    return Rows(tuple(columns), tuple(lists)), end


def _type_of_first(content: bytes, at: int, element: Element, order: str) -> np.dtype[Any]:
    """Return the type of the first row: numbers `s…`, lists `l…` and their lengths `n…`."""
    fields: list[tuple[str, str] | tuple[str, str, int]] = []
    for number, (_, kind, length) in enumerate(element.properties):
        if length is None:
            fields.append((f"s{number}", order + kind))
            at += int(kind[1])
            continue
        size = 0
        if element.count:
            size, at = _read_length(content, at, order + length, element)
            at += size * int(kind[1])
            if at > len(content):
                raise cut_short(element, 0, len(content))
        fields += [(f"n{number}", order + length), (f"l{number}", order + kind, size)]
    return np.dtype(fields)


def _native(kind: str) -> str:
    """Return the type for numbers of a type: float32 only if the file has no more digits."""
    return "f4" if kind == "f4" else "f8"


def _native_in_list(kind: str) -> str:
    """Return the type for the numbers of lists of a type."""
    return "f8" if kind[0] == "f" else "i8"


def _read_length(content: bytes, at: int, kind: str, element: Element) -> tuple[int, int]:
    """Return the length of a list in the first row, and where its values start."""
    dtype = np.dtype(kind)
    if at + dtype.itemsize > len(content):
        raise cut_short(element, 0, len(content))
    length = float(np.frombuffer(content, dtype, 1, at)[0])
    return _checked_length(length, element, 0, at), at + dtype.itemsize


def _checked_length(length: float, element: Element, row: int, at: int) -> int:
    if not length >= 0 or length % 1:  # NaN and infinity, too
        raise row_error(element.name, row, f"at byte {at}, a list has the length {length:g}")
    return int(length)


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
    content: bytes, at: int, element: Element, order: str, wanted: Sequence[int]
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
                raise cut_short(element, row, len(content))
            (length,) = unpack(content, at)
            count = _checked_length(length, element, row, at)
            at = start + count * item_size
            if place is not None:
                place.offsets.append(start)
                place.sizes.append(count)
        if at > len(content):
            raise cut_short(element, row, len(content))
    data = np.frombuffer(content, np.uint8)
    columns: list[NDArray[Any]] = []
    lists: list[RowLists] = []
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
            values = _gather(data, each, order + kind).astype(_native_in_list(kind))
            lists.append(RowLists(values, sizes))
    return Rows(tuple(columns), tuple(lists)), at


def _gather(data: NDArray[np.uint8], offsets: NDArray[np.int64], kind: str) -> NDArray[Any]:
    """Return the values at any offsets, of that type."""
    dtype = np.dtype(kind)
    return data[offsets[:, None] + np.arange(dtype.itemsize)].reshape(-1).view(dtype)
