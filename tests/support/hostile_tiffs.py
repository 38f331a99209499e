"""TIFF files that cost a decoder much, and directories of TIFF, of which EXIF consists, too."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from PIL import Image

from tests.support.pictures import encode

if TYPE_CHECKING:
    from collections.abc import Callable

MEGABYTE: Final = 1_000_000
#: Of the largest pictures that the server accepts, pixels.
SIDE: Final = 8_000


def overlapping_entries(count: int, size: int) -> bytes:
    """Return a TIFF directory whose entries all refer to the same bytes."""
    entries = b"".join(struct.pack("<HHII", 1_000 + n, 1, size, 8) for n in range(count))
    directory = struct.pack("<2sHIH", b"II", 42, 8, count) + entries + bytes(4)
    return directory + bytes(max(size - len(directory) + 8, 0))


def tiff(
    entries: dict[int, tuple[int, int, bytes]], after: bytes = b"", next_directory: int = 0
) -> bytes:
    """Return a little-endian TIFF of one directory, followed by other bytes.

    Args:
        entries: type, count and value of each tag; a value of over 4 bytes is stored behind.
        after: bytes at the end.
        next_directory: offset of the next directory.
    """
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    at = len(head) + 12 * len(entries) + 4
    listed = stored = b""
    for tag, (kind, count, value) in sorted(entries.items()):
        if len(value) > 4:
            listed += struct.pack("<HHII", tag, kind, count, at + len(stored))
            stored += value
        else:
            listed += struct.pack("<HHI4s", tag, kind, count, value.ljust(4, b"\0"))
    return head + listed + struct.pack("<I", next_directory) + stored + after


def _short(value: int) -> tuple[int, int, bytes]:
    return 3, 1, struct.pack("<H", value)


def _longs(*values: int) -> tuple[int, int, bytes]:
    return 4, len(values), struct.pack(f"<{len(values)}I", *values)


def _grey_tiff(side: int, **changes: tuple[int, int, bytes]) -> dict[int, tuple[int, int, bytes]]:
    entries = {
        256: _longs(side), 257: _longs(side), 258: _short(8), 259: _short(1), 262: _short(1),
        277: _short(1),
    }  # fmt: skip
    return entries | {int(name[1:]): value for name, value in changes.items()}


def tiff_of_one_byte_strips() -> bytes:
    """Four million strips: their offsets are bytes."""
    count = 4 * MEGABYTE
    return tiff(_grey_tiff(2_000, _273=(1, count, b"\x08" * count), _278=_longs(1)))


def tiff_of_small_tiles() -> bytes:
    count = 4 * MEGABYTE
    tiles = {"_322": _longs(1), "_323": _longs(1), "_324": (1, count, b"\x08" * count)}
    return tiff(_grey_tiff(2_000, **tiles))


def tiff_of_strips_of_a_tall_picture() -> bytes:
    """A height that warrants four million strips, and more pixels than any limit."""
    count = 4 * MEGABYTE
    return tiff(_grey_tiff(2**31, _273=(1, count, b"\x08" * count), _278=_longs(1)))


def tiff_of_strips_with_compression() -> bytes:
    count = 500_000
    offsets, sizes = (4, count, struct.pack("<I", 8) * count), (4, count, b"\1\0\0\0" * count)
    strips = _grey_tiff(700, _273=offsets, _278=_longs(1), _279=sizes, _259=_short(5))
    return tiff(strips, bytes(500_000))


def tiff_of_directories() -> bytes:
    """A picture followed by 200,000 empty directories."""
    picture = tiff(_grey_tiff(64, _273=_longs(8), _278=_longs(64), _279=_longs(4096)), bytes(4096))
    chain = bytearray()
    start = len(picture)
    for number in range(200_000):
        chain += struct.pack("<HI", 0, start + 6 * (number + 1))
    end = 8 + 2 + 12 * 9
    return picture[:end] + struct.pack("<I", start) + picture[end + 4 :] + bytes(chain) + bytes(6)


def tiff_of_full_directories() -> bytes:
    """A picture followed by directories of 100 entries each."""
    picture = tiff(_grey_tiff(64, _273=_longs(8), _278=_longs(64), _279=_longs(4096)), bytes(4096))
    chain = bytearray()
    entries = b"".join(struct.pack("<HHI4s", 1000 + n, 4, 1, b"\0") for n in range(100))
    start = len(picture)
    for number in range(4_000):
        chain += struct.pack("<H", 100) + entries + struct.pack("<I", start + 1206 * (number + 1))
    end = 8 + 2 + 12 * 9
    return picture[:end] + struct.pack("<I", start) + picture[end + 4 :] + bytes(chain) + bytes(6)


def tiff_of_overlapping_entries() -> bytes:
    """60,000 tags that each refer to the same three megabytes."""
    return overlapping_entries(60_000, 3_000_000)


def tiff_of_a_long_tag() -> bytes:
    """A tag of a million rationals, of which Pillow makes objects."""
    value = (5, 250_000, struct.pack("<II", 1, 3) * 250_000)
    strips = {"_273": _longs(8), "_278": _longs(64), "_279": _longs(4096)}
    return tiff(_grey_tiff(64, _282=value, _33432=value, **strips), bytes(4096))


def tiff_of_bits() -> bytes:
    """A million samples a pixel."""
    value = (3, MEGABYTE, struct.pack("<H", 8) * MEGABYTE)
    strips = {"_273": _longs(8), "_278": _longs(64), "_279": _longs(4096)}
    return tiff(_grey_tiff(64, _258=value, _339=value, **strips), bytes(4096))


def tiff_float_bomb() -> bytes:
    """64 megapixels of floats, compressed."""
    return encode(Image.new("F", (SIDE, SIDE), 0.5), "TIFF", compression="tiff_adobe_deflate")


def tiff_jpeg_bomb() -> bytes:
    """64 megapixels of JPEG in a TIFF."""
    return encode(Image.new("RGB", (SIDE, SIDE)), "TIFF", compression="jpeg")


#: By name.
COSTLY_TIFFS: Final[dict[str, Callable[[], bytes]]] = {
    make.__name__: make
    for make in (
        tiff_of_one_byte_strips, tiff_of_small_tiles, tiff_of_strips_of_a_tall_picture,
        tiff_of_strips_with_compression, tiff_of_directories, tiff_of_full_directories,
        tiff_of_overlapping_entries, tiff_of_a_long_tag, tiff_of_bits, tiff_float_bomb,
        tiff_jpeg_bomb,
    )
}  # fmt: skip
