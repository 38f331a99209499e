"""`TiffDirectory`: the entries of a TIFF directory, which EXIF consists of, too.

Adobe, "TIFF Revision 6.0", section 2; "BigTIFF" of libtiff.

Does not know: what a decoder does with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Size of a value by TIFF's number of its type, bytes: byte, ASCII, short, long, rational, …
_SIZES: Final = np.array([0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8])
_SHORT: Final = 3
#: Value for larger ones: behind every file.
_LARGEST: Final = 2**62
_BITS, _COMPRESSION, _SAMPLES, _PLANES, _SAMPLE_FORMAT = 258, 259, 277, 284, 339
#: `Compression`: none.
_UNPACKED: Final = 1
#: `PlanarConfiguration`: each colour has strips of its own.
_SEPARATE: Final = 2
#: First bytes of a TIFF and of a BigTIFF.
_HEADERS: Final = {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}
#: Types of which Pillow keeps bytes: byte, ASCII, undefined.
_BYTES: Final = (1, 2, 7)


@dataclass(frozen=True, slots=True, eq=False)
class TiffDirectory:
    """One directory.

    Attributes:
        tags: uint16 [N].
        kinds: uint16 [N], types of the values.
        counts: float64 [N], numbers of values; not exact over 2**53.
        values: bytes [N], the value itself or where it is.
        order: byte order, `<` or `>`.
    """

    tags: NDArray[np.uint16]
    kinds: NDArray[np.uint16]
    counts: NDArray[np.float64]
    values: NDArray[Any]
    order: str

    def stored_bytes(self, limit: int) -> float:
        """Return the size of all values together, each at most `limit`, in bytes."""
        sizes = _SIZES[np.minimum(self.kinds, len(_SIZES) - 1)] * self.counts
        return float(np.minimum(sizes, limit).sum())

    def numbers(self, without: tuple[int, ...] = ()) -> float:
        """Return how many values are numbers, of all tags but those."""
        is_counted = ~np.isin(self.kinds, _BYTES) & ~np.isin(self.tags, without)
        return float(self.counts[is_counted].sum())

    def count(self, *tags: int) -> float:
        """Return the largest number of values of these tags; 0 without them."""
        return float(self.counts[np.isin(self.tags, tags)].max(initial=0))

    def integers(self, tag: int) -> list[int]:
        """Return the first value of each entry with this tag."""
        found: list[int] = []
        for index in np.flatnonzero(self.tags == tag):
            size = 2 if self.kinds[index] == _SHORT else 4
            content = self.values[index].tobytes()[:size]
            found.append(int.from_bytes(content, "little" if self.order == "<" else "big"))
        return found

    def first_values(self, content: bytes, tag: int) -> list[int]:
        """Return the first value of each entry with this tag, wherever it is stored.

        Args:
            content: the file.
            tag: one whose values are of the type short or long.
        """
        found: list[int] = []
        for value, index in zip(
            self.integers(tag), np.flatnonzero(self.tags == tag).tolist(), strict=True
        ):
            size = 2 if self.kinds[index] == _SHORT else 4
            if self.counts[index] * size <= self.values.dtype.itemsize:
                found.append(value)
            else:
                at = _integer(self.values[index].tobytes(), self.order)
                found.append(_integer(content[at : at + size], self.order))
        return found

    def all_values(self, content: bytes, tag: int) -> NDArray[np.int64]:
        """Return the values of the first entry with this tag, as far as the file has them.

        Args:
            content: the file.
            tag: one of whole numbers.
        """
        kinds = {1: "u1", _SHORT: "u2", 4: "u4", 16: "u8"}
        for index in np.flatnonzero(self.tags == tag)[:1]:
            kind = kinds.get(int(self.kinds[index]))
            if kind is not None:
                stored = self._stored(content, index, int(kind[1]))
                values = np.frombuffer(stored, self.order + kind).astype(np.uint64)
                return np.minimum(values, np.uint64(_LARGEST)).astype(np.int64)
        return np.empty(0, np.int64)

    def bytes_of(self, content: bytes, tag: int) -> bytes:
        """Return the first entry with this tag, of a type of bytes; `b""` without one."""
        for index in np.flatnonzero((self.tags == tag) & np.isin(self.kinds, _BYTES))[:1]:
            return self._stored(content, index, 1)
        return b""

    def _stored(self, content: bytes, index: Any, size: int) -> bytes:
        """Return the values of an entry, as far as they are whole, in bytes."""
        stored = self.values[index].tobytes()
        length = int(min(self.counts[index], len(content)) * size)
        if length > len(stored):
            at = _integer(stored, self.order)
            stored = content[at : at + length]
        stored = stored[:length]
        return stored[: len(stored) // size * size]


def read_directory(
    content: bytes, at: int | None = None, *, is_big: bool | None = None
) -> TiffDirectory | None:
    """Read one directory of a TIFF.

    Args:
        content: begins with TIFF's header.
        at: offset of the directory; None: the first one.
        is_big: whether it is a BigTIFF; None: as Pillow sees it, which looks at the third byte.

    Returns:
        The directory, as far as it is complete; None if there is none.
    """
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None:
        return None
    if is_big is None:
        is_big = content[2:3] == b"+"
    width = 8 if is_big else 4
    if at is None:
        at = _integer(content[8:16] if is_big else content[4:8], order)
    counter = 8 if is_big else 2
    count = _integer(content[at : at + counter], order)
    entry = np.dtype(
        [
            ("tag", f"{order}u2"),
            ("kind", f"{order}u2"),
            ("count", f"{order}u{width}"),
            ("value", f"V{width}"),
        ]
    )
    start = at + counter
    count = min(count, max(len(content) - start, 0) // entry.itemsize)
    if count < 1:
        return None
    rows = np.frombuffer(content, entry, count, start)
    return TiffDirectory(
        rows["tag"].astype(np.uint16),
        rows["kind"].astype(np.uint16),
        rows["count"].astype(np.float64),
        rows["value"],
        order,
    )


def describe_samples(content: bytes) -> str | None:
    """Describe the values of a TIFF's pixels, such as "3 samples of 32 bits, floating point".

    None: it is no TIFF.
    """
    directory = read_directory(content)
    if content[:4] not in _HEADERS or directory is None:
        return None
    count, bits, kind = (
        next(iter(directory.first_values(content, tag)), default)
        for tag, default in ((_SAMPLES, 1), (_BITS, 1), (_SAMPLE_FORMAT, 1))
    )
    words = {1: "unsigned", 2: "signed", 3: "floating point", 5: "complex", 6: "complex"}
    samples = "1 sample" if count == 1 else f"{count} samples"
    return f"{samples} of {bits} bits, {words.get(kind, 'of an unknown kind')}"


def has_deep_planes(content: bytes) -> bool:
    """Whether a TIFF has planes of colours with more than 8 bits, which Pillow reads as 8."""
    directory = read_directory(content)
    if content[:4] not in _HEADERS or directory is None:
        return False
    planes, bits, count = (
        max(directory.first_values(content, tag), default=1) for tag in (_PLANES, _BITS, _SAMPLES)
    )
    return planes == _SEPARATE and bits > 8 and count > 1  # noqa: PLR2004


def has_swapped_grey(content: bytes) -> bool:
    """Whether a TIFF has packed grey whose bytes Pillow swaps although libtiff has done so.

    That is grey in big endian, of more than 8 bits, but for 16 unsigned ones.
    """
    directory = read_directory(content)
    if content[:4] not in _HEADERS or directory is None or directory.order != ">":
        return False
    packing, bits, count, kind = (
        max(directory.first_values(content, tag), default=1)
        for tag in (_COMPRESSION, _BITS, _SAMPLES, _SAMPLE_FORMAT)
    )
    is_known = bits <= 8 or (bits == 16 and kind == 1)  # noqa: PLR2004
    return packing != _UNPACKED and count == 1 and not is_known


def _integer(content: bytes, order: str) -> int:
    return int.from_bytes(content, "little" if order == "<" else "big")
