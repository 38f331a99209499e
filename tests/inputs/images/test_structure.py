from __future__ import annotations

import struct
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from tests.support import hostile_pictures, hostile_tiffs
from tests.support.hostile_pictures import COSTLY, jpeg_with, segment
from tests.support.hostile_tiffs import MEGABYTE, tiff
from tests.support.pictures import allow_input_error, encode, photograph, png_chunk, vase
from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.images.decoding import decode_image
from trellis2_server.inputs.images.structure import (
    MAX_CHUNKS,
    MAX_EXIF_SEGMENTS,
    MAX_FILL_BYTES,
    MAX_SCANS,
    MAX_SEGMENTS,
    check_structure,
    is_exif_bounded,
)

if TYPE_CHECKING:
    from collections.abc import Callable

#: Files that are refused before they are decoded, and what for.
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    make.__name__: (make, what)
    for make, what in (
        (hostile_pictures.jpeg_of_exif_segments, "segments with EXIF data"),
        (hostile_pictures.jpeg_of_large_exif_segments, "segments with EXIF data"),
        (hostile_pictures.jpeg_of_empty_segments, "segments in a JPEG"),
        (hostile_pictures.jpeg_of_comments, "segments in a JPEG"),
        (hostile_pictures.jpeg_of_profiles, "segments in a JPEG"),
        (hostile_pictures.jpeg_of_tables, "segments in a JPEG"),
        (hostile_pictures.jpeg_of_padding, "bytes between the segments"),
        (hostile_pictures.jpeg_of_empty_scans, "scans in a JPEG"),
        (hostile_pictures.jpeg_of_empty_scans_small, "scans in a JPEG"),
        (hostile_pictures.png_of_empty_chunks, "chunks in a PNG"),
        (hostile_pictures.png_of_empty_data, "chunks in a PNG"),
        (hostile_pictures.png_of_texts, "chunks in a PNG"),
        (hostile_pictures.png_of_profiles, "colour profiles in a PNG"),
        (hostile_pictures.png_of_profiles_at_the_end, "colour profiles in a PNG"),
        (hostile_tiffs.tiff_of_one_byte_strips, "strips in a TIFF"),
        (hostile_tiffs.tiff_of_small_tiles, "tiles in a TIFF"),
        (hostile_tiffs.tiff_of_strips_of_a_tall_picture, "300000 strips in a TIFF"),
        (hostile_tiffs.tiff_of_strips_with_compression, "strips in a TIFF"),
        (hostile_tiffs.tiff_of_overlapping_entries, "bytes of tags in a TIFF"),
        (hostile_tiffs.tiff_of_a_long_tag, "numbers in the tags"),
        (hostile_tiffs.tiff_of_bits, "numbers in the tags"),
    )
}


@pytest.mark.parametrize("prefix", TiffImagePlugin.PREFIXES)
def test_a_tiff_is_checked_whatever_header_pillow_accepts(prefix: bytes) -> None:
    order = {b"II": "<", b"MM": ">"}[prefix[:2]]
    counts = {256: (4, 1), 257: (4, 1), 273: (1, MEGABYTE)}
    # The directory as Pillow reads it: a BigTIFF is one whose third byte says so.
    if prefix[2:3] == b"+":
        content = struct.pack(f"{order}4s4xQQ", prefix, 16, len(counts))
        width, value = "Q", 8
    else:
        content = struct.pack(f"{order}4sIH", prefix, 8, len(counts))
        width, value = "I", 4
    for tag, (kind, count) in counts.items():
        content += struct.pack(f"{order}HH{width}I{value - 4}x", tag, kind, count, 2000)
    with pytest.raises(TooLargeError, match="strips in a TIFF"):
        check_structure(content + bytes(MEGABYTE))


def test_a_tiff_that_is_a_bigtiff_for_libtiff_alone_is_checked_as_one() -> None:
    content = struct.pack(">4sHxxQQ", b"MM\0+", 8, 16, 1)
    content += struct.pack(">HHQQ", 273, 1, MEGABYTE, 0)
    with pytest.raises(TooLargeError, match="strips in a TIFF"):
        check_structure(content + bytes(MEGABYTE))


def test_exif_with_a_header_that_only_pillow_accepts_is_bounded() -> None:
    entries = b"".join(struct.pack(">HHII", 1000 + n, 1, MEGABYTE, 8) for n in range(100))
    for prefix in (b"MM\0+", b"MM*\0"):
        exif = struct.pack(">4sIH", prefix, 8, 100) + entries + bytes(MEGABYTE)
        assert not is_exif_bounded(b"Exif\0\0" + exif)


def entry(tag: int, value: int) -> dict[int, tuple[int, int, bytes]]:
    return {tag: (4, 1, struct.pack("<I", value))}


@pytest.mark.costly
@pytest.mark.parametrize(("make", "what"), REFUSED.values(), ids=REFUSED.keys())
def test_a_file_of_too_many_parts_is_refused_without_memory(
    make: Callable[[], bytes], what: str
) -> None:
    content = make()
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError, match=f"over the limit of .*{what}"):
            decode_image(content, max_pixels=64_000_000)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(content) + 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.costly
def test_no_costly_file_is_over_5_mb() -> None:
    assert max(len(make()) for name, make in COSTLY.items() if "bomb" not in name) < 5_000_000


def test_progressive_pictures_and_pictures_in_pictures_are_accepted() -> None:
    progressive = encode(photograph(), "JPEG", progressive=True)
    phone = encode(photograph(), "MPO", save_all=True, append_images=[photograph()] * 3)
    for content in (progressive, phone, phone + bytes(MAX_FILL_BYTES + 1)):
        check_structure(content)
        assert decode_image(content, max_pixels=100_000).image.size == (320, 240)


def test_the_scans_of_the_first_picture_count_and_not_those_behind_it() -> None:
    one = encode(photograph(), "JPEG", progressive=True)
    count = one.count(b"\xff\xda")
    check_structure(one * (MAX_SCANS // count + 1))
    more = segment(0xDA, b"\1\1\0\1\x3f\0") * (MAX_SCANS - count)
    at = one.rindex(b"\xff\xda")
    check_structure(one[:at] + more + one[at:])
    with pytest.raises(TooLargeError, match=f"{MAX_SCANS} scans"):
        check_structure(one[:at] + more + segment(0xDA, b"\1\1\0\1\x3f\0") + one[at:])


def test_large_extra_data_of_a_phone_is_accepted() -> None:
    depth_map = segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"\xff\xda" * 32_000) * 300
    exif = segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0") * 2
    gain_map = segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0" + b"\xff\xd9" * 10_000) * 20
    content = jpeg_with(exif + depth_map + gain_map)
    assert decode_image(content, max_pixels=100_000).image.size == (256, 256)


@pytest.mark.parametrize(
    ("part", "limit"),
    [(segment(0xEF, b"1"), MAX_SEGMENTS), (segment(0xE1, b"Exif\0\0"), MAX_EXIF_SEGMENTS),
     (b"\xff", MAX_FILL_BYTES), (b"\0", MAX_FILL_BYTES)],
)  # fmt: skip
def test_the_limits_of_a_jpeg_leave_room_up_to_their_number(part: bytes, limit: int) -> None:
    comment = segment(0xFE, b"a file must begin with two markers")
    check_structure(jpeg_with(comment + part * (limit - 20)))
    with pytest.raises(TooLargeError, match=f"over the limit of {limit} "):
        check_structure(jpeg_with(comment + part * (limit + 1)))


def test_a_png_of_usual_chunks_is_accepted() -> None:
    picture = encode(vase())
    check_structure(picture[:-12] + png_chunk(b"teXt", bytes(300)) * 20_000 + picture[-12:])
    with pytest.raises(TooLargeError, match=f"{MAX_CHUNKS + 500} chunks|chunks in a PNG"):
        check_structure(picture[:-12] + png_chunk(b"teXt", b"") * 20_000 + picture[-12:])


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}])
@pytest.mark.parametrize("big", [False, True])
def test_an_ordinary_tiff_is_accepted(options: dict[str, str], *, big: bool) -> None:
    rows = {} if options.get("compression") == "jpeg" else {"strip_size": 1}
    content = encode(photograph(), "TIFF", big_tiff=big, dpi=(72, 72), **rows, **options)
    check_structure(content)
    assert decode_image(content, max_pixels=100_000).image.size == (320, 240)


def test_strips_may_be_as_many_as_rows_and_planes() -> None:
    for planar, limit in ((1, 20_000), (2, 60_000)):
        measures = entry(256, 20_000) | entry(257, 20_000) | entry(277, 3) | entry(284, planar)
        check_structure(tiff(measures | {273: (1, limit, bytes(limit))}))
        with pytest.raises(TooLargeError, match=f"{limit} strips"):
            check_structure(tiff(measures | {273: (1, limit + 1, bytes(limit + 1))}))


def test_tiles_may_be_as_many_as_fit() -> None:
    measures = entry(256, 16_000) | entry(257, 16_000) | entry(322, 64) | entry(323, 64)
    check_structure(tiff(measures | {324: (1, 62_500, bytes(62_500))}))
    with pytest.raises(TooLargeError, match="62500 tiles"):
        check_structure(tiff(measures | {324: (1, 62_501, bytes(62_501))}))


def test_exif_that_overlaps_itself_is_refused_in_a_jpeg_and_ignored_elsewhere() -> None:
    with pytest.raises(InputError, match="EXIF"):
        decode_image(hostile_pictures.jpeg_of_exif_that_overlaps(), max_pixels=100_000)
    for name in ("png_of_exif_that_overlaps", "webp_of_exif_that_overlaps"):
        assert decode_image(COSTLY[name](), max_pixels=100_000).image.mode == "RGBA", name


def test_usual_exif_is_bounded() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x9286] = 6, "camera" * 100, b"x" * 10_000
    assert is_exif_bounded(exif.tobytes())
    assert is_exif_bounded(b"Exif\0\0" + exif.tobytes())
    assert is_exif_bounded(b"")
    assert is_exif_bounded(b"MM\0*\0\0\0\x08\xff\xff\1\x12")


def test_exif_as_text_that_is_no_number_is_ignored() -> None:
    text = png_chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  3\nxyz")
    picture = encode(vase())
    assert decode_image(picture[:33] + text + picture[33:], max_pixels=100_000).has_alpha


@given(
    st.sampled_from(
        [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0\x08\0\0\0", b"MM\0+\0\x08\0\0"]
    ),
    st.binary(max_size=200),
)
def test_any_bytes_are_accepted_or_refused(start: bytes, rest: bytes) -> None:
    with allow_input_error():
        check_structure(start + rest)
