"""Reduce a PNG file to the chunks that its pixels need, as browsers do.

Pillow refuses files for chunks that no pixel needs: texts, colour values, checksums of either.
W3C, "Portable Network Graphics (PNG) Specification (Third Edition)", section 11.

Does not know: pixels. Files with too many chunks are refused before: `structure`.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
#: Largest colour profile, bytes. Those of printers have 2 MB.
MAX_PROFILE_BYTES: Final = 4_194_304

#: Ancillary chunks that change the picture, if they are whole: transparency, EXIF, animation.
_NEEDED: Final = {b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"}
_GREY, _COLOR, _PALETTE = 0, 2, 3
#: Lengths of transparency by colour type, bytes.
_TRANSPARENCY: Final = {_GREY: range(2, 3), _COLOR: range(6, 7), _PALETTE: range(1, 257)}


@dataclass(frozen=True, slots=True, eq=False)
class CleanPng:
    """A PNG file without what its pixels do not need.

    Attributes:
        content: the file.
        icc_profile: its colour profile.
        is_profile_damaged: whether it has one that cannot be used.
        transparent: the value of its transparent pixels after decoding to 8 bits a channel, or to
            16 bits of grey; None: it has none, or opacities in its palette.
    """

    content: bytes
    icc_profile: bytes | None = None
    is_profile_damaged: bool = False
    transparent: int | tuple[int, ...] | None = None


def clean_png(data: bytes) -> CleanPng:
    """Return a PNG file with the chunks that its pixels need.

    What is critical and damaged is left to the decoder. If the file ends within its pixels, that
    chunk is made a whole one.

    Args:
        data: the file; any other file is returned as it is.
    """
    header = data[:33]
    if not header.startswith(SIGNATURE) or header[12:16] != b"IHDR":
        return CleanPng(data)
    depth, color_type = header[24], header[25]
    view = memoryview(data)
    parts: list[bytes | memoryview] = [view[:8]]
    icc_profile, is_damaged = None, False
    transparent: int | tuple[int, ...] | None = None
    for kind, start, end in _chunks(data):
        content = view[start + 8 : end - 4]
        if end > len(data):  # cut short
            if kind == b"IDAT":
                parts += _chunk(kind, view[start + 8 :])
            break
        if kind == b"iCCP" and icc_profile is None:
            icc_profile = _profile(content) if _is_whole(data, start, end) else None
            is_damaged = icc_profile is None
        elif kind == b"tRNS":
            if len(content) in _TRANSPARENCY.get(color_type, ()) and _is_whole(data, start, end):
                parts.append(view[start:end])
                transparent = _transparent(bytes(content), depth, color_type)
        elif not kind[0] & 0x20 or (kind in _NEEDED and _is_whole(data, start, end)):
            parts.append(view[start:end])
    parts += _chunk(b"IEND", memoryview(b""))
    return CleanPng(b"".join(parts), icc_profile, is_damaged, transparent)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind, the start and the end of each chunk up to IEND; the last may be cut."""
    at = 8
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IEND":
            return
        yield kind, at, at + 12 + size
        at += 12 + size


def _chunk(kind: bytes, content: memoryview) -> list[bytes | memoryview]:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return [struct.pack(">I", len(content)) + kind, content, struct.pack(">I", checksum)]


def _is_whole(data: bytes, start: int, end: int) -> bool:
    """Whether a chunk has its checksum."""
    checksum = zlib.crc32(memoryview(data)[start + 4 : end - 4])
    return data[end - 4 : end] == struct.pack(">I", checksum)


def _profile(content: memoryview) -> bytes | None:
    """Return the colour profile of an iCCP chunk: a name, 0, the method 0, and zlib's bytes."""
    name = bytes(content[:80])
    end = name.find(b"\0")
    if end < 0 or bytes(content[end + 1 : end + 2]) != b"\0":
        return None
    try:
        stream = zlib.decompressobj()
        profile = stream.decompress(content[end + 2 :], MAX_PROFILE_BYTES + 1)
    except zlib.error:
        return None
    return profile if 0 < len(profile) <= MAX_PROFILE_BYTES else None


def _transparent(content: bytes, depth: int, color_type: int) -> int | tuple[int, ...] | None:
    if color_type == _PALETTE:
        return None
    values = [
        value & (1 << depth) - 1 for value in struct.unpack(f">{len(content) // 2}H", content)
    ]
    if color_type == _COLOR:
        return tuple(value >> 8 if depth > 8 else value for value in values)  # noqa: PLR2004 - bits
    return values[0] if depth >= 8 else values[0] * 255 // ((1 << depth) - 1)  # noqa: PLR2004
