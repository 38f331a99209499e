"""Check the structure of a picture file before it is decoded.

Decoders take time and memory for parts of a file that no pixel needs: segments, chunks, scans,
strips. Their number is bounded here, by limits that no camera and no program comes near. Each
check takes time in proportion to the file's size at most, and leaves what is damaged to the
decoder.

Does not know: pixels. GIF, BMP, WebP and AVIF are not checked: their decoders take time and memory
in proportion to the file's size and to the pixels.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final

from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.images.jpeg_segments import (
    APP1,
    START_OF_FRAME,
    START_OF_SCAN,
    read_segments,
)
from trellis2_server.inputs.images.tiff_directory import read_directory

if TYPE_CHECKING:
    from trellis2_server.inputs.images.tiff_directory import TiffDirectory

#: JPEG: scans of a picture. Programs write about 10; libtiff has the same limit. Each takes time
#: for all pixels, even if it is empty.
MAX_SCANS: Final = 100
#: JPEG: pixels of all scans together.
MAX_SCANS_PIXELS: Final = 6_400_000_000
#: JPEG: segments before and between the scans. A segment has up to 64 KB, so that those of large
#: depth maps and histories are some hundred.
MAX_SEGMENTS: Final = 4096
#: JPEG: segments with EXIF. One is usual; Pillow concatenates them one by one.
MAX_EXIF_SEGMENTS: Final = 64
#: JPEG: bytes between segments. Some programs fill up a disk's block; Pillow reads them singly.
MAX_FILL_BYTES: Final = 1_048_576
#: PNG: chunks, besides one for each 256 bytes. Programs write chunks of 8 KB.
MAX_CHUNKS: Final = 10_000
#: PNG: colour profiles. One is allowed; each can take a megabyte when it is decompressed.
MAX_PROFILES: Final = 16
#: TIFF and EXIF: size of all values beyond that of the file. Only values that overlap have more.
MAX_OVERLAP_BYTES: Final = 16_777_216
#: TIFF: numbers in tags other than strips and tiles, each of which becomes an object.
MAX_NUMBERS: Final = 200_000
#: TIFF: smallest tile that counts, pixels. The specification demands multiples of 16.
_TILE: Final = 16
#: TIFF: strips or tiles that any picture may have, and that none may exceed.
_MIN_STRIPS, _MAX_STRIPS = 4096, 300_000

#: First bytes of TIFF files. Pillow also accepts the third and fourth one the wrong way round.
_TIFF: Final = {b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0"}
_IMAGE_WIDTH, _IMAGE_LENGTH, _SAMPLES = 256, 257, 277
_STRIPS, _TILES = (273, 279), (324, 325)
_TILE_WIDTH, _TILE_LENGTH, _PLANAR = 322, 323, 284
#: Tags that refer to another directory, which Pillow reads: EXIF, GPS.
_DIRECTORIES: Final = (34665, 34853)


def check_structure(data: bytes) -> None:
    """Check the structure of a JPEG, PNG or TIFF file; accept other files.

    Raises:
        TooLargeError: the file has more parts than decoding should take time for.
        InputError: its EXIF data is not valid.
    """
    if data[:3] == b"\xff\xd8\xff":
        _check_jpeg(data)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        _check_png(data)
    elif data[:4] == b"MM\0+":  # Pillow sees a usual TIFF in it, libtiff a BigTIFF
        _check_tiff(data, is_big=False)
        _check_tiff(data, is_big=True)
    elif data[:4] in _TIFF:
        _check_tiff(data, is_big=data[2:3] == b"+")


def is_exif_bounded(exif: bytes) -> bool:
    """Whether reading EXIF data takes memory in proportion to its size."""
    content = re.sub(rb"^(Exif\x00\x00){1,2}", b"", exif)
    directory = read_directory(content)
    return (
        directory is None
        or directory.stored_bytes(len(content)) <= len(content) + MAX_OVERLAP_BYTES
    )


def _limit(what: str, limit: int) -> TooLargeError:
    return TooLargeError(f"image: over the limit of {limit} {what}")


def _check_jpeg(data: bytes) -> None:
    """Check the first picture of a JPEG file."""
    scans = segments = fill = pixels = 0
    exif: list[bytes] = []
    for segment in read_segments(data):
        segments, fill = segments + 1, fill + segment.skipped
        scans += segment.marker == START_OF_SCAN
        if segment.marker in START_OF_FRAME:
            pixels = max(pixels, segment.pixels)
        if segment.marker == APP1 and segment.content.startswith(b"Exif\0\0"):
            exif.append(segment.content[6:])
        max_scans = min(MAX_SCANS, max(MAX_SCANS_PIXELS // max(pixels, 1), 1))
        for count, limit, what in (
            (segments, MAX_SEGMENTS, "segments in a JPEG file"),
            (scans, max_scans, "scans in a JPEG file of this size"),
            (len(exif), MAX_EXIF_SEGMENTS, "segments with EXIF data"),
            (fill, MAX_FILL_BYTES, "bytes between the segments of a JPEG file"),
        ):
            if count > limit:
                raise _limit(what, limit)
    if exif and not is_exif_bounded(b"".join(exif)):
        raise InputError("image: its EXIF data is damaged")


def _check_png(data: bytes) -> None:
    limit = MAX_CHUNKS + len(data) // 256
    at, profiles = 8, 0
    for _ in range(limit):
        if at + 8 > len(data):
            return
        size, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IEND":
            return
        if kind == b"iCCP":
            profiles += 1
            if profiles > MAX_PROFILES:
                raise _limit("colour profiles in a PNG file", MAX_PROFILES)
        at += 12 + size
    raise _limit("chunks in a PNG file of this size", limit)


def _check_tiff(data: bytes, *, is_big: bool) -> None:
    first = read_directory(data, is_big=is_big)
    if first is None:
        return
    directories = [first]
    for tag in _DIRECTORIES:
        directories += [
            directory
            for offset in first.integers(tag)
            if (directory := read_directory(data, offset, is_big=is_big)) is not None
        ]
    stored = sum(directory.stored_bytes(len(data)) for directory in directories)
    if stored > len(data) + MAX_OVERLAP_BYTES:
        raise _limit("bytes of tags in a TIFF file of this size", len(data) + MAX_OVERLAP_BYTES)
    if sum(directory.numbers((*_STRIPS, *_TILES)) for directory in directories) > MAX_NUMBERS:
        raise _limit("numbers in the tags of a TIFF file", MAX_NUMBERS)
    _check_strips(first)


def _check_strips(directory: TiffDirectory) -> None:
    """Check that a TIFF has at most one strip a row, or tiles of a usual size."""
    width, height = (
        min(directory.integers(tag), default=0) for tag in (_IMAGE_WIDTH, _IMAGE_LENGTH)
    )
    is_planar = 2 in directory.integers(_PLANAR)  # noqa: PLR2004 - each sample has its own strips
    planes = max(directory.integers(_SAMPLES), default=1) if is_planar else 1
    across, down = (
        -(-size // max(min(directory.integers(tag), default=_TILE), _TILE))
        for size, tag in ((width, _TILE_WIDTH), (height, _TILE_LENGTH))
    )
    for what, tags, usual in (("strips", _STRIPS, height), ("tiles", _TILES, across * down)):
        limit = min(max(usual * planes, _MIN_STRIPS), _MAX_STRIPS)
        if directory.count(*tags) > limit:
            raise _limit(f"{what} in a TIFF file of these measures", limit)
