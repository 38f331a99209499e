from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from tests.support.pictures import encode, photograph, png_chunk, vase
from trellis2_server.inputs.images.color_profiles import DAMAGED_PROFILE
from trellis2_server.inputs.images.decoding import decode_image
from trellis2_server.inputs.images.png_chunks import MAX_PROFILE_BYTES, clean_png

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def with_chunk(kind: bytes, content: bytes, *, is_whole: bool = True, at: int = 33) -> bytes:
    """The vase as a PNG with one more chunk, by default behind the header."""
    chunk = png_chunk(kind, content)
    picture = encode(vase())
    return picture[:at] + (chunk if is_whole else chunk[:-4] + b"abcd") + picture[at:]


HARMLESS = {
    "text with a wrong checksum": (b"tEXt", b"a\0b", False),
    "resolution with a wrong checksum": (b"pHYs", bytes(9), False),
    "EXIF with a wrong checksum": (b"eXIf", b"II*\0", False),
    "a transparent colour with a wrong checksum": (b"tRNS", bytes(6), False),
    "large compressed text": (b"zTXt", b"w\0\0" + zlib.compress(bytes(2_000_000)), True),
    "large international text": (b"iTXt", b"w\0\1\0\0\0" + zlib.compress(bytes(2**21)), True),
    "large text": (b"tEXt", b"w\0" + b"x" * 5_000_000, True),
    "short gamma": (b"gAMA", b"\0\0", True),
    "short resolution": (b"pHYs", b"\0\0", True),
    "short chromaticities": (b"cHRM", b"\0\0", True),
    "empty rendering intent": (b"sRGB", b"", True),
    "an unknown chunk": (b"prVt", b"?" * 100, True),
    "XMP that turns the picture": (
        b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>', True,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "content", "is_whole"), HARMLESS.values(), ids=HARMLESS.keys())
def test_a_chunk_that_no_pixel_needs_does_not_matter(
    kind: bytes,
    content: bytes,
    is_whole: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    for at in (33, -12):
        decoded = decode_image(
            with_chunk(kind, content, is_whole=is_whole, at=at), max_pixels=100_000
        )
        assert decoded.image.tobytes() == vase().tobytes()
        assert decoded.has_alpha
        assert decoded.warnings == ()


DAMAGED = {
    "a wrong checksum": (b"i\0\0" + zlib.compress(SRGB), False),
    "another method": (b"i\0\1" + zlib.compress(SRGB), True),
    "no name": (b"ICC", True),
    "no content": (b"i\0\0", True),
    "too large": (b"i\0\0" + zlib.compress(bytes(MAX_PROFILE_BYTES + 1)), True),
}


@pytest.mark.parametrize(("content", "is_whole"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_colour_profile_that_cannot_be_used_is_ignored_with_a_warning(
    content: bytes,
    is_whole: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    decoded = decode_image(with_chunk(b"iCCP", content, is_whole=is_whole), max_pixels=100_000)
    assert decoded.image.tobytes() == vase().tobytes()
    assert decoded.warnings == (DAMAGED_PROFILE,)


def test_a_colour_profile_of_over_a_megabyte_is_used() -> None:
    profile = SRGB + bytes(1_200_000)
    png = clean_png(with_chunk(b"iCCP", b"i\0\0" + zlib.compress(profile)))
    assert png.icc_profile == profile
    assert b"iCCP" not in png.content
    assert (
        decode_image(
            with_chunk(b"iCCP", b"i\0\0" + zlib.compress(profile)), max_pixels=100_000
        ).warnings
        == ()
    )


def test_needed_chunks_stay() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = vase().convert("RGB").convert("P")
    picture = encode(palette, exif=exif, transparency=bytes(range(256)), save_all=True,
                     append_images=[palette.rotate(90)])  # fmt: skip
    kinds = [b"IHDR", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"IDAT", b"fdAT", b"eXIf", b"IEND"]
    content = clean_png(picture).content
    assert {kind for kind in kinds if kind not in content} == set()
    assert len(content) == len(picture)


@pytest.mark.parametrize("missing", [1, 4, 11, 12, 13, 16, 20])
def test_a_png_without_its_last_bytes_but_with_its_pixels_is_read(missing: int) -> None:
    decoded = decode_image(encode(vase())[:-missing], max_pixels=100_000)
    assert decoded.image.tobytes() == vase().tobytes()


def grey_png(depth: int, transparent: int, color_type: int = 0) -> bytes:
    """64 x 64 pixels of the transparent value, with a square of 0 in the middle."""
    samples = 3 if color_type else 1
    rows = b""
    for y in range(64):
        values = [
            0 if 16 <= x < 48 and 16 <= y < 48 else transparent
            for x in range(64)
            for _ in range(samples)
        ]
        bits = "".join(format(value, f"0{depth}b") for value in values)
        rows += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    header = struct.pack(">IIBBBBB", 64, 64, depth, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"tRNS", struct.pack(">H", transparent) * samples)
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("depth", "transparent", "color_type"),
    [(1, 1, 0), (2, 1, 0), (2, 3, 0), (4, 5, 0), (4, 15, 0), (8, 200, 0), (16, 40_000, 0),
     (8, 200, 2), (16, 40_000, 2)],
)  # fmt: skip
def test_a_transparent_value_is_found_at_every_depth(
    depth: int, transparent: int, color_type: int
) -> None:
    decoded = decode_image(grey_png(depth, transparent, color_type), max_pixels=100_000)
    alpha = np.asarray(decoded.image)[..., 3]
    assert (alpha[16:48, 16:48] == 255).all()
    assert np.count_nonzero(alpha) == 32 * 32


@pytest.mark.parametrize(
    ("color_type", "lengths"),
    [(0, [2]), (2, [6]), (3, [1, 2, 3, 5, 6, 7, 255, 256]), (4, []), (6, [])],
    ids=["grey", "colour", "palette", "grey with alpha", "colour with alpha"],
)
def test_transparency_has_the_length_that_its_colour_type_needs(
    color_type: int, lengths: list[int]
) -> None:
    start = b"\x89PNG\r\n\x1a\n" + png_chunk(
        b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, color_type, 0, 0, 0)
    )
    kept = [
        length
        for length in (0, 1, 2, 3, 5, 6, 7, 255, 256, 257)
        if b"tRNS" in clean_png(start + png_chunk(b"tRNS", bytes(length))).content
    ]
    assert kept == lengths


def test_another_file_is_not_changed() -> None:
    jpeg = encode(photograph(), "JPEG")
    for data in (jpeg, b"", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + bytes(40)):
        assert clean_png(data).content is data


def test_texts_are_still_bounded_by_their_number() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "b")
    assert b"tEXt" not in clean_png(encode(vase(), pnginfo=info)).content
