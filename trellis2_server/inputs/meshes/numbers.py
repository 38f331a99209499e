"""Numbers in text → arrays, many at a time.

Python makes an object of each word; here a few array operations see all bytes of a block. Integers
are read by `numpy.fromstring`, decimal numbers as integers with a power of ten, which is exact for
up to 15 digits; others are read by Python one by one, or are an integer of up to 18 digits times
that power, whose last bit may then be rounded twice.

Does not know: file formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SPACE, _PLUS, _MINUS, _DOT, _SLASH, _ZERO = b" +-./0"
_TAB, _RETURN = b"\t\r"
_EXPONENT: Final = ord("e")
#: Sets the bit that tells small letters from capital ones.
_SMALL: Final = np.uint8(32)
#: Powers of ten that float64 holds exactly.
_POWERS: Final = 10.0 ** np.arange(23)
#: Digits of an integer that always fit into int64.
_INTEGER_DIGITS: Final = 18
_EXPONENT_TO_SPACE: Final = bytes.maketrans(b"eE", b"  ")
_SLASH_TO_SPACE: Final = bytes.maketrans(b"/", b" ")


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """Where the words of a block are.

    Attributes:
        text: uint8 [B].
        starts: int64 [W], ascending.
        ends: int64 [W], behind the last byte of each.
    """

    text: NDArray[np.uint8]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def bytes_of(self, index: int) -> bytes:
        """Return a word."""
        return self.text[self.starts[index] : self.ends[index]].tobytes()


def find_words(text: NDArray[np.uint8]) -> Words:
    """Return the words of a block: what stands between spaces, tabs and line ends."""
    padded = np.zeros(len(text) + 2, bool)
    is_control = (text - np.uint8(_TAB)) <= _RETURN - _TAB
    np.logical_and(text != _SPACE, ~is_control, out=padded[1:-1])
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    return Words(text, edges[0::2], edges[1::2])


def _single(words: Words, marks: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Return the word of each mark, int64, or None if a word has two.

    Args:
        words: of a block.
        marks: places of bytes that are in words, ascending.
    """
    if len(marks) == len(words.starts):  # nearly always one in each
        if bool((words.starts <= marks).all() and (marks < words.ends).all()):
            return np.arange(len(marks))
        return None
    found = np.searchsorted(words.starts, marks, "right") - 1
    return None if len(found) > 1 and bool((found[1:] == found[:-1]).any()) else found


def decimals(words: Words) -> NDArray[np.float64] | None:  # noqa: C901, PLR0911 - a grammar
    """Return the numbers that the words are, float64 [W]; None if one of them is no number.

    A number is a sign, digits with at most one point, and an exponent; all but a digit may be
    missing. NaN and infinities are no numbers here.

    Args:
        words: all words of a block.
    """
    text, starts, ends = words.text, words.starts, words.ends
    count = len(starts)
    if not count:
        return np.empty(0)
    dots = np.flatnonzero(text == _DOT)
    marks = np.flatnonzero((text | _SMALL) == _EXPONENT)
    first = text[starts]
    is_signed = (first == _MINUS) | (first == _PLUS)
    stops, fraction = ends, np.zeros(count, np.int64)
    digits = int(np.count_nonzero((text - np.uint8(_ZERO)) < 10))  # noqa: PLR2004 - wraps around
    signs = int(np.count_nonzero(is_signed))
    with_exponent = None
    if len(marks):
        with_exponent = _single(words, marks)
        if with_exponent is None:
            return None
        stops = ends.copy()
        stops[with_exponent] = marks
        after = text[np.minimum(marks + 1, len(text) - 1)]
        has_sign = (after == _MINUS) | (after == _PLUS)
        signs += int(np.count_nonzero(has_sign))
        if (ends[with_exponent] - marks - 1 - has_sign < 1).any():
            return None
    with_dot = np.zeros(count, bool)
    if len(dots):
        owner = _single(words, dots)
        if owner is None or (dots >= stops[owner]).any():
            return None
        with_dot[owner] = True
        fraction[owner] = stops[owner] - dots - 1
    length = stops - starts - is_signed - with_dot
    blank = len(text) - int((ends - starts).sum())
    if digits + signs + len(dots) + len(marks) + blank != len(text) or (length < 1).any():
        return None
    integers = np.fromstring(text.tobytes().translate(_EXPONENT_TO_SPACE, b"."), np.int64, sep=" ")
    if len(integers) != count + len(marks):
        return None
    powers = -fraction
    if with_exponent is not None:
        is_exponent = np.zeros(len(integers), bool)
        is_exponent[with_exponent + 1 + np.arange(len(marks))] = True
        powers[with_exponent] += np.clip(integers[is_exponent], -(2**40), 2**40)
        integers = integers[~is_exponent]
    values = np.abs(integers).astype(np.float64)
    size = np.abs(powers)
    scale = _POWERS[np.minimum(size, len(_POWERS) - 1)]
    values = np.where(powers < 0, values / scale, values * scale) if len(marks) else values / scale
    np.negative(values, out=values, where=first == _MINUS)
    for index in np.flatnonzero((size >= len(_POWERS)) | (length > _INTEGER_DIGITS)).tolist():
        values[index] = float(words.bytes_of(index))
    return values


def integers(words: Words) -> NDArray[np.int64] | None:
    """Return the whole numbers that the words are, int64 [W]; None if one of them is none.

    Args:
        words: all words of a block.
    """
    text, starts, ends = words.text, words.starts, words.ends
    if not len(starts):
        return np.empty(0, np.int64)
    first = text[starts]
    is_signed = (first == _MINUS) | (first == _PLUS)
    digits = int(np.count_nonzero((text - np.uint8(_ZERO)) < 10))  # noqa: PLR2004 - wraps around
    length = ends - starts
    if digits + int(is_signed.sum()) != int(length.sum()):
        return None
    length -= is_signed
    if not 1 <= int(length.min()) <= int(length.max()) <= _INTEGER_DIGITS:
        return None
    return np.fromstring(text.tobytes(), np.int64, sep=" ")


@dataclass(frozen=True, slots=True, eq=False)
class Corners:
    """Corners of faces, such as `7`, `7/1`, `7//2` and `7/1/2`.

    Attributes:
        vertices: int64 [C], the first number of each.
        textures: int64 [C], the second number of each; 0 where there is none. None: of all.
        normals: int64 [C], the third number of each, likewise.
    """

    vertices: NDArray[np.int64]
    textures: NDArray[np.int64] | None
    normals: NDArray[np.int64] | None


def corners(words: Words, *, with_textures: bool = False) -> Corners | None:
    """Return the corners that the words are; None if one of them is none.

    Args:
        words: all words of a block.
        with_textures: whether the second numbers are wanted.
    """
    text, starts, ends = words.text, words.starts, words.ends
    slashes = np.flatnonzero(text == _SLASH)
    if not len(slashes):
        found = integers(words)
        return None if found is None else Corners(found, None, None)
    fields = find_words(np.where(text == _SLASH, np.uint8(_SPACE), text))
    values = integers(fields)
    if values is None:
        return None
    # Each word begins with a field, or it begins with a slash.
    first = np.searchsorted(fields.starts, starts)
    if first[-1] >= len(values) or (fields.starts[first] != starts).any():
        return None
    counts = _slashes_of(words, slashes)
    if counts.max() > 2:  # noqa: PLR2004 - vertex, texture, normal
        return None
    last = np.append(first[1:], len(values)) - 1
    has_normal = (counts == 2) & (text[ends - 1] != _SLASH)  # noqa: PLR2004
    normals = np.where(has_normal, values[last], 0) if has_normal.any() else None
    textures = None
    if with_textures:
        # Right behind the slash that ends the first field, and in the same word.
        second = np.minimum(first + 1, len(values) - 1)
        has_texture = fields.starts[second] == fields.ends[first] + 1
        has_texture &= (counts > 0) & (fields.starts[second] < ends)
        textures = np.where(has_texture, values[second], 0) if has_texture.any() else None
    return Corners(values[first], textures, normals)


def _slashes_of(words: Words, slashes: NDArray[np.int64]) -> NDArray[Any]:
    """Return the number of slashes in each word."""
    each, rest = divmod(len(slashes), len(words.starts))
    if not rest:  # nearly always as many in each
        grid = slashes.reshape(-1, each)
        if bool((grid[:, 0] > words.starts).all() and (grid[:, -1] < words.ends).all()):
            return np.full(len(words.starts), each)
    return np.searchsorted(slashes, words.ends) - np.searchsorted(slashes, words.starts)
