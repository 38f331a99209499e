"""Blocks of an OBJ: their lines by keyword, and the vectors in lines.

Does not know: what keywords mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.inputs.meshes.numbers import decimals, find_words
from trellis2_server.inputs.meshes.text import (
    blank_comments,
    check_line,
    first_words,
    line_error,
    line_starts,
    number_error,
    read_number,
    words_in_lines,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SPACE: Final = ord(" ")
_COUNTS: Final = {1: "no number", 3: "fewer than three numbers"}


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """Lines of one kind in a block, without their first word and without comments.

    Attributes:
        text: uint8 [B], of these lines only.
        starts: int64 [L], in the text.
        offsets: int64 [L], in the file.
        rows: int64 [L], which lines of the block they are.
    """

    text: NDArray[np.uint8]
    starts: NDArray[np.int64]
    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]

    def words(self, line: int) -> list[bytes]:
        """Return the words of a line."""
        end = self.starts[line + 1] if line + 1 < len(self.starts) else len(self.text)
        return self.text[self.starts[line] : end].tobytes().split()


class Block:
    """Whole lines of a file.

    Args:
        content: of the file, for error messages.
        offset: of the block in the file.
        text: uint8 [B], the block; not empty.

    Attributes:
        starts: int64 [L], of the lines, in the block.
    """

    def __init__(self, content: bytes, offset: int, text: NDArray[np.uint8]) -> None:
        self._content = content
        self._offset = offset
        self._text = text
        self.starts = line_starts(text)
        first = self.starts
        if (text[first] <= _SPACE).any():
            first = first_words(text, first)
        self._first = first
        self._letters: dict[int, NDArray[np.uint8]] = {}

    def find(self, keyword: bytes) -> NDArray[np.bool_]:
        """Return which lines begin with a keyword, bool [L]."""
        found = self._letter(0) == keyword[0]
        for place, letter in enumerate(keyword[1:], 1):
            found &= self._letter(place) == letter
        return found & (self._letter(len(keyword)) <= _SPACE)

    def _letter(self, place: int) -> NDArray[np.uint8]:
        """Return the byte at a place behind the beginning of each line's first word."""
        found = self._letters.get(place)
        if found is None:
            places = np.minimum(self._first + place, len(self._text) - 1)
            found = self._letters[place] = self._text[places]
        return found

    def behind(self, line: int, keyword: bytes, size: int) -> bytes:
        """Return at most `size` bytes behind the keyword of a line."""
        start = self._offset + int(self._first[line]) + len(keyword)
        return self._content[start : start + size].partition(b"\n")[0]

    def take(self, is_wanted: NDArray[np.bool_], keyword: bytes) -> Lines | None:
        """Return the lines that `find` found, or None if there are none.

        Raises:
            TooLargeError: one of them is too long.
        """
        rows = np.flatnonzero(is_wanted)
        if not len(rows):
            return None
        starts = self.starts
        lengths = np.diff(np.append(starts, len(self._text)))
        longest = rows[lengths[rows].argmax()]
        check_line(self._content, self._offset + int(starts[longest]), int(lengths[longest]))
        heads = self._first[rows]
        if len(rows) == len(starts):
            text, begin = self._text.copy(), starts
        else:
            text = self._text[np.repeat(is_wanted, lengths)]
            begin = np.cumsum(lengths[rows]) - lengths[rows]
            heads = heads - starts[rows] + begin
        for shift in range(len(keyword)):
            text[heads + shift] = _SPACE
        blank_comments(text)
        return Lines(text, begin, self._offset + starts[rows], rows)


def read_vectors(
    content: bytes, lines: Lines, size: int, least: int | None = None
) -> NDArray[np.float64]:
    """Return the first numbers of each line, float64 [L, `size`]; 0 for those that are missing.

    Args:
        content: of the file, for error messages.
        lines: at least one.
        size: how many numbers.
        least: how many a line must have; None: all.

    Raises:
        InputError: a line has fewer, or something that is no number.
    """
    least = size if least is None else least
    words = find_words(lines.text)
    counts = words_in_lines(words, lines.starts)
    if counts.min() < least:
        raise line_error(content, int(lines.offsets[counts.argmin()]), _COUNTS[least])
    values = decimals(words)
    if values is None:
        return np.array([_read_vector(content, lines, line, size) for line in range(len(counts))])
    if counts[0] >= size and (counts == counts[0]).all():
        return values.reshape(len(counts), -1)[:, :size]
    first = np.searchsorted(words.starts, lines.starts)[:, None]
    is_there = np.arange(size) < counts[:, None]
    places = np.minimum(first + np.arange(size), len(values) - 1)
    return np.where(is_there, values[places], 0.0)


def _read_vector(content: bytes, lines: Lines, line: int, size: int) -> list[float]:
    """Return the first numbers of a line, which may be NaN or infinite."""
    values: list[float] = []
    for word in lines.words(line)[:size]:
        try:
            values.append(read_number(word))
        except ValueError:  # noqa: PERF203 - says which
            raise number_error(content, int(lines.offsets[line]), word) from None
    return values + [0.0] * (size - len(values))
