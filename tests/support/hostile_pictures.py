"""Picture files that cost a decoder much; each under 5 MB.

`COSTLY` maps names to functions that return the file. A decoder may read or refuse each; what it
must not do is to take long, or much memory.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, Final

from PIL import Image, features

from tests.support.hostile_tiffs import COSTLY_TIFFS, MEGABYTE, SIDE, overlapping_entries
from tests.support.pictures import encode, png_chunk

if TYPE_CHECKING:
    from collections.abc import Callable

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"


def _small(kind: str, **options: Any) -> bytes:
    return encode(Image.linear_gradient("L").convert("RGB"), kind, **options)


def segment(marker: int, content: bytes) -> bytes:
    """Encode a JPEG segment."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg_with(segments: bytes) -> bytes:
    """Return a small JPEG with segments after its first marker."""
    content = _small("JPEG")
    return content[:2] + segments + content[2:]


def jpeg_of_exif_segments() -> bytes:
    return jpeg_with(segment(0xE1, b"Exif\0\0" + bytes(10)) * 200_000)


def jpeg_of_large_exif_segments() -> bytes:
    return jpeg_with(segment(0xE1, b"Exif\0\0" + bytes(2_000)) * 2_300)


def jpeg_of_empty_segments() -> bytes:
    return jpeg_with(segment(0xEF, b"") * MEGABYTE)


def jpeg_of_comments() -> bytes:
    return jpeg_with(segment(0xFE, b"") * MEGABYTE)


def jpeg_of_profiles() -> bytes:
    """A colour profile in 200,000 segments."""
    return jpeg_with(segment(0xE2, b"ICC_PROFILE\0\1\xff") * 200_000)


def jpeg_of_tables() -> bytes:
    return jpeg_with(segment(0xDB, b"\0" + bytes(range(1, 65))) * 60_000)


def jpeg_of_junk() -> bytes:
    return jpeg_with(b"\0" * (4 * MEGABYTE))


def jpeg_of_padding() -> bytes:
    return jpeg_with(b"\xff" * (4 * MEGABYTE))


def jpeg_of_exif_that_overlaps() -> bytes:
    """EXIF of 5,000 entries, each of which refers to the same 64 KB."""
    return jpeg_with(segment(0xE1, b"Exif\0\0" + overlapping_entries(2_600, 32_000)))


def jpeg_of_resources() -> bytes:
    """Photoshop resources, each of which is a copy in memory."""
    resources = b"".join(b"8BIM" + struct.pack(">HBBI", number, 0, 0, 0) for number in range(5_000))
    return jpeg_with(segment(0xED, b"Photoshop 3.0\0" + resources) * 60)


def _progressive(scans: int, side: int = SIDE) -> bytes:
    """Return a progressive JPEG whose further scans are empty."""
    content = encode(Image.new("RGB", (side, side)), "JPEG", progressive=True)
    at = content.rindex(b"\xff\xda")
    # The spectral band 1..63 of the first component, refined by nothing.
    scan = segment(0xDA, b"\x01\x01\x00\x01\x3f\x00")
    return content[:at] + scan * scans + b"\xff\xd9"


def jpeg_of_empty_scans() -> bytes:
    return _progressive(2_000)


def jpeg_of_empty_scans_small() -> bytes:
    return _progressive(100_000, 800)


def jpeg_of_restarts() -> bytes:
    content = _small("JPEG")
    return content[:-2] + b"\xff\xd0" * (2 * MEGABYTE) + content[-2:]


def jpeg_large() -> bytes:
    """64 megapixels of progressive JPEG, as a camera could make them."""
    return encode(Image.new("RGB", (SIDE, SIDE), (200, 90, 30)), "JPEG", progressive=True)


def mpo_of_many_pictures() -> bytes:
    """An index of 4,000 pictures in a phone's multi-picture file."""
    return jpeg_with(segment(0xE2, b"MPF\0" + overlapping_entries(2_600, 32_000)))


def _png(*chunks: bytes, side: int = 64) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(3 * side)) * side, 9)
    data = png_chunk(b"IDAT", rows)
    return (
        _SIGNATURE + png_chunk(b"IHDR", header) + b"".join(chunks) + data + png_chunk(b"IEND", b"")
    )


def png_of_empty_chunks() -> bytes:
    return _png(png_chunk(b"prVt", b"") * 400_000)


def png_of_empty_data() -> bytes:
    return _png(png_chunk(b"IDAT", b"") * 400_000)


def png_of_one_byte_data() -> bytes:
    rows = zlib.compress((b"\0" + bytes(3 * 64)) * 64, 0)
    header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    data = b"".join(png_chunk(b"IDAT", b"") * 20 + png_chunk(b"IDAT", bytes([b])) for b in rows)
    return _SIGNATURE + png_chunk(b"IHDR", header) + data + png_chunk(b"IEND", b"")


def png_of_texts() -> bytes:
    return _png(png_chunk(b"tEXt", b"a\0b") * 300_000)


def png_of_compressed_texts() -> bytes:
    text = zlib.compress(bytes(MEGABYTE), 9)
    return _png(*(png_chunk(b"zTXt", b"k%d\0\0" % number + text) for number in range(4_000)))


def png_of_profiles() -> bytes:
    """4,000 colour profiles of a megabyte each, compressed."""
    profile = zlib.compress(bytes(MEGABYTE), 9)
    return _png(png_chunk(b"iCCP", b"p\0\0" + profile) * 4_000)


def png_of_profiles_at_the_end() -> bytes:
    profile = zlib.compress(bytes(MEGABYTE), 9)
    content = _png()
    chunk = png_chunk(b"iCCP", b"p\0\0" + profile)
    return content[:-12] + chunk * 4_000 + content[-12:]


def png_of_exif_that_overlaps() -> bytes:
    return _png(png_chunk(b"eXIf", overlapping_entries(60_000, 3_000_000)))


def png_of_frames() -> bytes:
    """An animation that declares two billion frames, of which 100,000 follow."""
    control = png_chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
    frame = png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 64, 64, 0, 0, 1, 1, 0, 0))
    return _png(control, frame * 100_000)


def png_bomb() -> bytes:
    """64 megapixels in 200 KB."""
    return encode(Image.new("RGBA", (SIDE, SIDE), (9, 9, 9, 200)), compress_level=9)


def png_deep_bomb() -> bytes:
    """64 megapixels of 16-bit grey."""
    return encode(Image.new("I;16", (SIDE, SIDE), 9_999), compress_level=9)


def gif_of_comments() -> bytes:
    content = _small("GIF")
    comment = b"\x21\xfe" + (b"\xff" + bytes(255)) * 17_000 + b"\0"
    return _insert_into_gif(content, comment)


def _insert_into_gif(content: bytes, extensions: bytes) -> bytes:
    """Put extensions before the first frame of a GIF."""
    colors = 3 << ((content[10] & 7) + 1) if content[10] & 0x80 else 0
    return content[: 13 + colors] + extensions + content[13 + colors :]


def gif_of_small_comments() -> bytes:
    return _insert_into_gif(_small("GIF"), b"\x21\xfe\x01a\0" * 900_000)


def gif_of_small_blocks() -> bytes:
    return _insert_into_gif(_small("GIF"), b"\x21\xfe" + b"\1a" * (2 * MEGABYTE) + b"\0")


def gif_of_extensions() -> bytes:
    return _insert_into_gif(_small("GIF"), b"\x21\xff\0" * (MEGABYTE + MEGABYTE // 3))


def gif_of_junk() -> bytes:
    return _insert_into_gif(_small("GIF"), b"\0" * (4 * MEGABYTE))


def gif_of_frames() -> bytes:
    content = _small("GIF")
    frame = content[content.index(b"\x2c", 13 + 768) : -1]
    return content[:-1] + (b"\x2c" + bytes(4) + b"\1\0\1\0\0" + b"\2\2\x4c\1\0") * 200_000 + frame


def gif_bomb() -> bytes:
    return encode(Image.new("P", (SIDE, SIDE)), "GIF")


def bmp_of_runs() -> bytes:
    """64 megapixels of run-length coding, one or two pixels a run."""
    side = 2_000
    rows = (b"\1\1" * side + b"\0\0") * (side // 2)
    return _bmp(side, rows + b"\0\1")


def bmp_of_jumps() -> bytes:
    """Run-length coding that moves down, again and again."""
    return _bmp(SIDE, b"\0\2\xff\xff" * MEGABYTE + b"\0\1")


def bmp_of_line_ends() -> bytes:
    return _bmp(SIDE, b"\0\0" * (2 * MEGABYTE) + b"\0\1")


def _bmp(side: int, data: bytes) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(data), 0, 0, 256, 0)
    palette = bytes(1024)
    start = 14 + len(header) + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start) + header + palette + data


def webp_bomb() -> bytes:
    return encode(Image.new("RGBA", (SIDE, SIDE), (9, 9, 9, 200)), "WEBP", lossless=True)


def webp_of_frames() -> bytes:
    """An animation of many frames of one pixel."""
    dot = encode(Image.new("RGB", (1, 1)), "WEBP", lossless=True)
    picture = dot[12:]
    frame = bytes(6) + bytes(6) + b"\1\0\0" + b"\0" + picture
    frame = b"ANMF" + struct.pack("<I", len(frame)) + frame
    return _riff(
        b"VP8X" + struct.pack("<I", 10) + b"\2" + bytes(3) + b"\x3f\0\0\x3f\0\0",
        b"ANIM" + struct.pack("<I", 6) + bytes(6),
        frame * 70_000,
    )


def webp_of_chunks() -> bytes:
    picture = _small("WEBP")[12:]
    return _riff(
        b"VP8X" + struct.pack("<I", 10) + b"\0" + bytes(3) + b"\xff\0\0\xff\0\0",
        picture,
        (b"ABCD" + bytes(4)) * 500_000,
    )


def webp_of_exif_that_overlaps() -> bytes:
    exif = overlapping_entries(60_000, 3_000_000)
    return _riff(
        b"VP8X" + struct.pack("<I", 10) + b"\x08" + bytes(3) + b"\xff\0\0\xff\0\0",
        _small("WEBP")[12:],
        b"EXIF" + struct.pack("<I", len(exif)) + exif,
    )


def _riff(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def avif_bomb() -> bytes:
    return encode(Image.new("RGB", (SIDE, SIDE), (9, 9, 9)), "AVIF", speed=10)


def profile_of_many_tags() -> bytes:
    """A picture whose colour profile has 100 tags that are each the whole profile."""
    from PIL import ImageCms

    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes())
    profile += bytes(MEGABYTE)
    profile[:4] = struct.pack(">I", len(profile))
    return encode(Image.new("RGB", (64, 64)), "TIFF", icc_profile=bytes(profile))


#: By name.
COSTLY: Final[dict[str, Callable[[], bytes]]] = {
    make.__name__: make
    for make in (
        jpeg_of_exif_segments, jpeg_of_large_exif_segments, jpeg_of_empty_segments,
        jpeg_of_comments, jpeg_of_profiles, jpeg_of_tables, jpeg_of_junk, jpeg_of_padding,
        jpeg_of_exif_that_overlaps, jpeg_of_resources, jpeg_of_empty_scans,
        jpeg_of_empty_scans_small, jpeg_of_restarts, jpeg_large, mpo_of_many_pictures,
        png_of_empty_chunks, png_of_empty_data, png_of_one_byte_data, png_of_texts,
        png_of_compressed_texts, png_of_profiles, png_of_profiles_at_the_end,
        png_of_exif_that_overlaps, png_of_frames, png_bomb, png_deep_bomb, gif_of_comments,
        gif_of_small_comments, gif_of_small_blocks, gif_of_extensions, gif_of_junk, gif_of_frames,
        gif_bomb, bmp_of_runs, bmp_of_jumps, bmp_of_line_ends, webp_bomb, webp_of_frames,
        webp_of_chunks, webp_of_exif_that_overlaps, profile_of_many_tags,
        *([avif_bomb] if features.check("avif") else []),
    )
} | COSTLY_TIFFS  # fmt: skip
