"""Lines of text files: one kind of line ends, blocks of whole lines, errors that name a line.

Does not know: what lines say.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.meshes.numbers import find_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from trellis2_server.inputs.meshes.numbers import Words

#: Read at a time, bytes: arrays of a block stay in the processor's cache.
BLOCK_BYTES: Final = 1 << 18
#: Maximum size of a line that has numbers. A face of as many corners as the limit allows has less.
MAX_LINE_BYTES: Final = 1 << 21
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_NEWLINE, _SPACE, _HASH = b"\n #"
#: Read of a word for an error message.
_WORD_BYTES: Final = 40
_DECIMAL_COMMA: Final = re.compile(rb"[-+]?\d+,\d+")


def plain_text(content: bytes) -> bytes:
    """Return text without a byte order mark, with line feeds as the only line ends."""
    content = content.removeprefix(_BYTE_ORDER_MARK)
    if b"\r" not in content:
        return content
    if b"\r\n" in content:
        while b"\r\r" in content:  # some programs translate line ends twice
            content = content.replace(b"\r\r", b"\r")
        content = content.replace(b"\r\n", b"\n")
    return content.replace(b"\r", b"\n")


def line_number(content: bytes, offset: int) -> int:
    """Return the number of a line, from 1, by the place of one of its bytes."""
    return content.count(b"\n", 0, offset) + 1


def line_blocks(text: NDArray[np.uint8], start: int = 0) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield blocks of whole lines, and where they start.

    A line that is longer than a block is a block of its own.

    Args:
        text: uint8 [B].
        start: of the first line.
    """
    while start < len(text):
        stop = min(start + BLOCK_BYTES, len(text))
        if stop < len(text):
            ends = np.flatnonzero(text[start:stop] == _NEWLINE)
            stop = start + int(ends[-1]) + 1 if len(ends) else _end_of_line(text, stop)
        yield start, text[start:stop]
        start = stop


def _end_of_line(text: NDArray[np.uint8], start: int) -> int:
    """Return where the line ends that the byte at `start` belongs to."""
    while start < len(text):
        stop = min(start + BLOCK_BYTES, len(text))
        ends = np.flatnonzero(text[start:stop] == _NEWLINE)
        if len(ends):
            return start + int(ends[0]) + 1
        start = stop
    return start


def line_starts(block: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return where the lines of a block start, int64 [L]."""
    ends = np.flatnonzero(block == _NEWLINE) + 1
    starts = np.concatenate([[0], ends])
    return starts[:-1] if starts[-1] == len(block) else starts


def first_words(block: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where the first words of lines start; where a line ends, if it is empty.

    Args:
        block: whole lines.
        starts: of the lines.
    """
    words = find_words(block)
    found = np.append(words.starts, len(block))[np.searchsorted(words.starts, starts)]
    return np.minimum(found, np.append(starts[1:], len(block)) - 1)


def blank_comments(block: NDArray[np.uint8], mark: int = _HASH) -> None:
    """Replace comments by spaces, to the ends of their lines.

    Args:
        block: changed.
        mark: with which comments begin.
    """
    marks = np.flatnonzero(block == mark)
    if not len(marks):
        return
    ends = np.append(np.flatnonzero(block == _NEWLINE), len(block))
    stops = ends[np.searchsorted(ends, marks)]
    change = np.zeros(len(block) + 1, np.int32)
    np.add.at(change, marks, 1)
    np.add.at(change, stops, -1)
    block[np.cumsum(change[:-1]) > 0] = _SPACE


def words_in_lines(words: Words, starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of words in each line, int64 [L].

    Args:
        words: of the block.
        starts: of the lines of the block.
    """
    return np.diff(np.searchsorted(words.starts, np.append(starts, len(words.text))))


def read_number(word: bytes) -> float:
    """Return a number as text files have it, also NaN and infinities.

    Raises:
        ValueError: it is none.
    """
    if b"_" in word:  # Python's own
        raise ValueError("an underscore")
    return float(word)


def number_error(content: bytes, offset: int, word: bytes) -> InputError:
    """Return the error for a word that should be a number.

    Args:
        content: of the file.
        offset: of the word or its line.
        word: the word.
    """
    shown = word[:_WORD_BYTES].decode("ascii", "replace")
    shown = "".join(letter if letter.isprintable() else "?" for letter in shown)
    why = "write a point, not a comma" if _DECIMAL_COMMA.fullmatch(word) else "it is no number"
    return line_error(content, offset, f'"{shown}": {why}')


def line_error(content: bytes, offset: int, text: str) -> InputError:
    """Return an error that names the line.

    Args:
        content: of the file.
        offset: of one of the line's bytes.
        text: what is wrong.
    """
    return InputError(f"mesh: line {line_number(content, offset)}: {text}")


def check_line(content: bytes, offset: int, size: int) -> None:
    """Check the size of a line that has numbers.

    Raises:
        TooLargeError: it is over `MAX_LINE_BYTES`.
    """
    if size > MAX_LINE_BYTES:
        raise TooLargeError(
            f"mesh: line {line_number(content, offset)} is over the limit of {MAX_LINE_BYTES} bytes"
        )
