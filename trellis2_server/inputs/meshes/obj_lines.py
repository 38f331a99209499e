"""Lines of an OBJ that a backslash continues.

Does not know: what lines mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trellis2_server.inputs.meshes.text import first_words

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NEWLINE, _SPACE, _BACKSLASH, _HASH = b"\n \\#"
_V = ord("v")


def join_lines(content: bytes) -> bytes:
    r"""Return the file with continued lines joined: spaces instead of `\` and the line's end.

    Only lines of numbers continue. In comments and names, a backslash is a letter.

    Args:
        content: plain text.

    Returns:
        As many bytes as the file, or a line end more.
    """
    if b"\\" not in content:
        return content
    content += b"\n"
    text = np.frombuffer(content, np.uint8).copy()
    ends = np.flatnonzero(text == _NEWLINE)
    starts = np.concatenate([[0], ends[:-1] + 1])
    hashes = np.flatnonzero(text == _HASH)
    has_comment = np.searchsorted(hashes, starts) < np.searchsorted(hashes, ends)
    continued = np.flatnonzero((text[ends - 1] == _BACKSLASH) & (ends > starts) & ~has_comment)
    places = np.arange(len(continued))
    heads = first_words(text, starts)[continued]
    is_numeric = _have_numbers(text, heads)
    # A line goes on with the next if it has numbers, or if the line before goes on with it.
    is_first = np.diff(continued, prepend=-2) > 1
    run = np.maximum.accumulate(np.where(is_first, places, 0))
    last_numeric = np.maximum.accumulate(np.where(is_numeric, places, -1))
    joined = ends[continued[last_numeric >= run]]
    text[joined] = text[joined - 1] = _SPACE
    return text.tobytes()


def _have_numbers(text: NDArray[np.uint8], heads: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which lines are lines of numbers, by where their first words start."""
    last = len(text) - 1
    first, second, third = (text[np.minimum(heads + shift, last)] for shift in range(3))
    ends_here, ends_next = ((each <= _SPACE) | (each == _BACKSLASH) for each in (second, third))
    is_short = ends_here & np.isin(first, np.frombuffer(b"vflp", np.uint8))
    is_vector = (first == _V) & ends_next & np.isin(second, np.frombuffer(b"ntp", np.uint8))
    return is_short | is_vector


def line_of_large_index(content: bytes, start: int, count: int, field: int = 0) -> int:
    """Return where the first line with a face is that refers to a vertex behind the last one.

    Args:
        content: of the file; from `start` on, a line has such a face.
        start: of a line.
        count: number of vertices in the file; or of texture coordinates.
        field: which of the indices of a corner it is, from 0.
    """
    text = join_lines(content)
    while start < len(text):
        end = text.find(b"\n", start) % (len(text) + 1)
        words = text[start:end].partition(b"#")[0].split()
        if words[:1] == [b"f"] and len(words) > 3:  # noqa: PLR2004 - fewer are no face
            fields = ((*word.split(b"/"), b"", b"")[field] for word in words[1:])
            if any(int(index or b"0") > count for index in fields):
                break
        start = end + 1
    return start
