"""Numbers in text → arrays, many at a time.

Python makes an object of each word; here a few array operations see all bytes of a block. Digits
are read eight at a time, decimal numbers as integers with a power of ten, which is exact for up to
15 digits; others are read by Python one by one, or are an integer of up to 18 digits times that
power, whose last bit may then be rounded twice.

Does not know: file formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_SPACE, _PLUS, _MINUS, _DOT, _SLASH, _ZERO, _NINE = b" +-./09"
_TAB, _RETURN = b"\t\r"
_EXPONENT: Final = ord("e")
#: Sets the bit that tells small letters from capital ones.
_SMALL: Final = np.uint8(32)
#: Powers of ten that float64 holds exactly.
_POWERS: Final = 10.0 ** np.arange(23)
#: Digits of an integer that always fit into int64.
_INTEGER_DIGITS: Final = 18
#: Digits in a uint64, and the masks of its last 0 to 8 bytes in the order of the text.
_EIGHT: Final = 8
_LAST: Final = np.array([0] + [2**64 - 2 ** (64 - 8 * size) for size in range(1, 9)], np.uint64)
_LAST_BYTE: Final = np.uint64(56)
#: Each step joins neighbours: digits to pairs, pairs to fours, fours to one number. Bits of those
#: that are there, a factor (1 and a power of ten, shifted by their width), and that width.
_JOINS: Final = tuple(
    (np.uint64(bits), np.uint64((10**digits << width) + 1), np.uint64(width))
    for bits, digits, width in (
        (0x0F0F0F0F0F0F0F0F, 1, 8),
        (0x00FF00FF00FF00FF, 2, 16),
        (0x0000FFFF0000FFFF, 4, 32),
    )
)
_TENS: Final = 10 ** np.arange(_INTEGER_DIGITS + 1)
#: Power of ten of a number that Python reads.
_NO_POWER: Final = 2**40


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


def _single(words: Words, marks: NDArray[np.int64]) -> NDArray[np.int64] | slice | None:
    """Return the words of the marks, int64 or a slice; None if a word has two.

    Args:
        words: of a block.
        marks: places of bytes that are in words, ascending.
    """
    if len(marks) == len(words.starts):  # nearly always one in each
        if bool((words.starts <= marks).all() and (marks < words.ends).all()):
            return slice(None)
        return None
    found = np.searchsorted(words.starts, marks, "right") - 1
    return None if len(found) > 1 and bool((found[1:] == found[:-1]).any()) else found


def _eights(text: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the eight bytes before each byte of a text, and before its end, uint64 [B + 1]."""
    padded = np.zeros(len(text) + _EIGHT, np.uint8)
    padded[_EIGHT:] = text
    return np.ndarray((len(text) + 1,), "<u8", padded.data, 0, (1,))


def are_words(words: Words, expected: Sequence[bytes]) -> bool:
    """Whether words are those, again and again.

    Args:
        words: of a block, a multiple of the expected ones.
        expected: of at most eight bytes each.
    """
    sizes = np.array([len(word) for word in expected])
    if bool(((words.ends - words.starts).reshape(-1, len(sizes)) != sizes).any()):
        return False
    bits = [int.from_bytes(word.rjust(_EIGHT, b"\0"), "little") for word in expected]
    found = _eights(words.text)[words.ends].reshape(-1, len(sizes)) & _LAST[sizes]
    return bool((found == np.array(bits, np.uint64)).all())


def _read_digits(
    eights: NDArray[np.uint64], ends: NDArray[np.int64], sizes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the numbers that digits make, int64 [N]; not of more than `_INTEGER_DIGITS` digits.

    Args:
        eights: of the text.
        ends: int64 [N], behind the last digit of each.
        sizes: int64 [N], number of digits; 0 makes 0.
    """
    longest = min(int(sizes.max(initial=0)), _INTEGER_DIGITS)
    if longest <= 1:
        return ((eights[ends] >> _LAST_BYTE) - np.uint64(_ZERO)).astype(np.int64) * sizes
    total = np.zeros(len(ends), np.int64)
    for before in range(0, longest, _EIGHT):
        at = np.maximum(ends - before, 0) if before else ends
        part = eights[at]
        part &= _LAST[np.clip(sizes - before, 0, _EIGHT)]
        for bits, factor, width in _JOINS:
            part &= bits
            part *= factor
            part >>= width
        total += part.astype(np.int64) * _TENS[before]
    return total


def _scaled(integers: NDArray[np.int64], powers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return integers times powers of ten, for powers that float64 holds exactly."""
    values = integers.astype(np.float64)
    scale = _POWERS[np.minimum(np.abs(powers), len(_POWERS) - 1)]
    if int(powers.max()) <= 0:
        return values / scale
    return np.where(powers < 0, values / scale, values * scale)


def decimals(words: Words) -> NDArray[np.float64] | None:  # noqa: C901 - a grammar
    """Return the numbers that the words are, float64 [W]; None if one of them is no number.

    A number is a sign, digits with at most one point, and an exponent; all but a digit may be
    missing. NaN and infinities are no numbers here.

    Args:
        words: those of a block that are wanted; others have neither digits nor points.
    """
    text, starts, ends = words.text, words.starts, words.ends
    count = len(starts)
    if not count:
        return np.empty(0)
    dots = np.flatnonzero(text == _DOT)
    marks = np.flatnonzero((text | _SMALL) == _EXPONENT)
    # Others are letters of a word.
    marks = marks[(text[marks - 1] - np.uint8(_DOT)) <= _NINE - _DOT]
    first = text[starts]
    is_signed = (first == _MINUS) | (first == _PLUS)
    stops, fraction = ends, np.zeros(count, np.int64)
    digits = int(np.count_nonzero((text - np.uint8(_ZERO)) < 10))  # noqa: PLR2004 - wraps around
    signs = int(np.count_nonzero(is_signed))
    with_exponent = None
    after = np.empty(0, np.uint8)
    has_sign = np.empty(0, bool)
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
    known = digits + signs + len(dots) + len(marks)
    if known != int((ends - starts).sum()) or (length < 1).any():
        return None
    eights = _eights(text)
    powers = -fraction
    if with_exponent is not None:
        sizes = ends[with_exponent] - marks - 1 - has_sign
        exponents = _read_digits(eights, ends[with_exponent], sizes)
        np.negative(exponents, out=exponents, where=after == _MINUS)
        # Python reads those that do not fit.
        powers[with_exponent] += np.where(sizes > _INTEGER_DIGITS, _NO_POWER, exponents)
    whole = length - fraction
    integers = _read_digits(eights, starts + is_signed + whole, whole)
    if len(dots):
        integers *= _TENS[np.minimum(fraction, _INTEGER_DIGITS)]
        integers += _read_digits(eights, stops, fraction)
    values, size = _scaled(integers, powers), np.abs(powers)
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
    values = _read_digits(_eights(text), ends, length)
    np.negative(values, out=values, where=first == _MINUS)
    return values


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
