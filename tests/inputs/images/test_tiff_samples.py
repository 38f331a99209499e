"""TIFF files whose pixels have more than 8 bits."""

from __future__ import annotations

import lzma
import struct
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from PIL import ImageCms, features

from tests.inputs.images.test_tiff_directory import tiff as tiff_of
from tests.support.tiff_files import FLOATING, HORIZONTAL, LONG, SHORT, UNDEFINED, Tiff
from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.images import tiff_samples
from trellis2_server.inputs.images.color_profiles import encode_srgb, linear_matrix
from trellis2_server.inputs.images.decoding import DecodedImage, decode_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.support.tiff_files import Order

HEIGHT, WIDTH = 20, 25


def colors(count: int) -> NDArray[np.float64]:
    """Return colours from 0 to 1, all different; the fourth is an alpha with a clear corner."""
    made = np.empty((HEIGHT, WIDTH, 4))
    made[..., 0] = np.linspace(0, 1, WIDTH)
    made[..., 1] = np.linspace(0, 1, HEIGHT)[:, None]
    made[..., 2] = 0.25
    made[..., 3] = 1
    made[:4, :4, 3] = 0.2
    return made[..., :count]


def decode(content: bytes) -> DecodedImage:
    return decode_image(content, max_pixels=10_000)


def pixels_of(content: bytes) -> NDArray[np.int64]:
    return np.asarray(decode(content).image).astype(np.int64)


def check_colors(pixels: NDArray[np.int64], count: int) -> None:
    """Check pixels of a file of `colors`."""
    expected = np.broadcast_to(colors(count)[..., : 3 if count > 2 else 1], (HEIGHT, WIDTH, 3))
    assert np.abs(pixels[..., :3] - expected * 255).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_16_bits_a_colour_are_read(count: int, order: Order) -> None:
    samples = np.rint(colors(count) * 65535).astype(np.uint16)
    decoded = decode(Tiff(order).write(samples))
    check_colors(np.asarray(decoded.image).astype(np.int64), count)
    assert decoded.has_alpha == (count == 4)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("count", [3, 4])
def test_deep_colours_in_planes_are_not_read_as_others(count: int, order: Order) -> None:
    """Pillow takes each byte of a plane for a pixel."""
    samples = np.rint(colors(count) * 65535).astype(np.uint16)
    decoded = decode(Tiff(order, in_planes=True).write(samples))
    check_colors(np.asarray(decoded.image).astype(np.int64), count)
    assert decoded.has_alpha == (count == 4)
    shallow = np.rint(colors(3) * 255).astype(np.uint8)
    assert np.array_equal(pixels_of(Tiff(order, in_planes=True).write(shallow))[..., :3], shallow)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "u4", "i4", "i2"])
@pytest.mark.parametrize("count", [3, 4])
def test_deep_colours_of_any_kind_are_read(dtype: str, count: int) -> None:
    largest = {"u4": 2**32 - 1, "i4": 65535, "i2": 32767}.get(dtype, 1)
    decoded = decode(Tiff().write((colors(count) * largest).astype(dtype)))
    check_colors(np.asarray(decoded.image).astype(np.int64), count)
    assert decoded.has_alpha == (count == 4)
    assert not decoded.warnings


LARGEST = {"u4": 2**32 - 1, "i4": 65535, "u2": 65535, "i2": 32767}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "u4", "i4", "u2", "i2"])
@pytest.mark.parametrize("is_packed", [False, True], ids=["plain", "packed"])
def test_deep_grey_of_any_kind_is_read(dtype: str, order: Order, *, is_packed: bool) -> None:
    samples = (colors(1) * LARGEST.get(dtype, 1)).astype(dtype)
    decoded = decode(Tiff(order, is_packed=is_packed).write(samples))
    check_colors(np.asarray(decoded.image).astype(np.int64), 1)
    assert not decoded.has_alpha


def lzma_grey(dtype: str, order: Order, photometric: int = 1) -> bytes:
    """A TIFF of grey that libtiff alone unpacks."""
    samples = (colors(1)[..., 0] * LARGEST.get(dtype, 1)).astype(dtype)
    packed = lzma.compress(samples.astype(samples.dtype.newbyteorder(order)).tobytes())
    packed += bytes(len(packed) % 2)
    form = {"u": 1, "i": 2, "f": 3}[dtype[0]]
    entries = [
        (256, WIDTH), (257, HEIGHT), (258, 8 * samples.itemsize), (259, 34925),
        (262, photometric), (273, 8), (277, 1), (278, HEIGHT), (279, len(packed)), (339, form),
    ]  # fmt: skip
    start = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8 + len(packed))
    rows = [struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in entries]
    return start + packed + struct.pack(f"{order}H", len(rows)) + b"".join(rows) + bytes(4)


@pytest.mark.skipif(not features.check("libtiff"), reason="Pillow has no libtiff")
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "u4", "i4", "u2", "i2"])
def test_deep_grey_that_libtiff_alone_unpacks_is_read(dtype: str, order: Order) -> None:
    check_colors(pixels_of(lzma_grey(dtype, order)), 1)
    inverted = lzma_grey(dtype, order, photometric=0)
    if order == ">" and dtype != "u2":  # Pillow would swap the bytes twice
        with pytest.raises(InputError, match=r"1 sample of .*, which cannot be read"):
            decode(inverted)


@pytest.mark.parametrize("dtype", ["f2", "f4", "u2"])
def test_deep_grey_with_alpha_is_read(dtype: str) -> None:
    samples = colors(4)[..., [0, 3]] * (65535 if dtype == "u2" else 1)
    decoded = decode(Tiff().write(samples.astype(dtype)))
    assert decoded.has_alpha
    check_colors(np.asarray(decoded.image).astype(np.int64), 2)
    plain = Tiff().write(colors(1).astype("f2"))
    check_colors(pixels_of(plain), 1)


STORED = {
    "big endian": Tiff(">"),
    "strips": Tiff(rows=7),
    "planes": Tiff(in_planes=True, rows=3),
    "tiles": Tiff(tile=16),
    "packed tiles in planes": Tiff(tile=16, is_packed=True, in_planes=True),
    "packed strips": Tiff(rows=6, is_packed=True),
    "packed, big endian": Tiff(">", is_packed=True),
    "differences": Tiff(rows=9, is_packed=True, predictor=HORIZONTAL),
    "differences, big endian": Tiff(">", is_packed=True, predictor=HORIZONTAL),
    "differences of bytes": Tiff(rows=9, is_packed=True, predictor=FLOATING),
    "differences of bytes, big endian": Tiff(">", is_packed=True, predictor=FLOATING),
    "differences in tiles": Tiff(tile=16, is_packed=True, predictor=FLOATING),
}


@pytest.mark.parametrize("stored", STORED.values(), ids=STORED.keys())
@pytest.mark.parametrize("step_bytes", [2000, 2**24])
def test_floating_point_is_read_however_it_is_stored(
    stored: Tiff, step_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiff_samples, "_STEP_BYTES", step_bytes)
    check_colors(pixels_of(stored.write(colors(3).astype(np.float32))), 3)


@pytest.mark.parametrize("compression", [1, 5, 8, 32773, 32946])
def test_files_of_another_program_are_read(compression: int) -> None:
    samples = colors(3).astype(np.float32)
    options = [cv2.IMWRITE_TIFF_COMPRESSION, compression, cv2.IMWRITE_TIFF_PREDICTOR, 2]
    is_written, content = cv2.imencode(".tiff", samples[..., ::-1], options)
    assert is_written
    check_colors(pixels_of(content.tobytes()), 3)


def test_orientation_and_premultiplied_alpha_count() -> None:
    samples = colors(4)
    samples[..., :3] *= samples[..., 3:]
    stored = Tiff(extra=1, more={274: (SHORT, [6])})
    decoded = decode(stored.write(samples.astype(np.float32)))
    assert decoded.has_alpha
    check_colors(np.rot90(np.asarray(decoded.image).astype(np.int64)), 4)
    unused = decode(Tiff(extra=0).write(colors(4).astype(np.float32)))
    assert not unused.has_alpha


@pytest.mark.parametrize("factor", [3, 0.02])
def test_values_that_fit_no_usual_white_are_linear_light(factor: float) -> None:
    light = colors(3) * factor
    decoded = decode(Tiff().write(light.astype(np.float32)))
    assert len(decoded.warnings) == 1
    assert "taken as linear light" in decoded.warnings[0]
    pixels = np.asarray(decoded.image).astype(np.float64)[..., :3] / 255
    expected = encode_srgb(colors(3).astype(np.float32))
    assert np.abs(pixels - expected).max() < 0.02


def test_highlights_far_beyond_white_are_those_of_linear_light() -> None:
    light = colors(3)
    light[0, 0] = 40
    decoded = decode(Tiff().write(light.astype(np.float32)))
    assert "up to 40 were taken as linear light" in decoded.warnings[0].replace(",", "")
    pixels = np.asarray(decoded.image).astype(np.float64)[1:, :, :3] / 255
    assert np.abs(pixels - encode_srgb(colors(3).astype(np.float32))[1:]).max() < 0.005
    ringing = colors(3)
    ringing[0, 0] = 1.2
    assert not decode(Tiff().write(ringing.astype(np.float32))).warnings


def linear_profile() -> bytes:
    """Return sRGB's profile with lines instead of its curves."""
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    (count,) = struct.unpack_from(">I", content, 128)
    table = bytearray(content)
    for at in range(132, 132 + 12 * count, 12):
        if content[at : at + 4] in {b"rTRC", b"gTRC", b"bTRC"}:
            struct.pack_into(">II", table, at + 4, len(content), 12)
    struct.pack_into(">I", table, 0, len(content) + 12)
    return bytes(table) + b"curv" + bytes(8)


def test_a_linear_profile_is_applied_before_values_have_8_bits() -> None:
    profile = linear_profile()
    matrix = linear_matrix(profile)
    assert matrix is not None
    assert np.abs(matrix - np.eye(3)).max() < 1e-3
    stored = Tiff(more={34675: (UNDEFINED, [*profile])})
    dark = colors(3) / 8
    dark[0, 0] = 1
    decoded = decode(stored.write(dark.astype(np.float32)))
    assert not decoded.warnings
    pixels = np.asarray(decoded.image).astype(np.float64)[..., :3]
    assert np.abs(pixels - 255 * encode_srgb(dark.astype(np.float32))).max() < 1.5
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert linear_matrix(plain) is None
    assert linear_matrix(b"none") is None
    stored = Tiff(more={34675: (UNDEFINED, [*plain])})
    check_colors(pixels_of(stored.write(colors(3).astype(np.float32))), 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -3.0, 0.0, 3e38])
@pytest.mark.parametrize("count", [3, 4])
def test_colours_of_one_value_are_read(value: float, count: int) -> None:
    content = Tiff().write(np.full((HEIGHT, WIDTH, count), value, np.float32))
    assert decode(content).image.size == (WIDTH, HEIGHT)


def test_missing_and_cut_strips_are_damage() -> None:
    samples = colors(3).astype(np.float32)
    for stored in (Tiff(), Tiff(is_packed=True)):
        with pytest.raises(InputError, match=r"^image: the file is damaged or cut short$"):
            decode(stored.write(samples)[:-900])
    few = Tiff(more={278: (LONG, [1])}).write(samples)
    few = few.replace(
        struct.pack("<HHII", 278, LONG, 1, HEIGHT), struct.pack("<HHII", 278, LONG, 1, 1)
    )
    with pytest.raises(InputError, match="strips or tiles are missing"):
        decode(few)


def test_a_large_strip_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = Tiff(is_packed=True).write(colors(3).astype(np.float32))
    size = HEIGHT * WIDTH * 12
    monkeypatch.setattr(tiff_samples, "_MAX_STRIP_BYTES", size)
    check_colors(pixels_of(content), 3)
    monkeypatch.setattr(tiff_samples, "_MAX_STRIP_BYTES", size - 1)
    with pytest.raises(TooLargeError, match=f"a packed strip .* the limit of {size - 1} b"):
        decode(content)
    with pytest.raises(TooLargeError, match="25 x 20 pixels, over the limit of 499 pixels"):
        decode_image(content, max_pixels=499)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({262: (SHORT, [5])}, "3 samples of 32 bits, floating point"),
        ({339: (SHORT, [6])}, "3 samples of 32 bits, complex"),
        ({259: (SHORT, [7])}, "3 samples of 32 bits, floating point"),
    ],
)
def test_colours_that_cannot_be_read_say_what_to_do(
    more: dict[int, tuple[int, list[int]]], words: str
) -> None:
    with pytest.raises(InputError, match=f"^image: a TIFF file of {words}, .*; save it as PNG"):
        decode(Tiff(more=more).write(colors(3).astype("f4")))


USUAL = {
    256: [7], 257: [5], 258: [16] * 3, 259: [1], 262: [2], 266: [1], 277: [3], 317: [1],
    339: [1] * 3,
}  # fmt: skip
READ: dict[str, dict[int, list[int]]] = {
    "usual": {},
    "one width for all": {258: [16]},
    "no kind": {339: []},
    "8 samples": {258: [16] * 8, 277: [8], 339: [1] * 8},
    "2 samples": {258: [32] * 2, 262: [1], 277: [2], 339: [3] * 2},
    "1 sample": {258: [16], 262: [1], 277: [], 339: [2]},
    "64 bits": {258: [64] * 3, 339: [3] * 3},
    "differences of floats": {317: [3], 339: [3] * 3},
    "no order of bits": {266: []},
    "no packing": {259: []},
    **{f"packing {number}": {259: [number]} for number in (5, 8, 32773, 32946, 34925, 50000)},
}
NOT_READ: dict[str, dict[int, list[int]]] = {
    "no width": {256: [0]},
    "no height": {257: []},
    "no samples": {277: [0]},
    "9 samples": {258: [16] * 9, 277: [9], 339: [1] * 9},
    "several widths": {258: [16, 16, 32]},
    "no widths": {258: []},
    "8 bits": {258: [8] * 3},
    "12 bits": {258: [12] * 3},
    "20 bits": {258: [20] * 3},
    "128 bits": {258: [128] * 3},
    "64 bits of integers": {258: [64] * 3},
    "two kinds": {339: [1, 1, 2]},
    "complex": {339: [5] * 3},
    "reversed bits": {266: [2]},
    "packing of faxes": {259: [4]},
    "differences of bytes of integers": {317: [3]},
    "grey of 3 samples": {262: [1]},
    "colours of 2 samples": {258: [16] * 2, 277: [2], 339: [1] * 2},
    "white is zero": {258: [16], 262: [0], 277: [1], 339: [1]},
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("change", "is_read"),
    [*((each, True) for each in READ.values()), *((each, False) for each in NOT_READ.values())],
    ids=[*READ, *NOT_READ],
)
def test_layouts_are_read_whose_samples_are_alike(
    change: dict[int, list[int]], order: Order, *, is_read: bool
) -> None:
    """Each differs from a usual one in one respect."""
    entries = [(tag, 3, values) for tag, values in {**USUAL, **change}.items() if values]
    content = tiff_of(order, is_big=False, entries=entries)
    assert tiff_samples.picture_size(content) == ((7, 5) if is_read else None)
