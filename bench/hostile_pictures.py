"""Picture files that cost much more to decode than to send, each under 5 MB.

Each function makes one file from nothing; `PICTURES` names them all.

Does not know: how they are sent, what the server makes of them.
"""

from __future__ import annotations

import io
import struct
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, ImageCms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Tags = dict[int, tuple[int, Sequence[int] | NDArray[Any]]]

#: Edge of a square just under the default limit of 64 million pixels.
EDGE_PX: Final = 8000
_JFIF: Final = b"\xff\xd8"


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Encode a picture as a file of one of Pillow's formats."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(edge_px: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Draw coloured noise, smooth over 8 pixels."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (edge_px // 8, edge_px // 8, len(mode)), np.uint8)
    return Image.fromarray(small).resize((edge_px, edge_px)).convert(mode)


# ---- JPEG ----------------------------------------------------------------------------------


def _segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def jpeg_empty_scans(edge_px: int = EDGE_PX, scans: int = 100_000) -> bytes:
    """Progressive JPEG with scans of ten bytes, each of which touches every block."""
    content = encode(Image.new("L", (edge_px, edge_px), 90), "JPEG", progressive=True, quality=5)
    scan = _segment(0xDA, bytes((1, 1, 0, 0, 0, 0x10)))  # refines the first coefficient
    return content[:-2] + scan * scans + content[-2:]


def jpeg_segments(marker: int, data: bytes, size: int = 4_000_000) -> bytes:
    """Small JPEG after many segments of one kind."""
    each = _segment(marker, data)
    return _JFIF + each * (size // len(each)) + encode(Image.new("L", (64, 64)), "JPEG")[2:]


def jpeg_fill_bytes() -> bytes:
    """Small JPEG after four million fill bytes, which are valid between markers."""
    return _JFIF + b"\xff" * 4_000_000 + encode(Image.new("L", (64, 64)), "JPEG")[3:]


def jpeg_exif_loop() -> bytes:
    """JPEG whose EXIF directories contain themselves."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, 8) for tag in (0x8769, 0x8825, 0xA005))
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 3) + entries + struct.pack("<I", 8)
    return _JFIF + _segment(0xE1, exif) + encode(Image.new("RGB", (64, 64)), "JPEG")[2:]


def jpeg_cut() -> bytes:
    """The first half of an ordinary JPEG."""
    content = encode(noise(2000), "JPEG", quality=80)
    return content[: len(content) // 2]


def jpeg_large() -> bytes:
    """An ordinary picture of 49 million pixels."""
    return encode(noise(7000), "JPEG", quality=20)


def jpeg_cmyk() -> bytes:
    """CMYK at the limit of pixels, progressive: all coefficients stay in memory."""
    content = Image.new("CMYK", (EDGE_PX, EDGE_PX), (9, 8, 7, 6))
    return encode(content, "JPEG", progressive=True, quality=5)


# ---- TIFF ----------------------------------------------------------------------------------

_SHORT, _LONG = 3, 4


def tiff(tags: Tags, data: bytes, next_directory: int = 0) -> bytes:
    """Return a TIFF of one directory; the data begin at byte 8, and the tags' values follow.

    Args:
        tags: number → type (3 uint16, 4 uint32), values.
        data: pixels.
        next_directory: offset of the next directory.
    """
    data += bytes(len(data) % 2)
    values, entries = b"", b""
    for number, (kind, numbers) in sorted(tags.items()):
        packed = np.asarray(numbers, "<u2" if kind == _SHORT else "<u4").tobytes()
        where = packed.ljust(4, b"\0")
        if len(packed) > 4:
            where = struct.pack("<I", 8 + len(data) + len(values))
            values += packed
        entries += struct.pack("<HHI", number, kind, len(numbers)) + where
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", next_directory)
    begin = 8 + len(data) + len(values)
    return b"II*\0" + struct.pack("<I", begin) + data + values + directory


def _tiff_layout(width: int, height: int, bits: Sequence[int], compression: int) -> Tags:
    return {
        256: (_LONG, [width]),
        257: (_LONG, [height]),
        258: (_SHORT, bits),
        259: (_SHORT, [compression]),
        262: (_SHORT, [1 if len(bits) == 1 else 2]),
        277: (_SHORT, [len(bits)]),
    }


def tiff_tiny_tiles(edge_px: int = 1000) -> bytes:
    """A million tiles of one byte, all of them the same one."""
    tags = _tiff_layout(edge_px, edge_px, [8], 1)
    tags |= {322: (_SHORT, [1]), 323: (_SHORT, [1])}
    tags |= {324: (_LONG, np.full(edge_px * edge_px, 8))}
    return tiff(tags, b"\x80\0")


def tiff_tiny_strips(count: int = 600_000) -> bytes:
    """More strips than rows, one byte each, with their sizes."""
    tags = _tiff_layout(8, 8, [8], 1) | {278: (_SHORT, [1])}
    tags |= {273: (_LONG, np.full(count, 8)), 279: (_SHORT, np.ones(count))}
    return tiff(tags, b"\x80" * 8)


def tiff_at_the_limit(bits: Sequence[int], sample_format: int = 1) -> bytes:
    """Zeros up to the limit of pixels, compressed a thousandfold."""
    row = bytes(EDGE_PX * sum(bits) // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(EDGE_PX)) + packer.flush()
    tags = _tiff_layout(EDGE_PX, EDGE_PX, bits, 8) | {278: (_LONG, [EDGE_PX])}
    tags |= {273: (_LONG, [8]), 279: (_LONG, [len(data)])}
    tags |= {339: (_SHORT, [sample_format] * len(bits))}
    if len(bits) == 4:
        tags |= {338: (_SHORT, [2])}
    return tiff(tags, data)


def tiff_directory_loop() -> bytes:
    """A directory that names itself as the next one, with 65,000 tags."""
    tags = _tiff_layout(64, 64, [8], 1) | {273: (_LONG, [8]), 279: (_LONG, [4096])}
    tags |= {number: (_SHORT, [number]) for number in range(1000, 60_000)}
    content = tiff(tags, bytes(4096))
    begin = content[4:8]
    return content[:-4] + begin


def tiff_huge_counts() -> bytes:
    """Tags that claim four billion values."""
    tags = _tiff_layout(64, 64, [8], 1) | {273: (_LONG, [8]), 279: (_LONG, [4096])}
    tags |= {number: (_LONG, [8]) for number in range(700, 710)}
    content = tiff(tags, bytes(4096))
    for number in range(700, 710):
        entry = struct.pack("<HHI", number, _LONG, 1)
        content = content.replace(entry, struct.pack("<HHI", number, _LONG, 2**32 - 1))
    return content


# ---- PNG -----------------------------------------------------------------------------------

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    """Encode a PNG chunk with a valid checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, form: tuple[int, int, int], *chunks: bytes) -> bytes:
    """Return a PNG of these chunks; the form is bits, colour type and interlacing."""
    bits, colour, interlaced = form
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    return b"".join((_SIGNATURE, chunk(b"IHDR", header), *chunks, chunk(b"IEND", b"")))


def _packed_zeros(count: int) -> bytes:
    packer, block = zlib.compressobj(9), bytes(1_000_000)
    parts = [packer.compress(block) for _ in range(count // len(block))]
    return b"".join((*parts, packer.compress(bytes(count % len(block))), packer.flush()))


def png_bomb(interlaced: int = 0) -> bytes:
    """RGBA of 16 bits at the limit of pixels: half a gigabyte in half a megabyte."""
    row = 1 + 8 * EDGE_PX
    more = 2 if interlaced else 1  # a filter byte for each row of each pass
    data = _packed_zeros(row * EDGE_PX + (EDGE_PX * more if interlaced else 0))
    return png(EDGE_PX, EDGE_PX, (16, 6, interlaced), chunk(b"IDAT", data))


def _small_idat() -> bytes:
    return chunk(b"IDAT", zlib.compress(bytes(64 * (1 + 64 * 3))))


def png_many(kind: bytes, data: bytes, size: int = 4_000_000) -> bytes:
    """Small PNG with many chunks of one kind before its pixels."""
    each = chunk(kind, data)
    return png(64, 64, (8, 2, 0), each * (size // len(each)), _small_idat())


def png_text_bombs() -> bytes:
    """Compressed texts that unpack to sixty times a megabyte, a thousandfold each."""
    text = b"Comment\0\0" + zlib.compress(b"a" * 1_000_000, 9)
    return png(64, 64, (8, 2, 0), chunk(b"zTXt", text) * 3000, _small_idat())


def png_profile_bomb() -> bytes:
    """A colour profile that unpacks to a third of a gigabyte."""
    profile = chunk(b"iCCP", b"p\0\0" + _packed_zeros(333_000_000))
    return png(64, 64, (8, 2, 0), profile, _small_idat())


def png_many_idat() -> bytes:
    """Pixels in chunks of one byte, among 300,000 empty ones."""
    data = zlib.compress(bytes(64 * (1 + 64 * 3)))
    bytes_of = [chunk(b"IDAT", data[k : k + 1]) for k in range(len(data))]
    empty = chunk(b"IDAT", b"")
    return png(64, 64, (8, 2, 0), *(one + empty * (300_000 // len(data)) for one in bytes_of))


def png_animation(frames: int = 30_000) -> bytes:
    """An animation of many frames."""
    data = zlib.compress(bytes(64 * (1 + 64 * 3)))
    place = struct.pack(">IIIIHHBB", 64, 64, 0, 0, 1, 100, 0, 0)
    parts = [chunk(b"acTL", struct.pack(">II", frames, 0))]
    parts += [chunk(b"fcTL", struct.pack(">I", 0) + place), chunk(b"IDAT", data)]
    for k in range(1, 2 * frames - 2, 2):
        parts.append(chunk(b"fcTL", struct.pack(">I", k) + place))
        parts.append(chunk(b"fdAT", struct.pack(">I", k + 1) + data))
    return png(64, 64, (8, 2, 0), *parts)


# ---- other formats -------------------------------------------------------------------------


def gif(width: int, height: int, *blocks: bytes) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return b"".join((head, *blocks, b";"))


def _gif_frame(width: int, height: int, data: bytes = b"\x02\x44\x01\x00") -> bytes:
    return b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02" + data


def gif_huge_frame() -> bytes:
    """A frame of four billion pixels in a picture of 64 x 64."""
    return gif(64, 64, _gif_frame(65_535, 65_535))


def gif_many_frames() -> bytes:
    """Two hundred thousand frames of one pixel."""
    return gif(64, 64, _gif_frame(1, 1) * 200_000)


def gif_comments() -> bytes:
    """Comments in blocks of one byte."""
    return gif(64, 64, b"!\xfe" + b"\x01a" * 2_000_000 + b"\0", _gif_frame(64, 64))


def bmp_runs(edge_px: int = 1560) -> bytes:
    """Run-length BMP whose runs are one pixel long."""
    width = height = edge_px
    data = (b"\x01\x05" * width + bytes(2)) * height + b"\0\1"
    palette = bytes(1024)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    begin = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", begin + len(data), 0, 0, begin) + head + palette + data


def webp_at_the_limit() -> bytes:
    """Lossless WebP of one colour at the limit of pixels."""
    flat = Image.new("RGBA", (EDGE_PX, EDGE_PX), (9, 8, 7, 200))
    return encode(flat, "WEBP", lossless=True, quality=0, method=0)


def webp_animation() -> bytes:
    """WebP of hundreds of frames."""
    frames = [Image.new("RGB", (512, 512), (k % 256, 9, k // 256)) for k in range(300)]
    options = {"save_all": True, "append_images": frames[1:], "method": 0, "quality": 1}
    return encode(frames[0], "WEBP", **options)


def webp_wrong_sizes() -> bytes:
    """WebP whose outer size is that of its content a thousandfold."""
    content = bytearray(encode(noise(64, "RGBA"), "WEBP", lossless=True))
    extended = struct.pack("<4sIB3x", b"VP8X", 10, 0x10) + b"\x3f\x1f\0" * 2
    body = extended + bytes(content[12:])
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def avif_wrong_sizes() -> bytes:
    """AVIF whose properties claim 7,900 x 7,900 pixels."""
    content = encode(noise(64), "AVIF", speed=10)
    real = b"ispe" + bytes(4) + struct.pack(">II", 64, 64)
    return content.replace(real, b"ispe" + bytes(4) + struct.pack(">II", 7900, 7900))


def avif_large() -> bytes:
    """AVIF of one colour, 36 million pixels."""
    return encode(Image.new("RGB", (6000, 6000), (9, 99, 9)), "AVIF", speed=10, quality=1)


def avif_cut() -> bytes:
    """AVIF without its second half."""
    content = encode(noise(512), "AVIF", speed=10)
    return content[: len(content) // 2]


def _lookup_profile(points: int) -> bytes:
    """Return an ICC profile whose colour table has that many points on each axis."""
    base = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    table = np.random.default_rng(0).integers(0, 65_536, points**3 * 3).astype(">u2").tobytes()
    matrix = struct.pack(">9i", 65_536, 0, 0, 0, 65_536, 0, 0, 0, 65_536)
    ramp = struct.pack(">2H", 0, 65_535) * 3
    lookup = b"mft2" + bytes(4) + bytes((3, 3, points, 0)) + matrix + struct.pack(">HH", 2, 2)
    lookup += ramp + table + ramp
    lookup += bytes(-len(lookup) % 4)
    begin = 128 + 4 + 12
    head = bytearray(base[:128])
    head[12:24] = b"scnrRGB Lab "
    head[:4] = struct.pack(">I", begin + len(lookup))
    tags = struct.pack(">I", 1) + struct.pack(">4sII", b"A2B0", begin, len(lookup))
    return bytes(head) + tags + lookup


def png_profile(points: int = 50) -> bytes:
    """PNG with a colour profile of a megabyte, or of fewer points."""
    return encode(noise(64), "PNG", icc_profile=_lookup_profile(points))


#: Name → the function that makes the file.
PICTURES: Final[dict[str, Callable[[], bytes]]] = {
    "jpeg-empty-scans": jpeg_empty_scans,
    "jpeg-exif-segments": partial(jpeg_segments, 0xE1, b"Exif\0\0" + bytes(58)),
    "jpeg-exif-long-segments": partial(jpeg_segments, 0xE1, b"Exif\0\0" + bytes(1000)),
    "jpeg-profile-segments": partial(jpeg_segments, 0xE2, b"ICC_PROFILE\0\x01\xff" + bytes(50)),
    "jpeg-tables": partial(jpeg_segments, 0xDB, bytes(65)),
    "jpeg-comments": partial(jpeg_segments, 0xFE, b"a"),
    "jpeg-photoshop": partial(jpeg_segments, 0xED, b"Photoshop 3.0\x008BIM" + bytes(40)),
    "jpeg-fill-bytes": jpeg_fill_bytes,
    "jpeg-exif-loop": jpeg_exif_loop,
    "jpeg-cut": jpeg_cut,
    "jpeg-large": jpeg_large,
    "jpeg-cmyk": jpeg_cmyk,
    "tiff-tiny-tiles": tiff_tiny_tiles,
    "tiff-tiny-strips": tiff_tiny_strips,
    "tiff-float": partial(tiff_at_the_limit, [32], 3),
    "tiff-16-bit": partial(tiff_at_the_limit, [16, 16, 16, 16]),
    "tiff-directory-loop": tiff_directory_loop,
    "tiff-huge-counts": tiff_huge_counts,
    "png-bomb": png_bomb,
    "png-bomb-interlaced": partial(png_bomb, 1),
    "png-text-chunks": partial(png_many, b"tEXt", b"a\0b"),
    "png-text-bombs": png_text_bombs,
    "png-profile-bomb": png_profile_bomb,
    "png-many-idat": png_many_idat,
    "png-animation": png_animation,
    "png-large-profile": png_profile,
    "gif-huge-frame": gif_huge_frame,
    "gif-many-frames": gif_many_frames,
    "gif-comments": gif_comments,
    "bmp-runs": bmp_runs,
    "webp-at-the-limit": webp_at_the_limit,
    "webp-animation": webp_animation,
    "webp-wrong-sizes": webp_wrong_sizes,
    "avif-wrong-sizes": avif_wrong_sizes,
    "avif-large": avif_large,
    "avif-cut": avif_cut,
}
