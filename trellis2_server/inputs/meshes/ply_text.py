"""Rows of a text PLY: one line each, with lists of any length.

Does not know: headers, what elements mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.inputs.meshes.numbers import decimals, find_words, integers
from trellis2_server.inputs.meshes.ply_rows import RowLists, Rows, cut_short
from trellis2_server.inputs.meshes.scene import check_corners, check_size
from trellis2_server.inputs.meshes.text import (
    check_line,
    line_blocks,
    line_error,
    line_starts,
    number_error,
    read_number,
    words_in_lines,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from trellis2_server.inputs.meshes.numbers import Words
    from trellis2_server.inputs.meshes.ply_rows import Element

#: Numbers of lists up to this are whole as float64.
_LARGEST: Final = 2.0**53


def read_text_rows(
    body: bytes, header_lines: int, elements: Sequence[Element], wanted: Mapping[str, Sequence[int]]
) -> dict[str, Rows]:
    """Read the elements of a text PLY, by their names.

    Args:
        body: plain text behind the header.
        header_lines: number of lines before the body.
        elements: of the header.
        wanted: positions of the properties to read. Values of the first list are whole.

    Raises:
        InputError: a line has too few values, or something that is no number; or lines are missing.
        TooLargeError: lists have more corners or triangles than the limits allow.
    """
    return _Reader(body, header_lines, elements, wanted).read()


class _Reader:
    def __init__(
        self,
        body: bytes,
        header_lines: int,
        elements: Sequence[Element],
        wanted: Mapping[str, Sequence[int]],
    ) -> None:
        # So that offsets of errors count the header's lines.
        self._padding = header_lines
        self._content = b"\n" * header_lines + body
        self._elements = [element for element in elements if element.count]
        self._wanted = wanted
        self._columns: dict[str, list[list[NDArray[Any]]]] = {}
        self._values: dict[tuple[str, int], list[NDArray[Any]]] = {}
        self._sizes: dict[tuple[str, int], list[NDArray[Any]]] = {}
        self._lists: dict[str, list[int]] = {}
        self._faces = 0
        for element in elements:
            scalars = [at for at in wanted[element.name] if element.properties[at][2] is None]
            self._columns[element.name] = [[np.empty(0)] for _ in scalars]
            lists = [at for at in wanted[element.name] if at not in scalars]
            self._lists[element.name] = lists
            for at in lists:
                is_index = at == lists[0]
                self._values[element.name, at] = [np.empty(0, np.int64 if is_index else float)]
                self._sizes[element.name, at] = [np.empty(0, np.int64)]

    def read(self) -> dict[str, Rows]:
        elements = iter(self._elements)
        element = next(elements, None)
        left = element.count if element else 0
        text = np.frombuffer(self._content, np.uint8)
        for offset, block in line_blocks(text, self._padding):
            if element is None:
                break
            starts = line_starts(block)
            counts = words_in_lines(find_words(block), starts)
            begins = np.append(starts[counts > 0], len(block))
            row = 0
            while element is not None and row < len(begins) - 1:
                taken = min(left, len(begins) - 1 - row)
                lines = begins[row : row + taken + 1]
                if self._wanted[element.name]:
                    self._read_lines(element, offset + int(lines[0]), block, lines)
                row, left = row + taken, left - taken
                while element is not None and not left:
                    element = next(elements, None)
                    left = element.count if element else 0
        if element is not None:
            raise cut_short(element, element.count - left)
        return {
            name: Rows(
                tuple(np.concatenate(column) for column in columns),
                tuple(
                    RowLists(
                        np.concatenate(self._values[name, at]),
                        np.concatenate(self._sizes[name, at]),
                    )
                    for at in self._lists[name]
                ),
            )
            for name, columns in self._columns.items()
        }

    def _read_lines(
        self, element: Element, offset: int, block: NDArray[np.uint8], lines: NDArray[np.int64]
    ) -> None:
        """Read some rows of an element.

        Args:
            element: their element.
            offset: of the first line in the content.
            block: whole lines.
            lines: where the lines start in the block, and where the last ends.
        """
        check_line(self._content, offset, int(np.diff(lines).max()))
        text, starts = block[lines[0] : lines[-1]], lines[:-1] - lines[0]
        words = find_words(text)
        counts = words_in_lines(words, starts)
        values, offsets = self._numbers(element, words, offset), offset + starts
        wanted = self._wanted[element.name]
        # Where the next value of each row is; after the last property, where the row ends.
        first = np.cumsum(counts) - counts
        at, end = first.copy(), first + counts
        for position, (_, _, length) in enumerate(element.properties):
            if (at >= end).any():
                self._refuse_short(int(offsets[(at >= end).argmax()]))
            if length is None:
                if position in wanted:
                    self._columns[element.name][wanted.index(position)].append(values[at])
                at += 1
                continue
            sizes = self._whole(values[at], offsets)
            at += 1
            is_short = (sizes < 0) | (sizes > end - at)
            if is_short.any():
                if position in self._lists[element.name][:1]:
                    check_corners(int(sizes.max()))
                self._refuse_short(int(offsets[is_short.argmax()]))
            if position in wanted:
                self._take_list(element, position, _in_lists(values, at, sizes), sizes, offsets)
            at += sizes

    def _take_list(
        self,
        element: Element,
        position: int,
        values: NDArray[Any],
        sizes: NDArray[np.int64],
        offsets: NDArray[np.int64],
    ) -> None:
        is_index = position == self._lists[element.name][0]
        if is_index:
            self._faces += int(np.maximum(sizes - 2, 0).sum())
            check_size(0, self._faces)
            values = self._whole(values, np.repeat(offsets, sizes))
        self._values[element.name, position].append(values)
        self._sizes[element.name, position].append(sizes)

    def _numbers(self, element: Element, words: Words, offset: int) -> NDArray[Any]:
        """Return all numbers of some lines."""
        values: NDArray[Any] | None = None
        if all(kind[0] != "f" for _, kind, _ in element.properties):
            values = integers(words)
        if values is None:
            values = decimals(words)
        if values is not None:
            return values
        numbers: list[float] = []
        for index, start in enumerate(words.starts.tolist()):
            word = words.bytes_of(index)
            try:
                numbers.append(read_number(word))
            except ValueError:
                raise number_error(self._content, offset + start, word) from None
        return np.array(numbers)

    def _whole(self, values: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return numbers that must be whole as integers.

        Args:
            values: numbers.
            offsets: of the line of each number.
        """
        if values.dtype != np.int64:
            is_whole = (np.abs(values) <= _LARGEST) & (np.trunc(values) == values)
            if not is_whole.all():
                at = int(is_whole.argmin())
                text = f"{values[at]:g} is an index or a length and must be a whole number"
                raise line_error(self._content, int(offsets[at]), text)
        return values.astype(np.int64, copy=False)

    def _refuse_short(self, offset: int) -> None:
        raise line_error(self._content, offset, "fewer values than the header declares")


def _in_lists(
    values: NDArray[Any], first: NDArray[np.int64], sizes: NDArray[np.int64]
) -> NDArray[Any]:
    """Return the values that are in lists.

    Args:
        values: all numbers of some lines.
        first: int64 [R], where the values of the list of each row start.
        sizes: int64 [R], how many these are.
    """
    before = np.cumsum(sizes) - sizes
    return values[np.arange(int(sizes.sum())) + np.repeat(first - before, sizes)]
