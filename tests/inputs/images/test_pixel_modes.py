from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.support.pictures import encode, photograph
from trellis2_server.inputs.images import Cutter, pixel_modes
from trellis2_server.inputs.images.decoding import decode_image
from trellis2_server.inputs.images.pixel_modes import to_8_bit

if TYPE_CHECKING:
    from numpy.typing import NDArray


def test_an_opaque_picture_has_the_same_hash_in_every_mode() -> None:
    grey = photograph().convert("L")
    palette = grey.convert("P")
    opaque = grey.convert("RGBA")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    cutter = Cutter(background="none")
    files = [encode(image) for image in (grey, grey.convert("RGB"), palette, opaque, deep)]
    files += [encode(grey, kind) for kind in ("BMP", "TIFF", "GIF")]
    cutouts = [cutter.cut_out(data) for data in files]
    assert len({cutout.image_hash for cutout in cutouts}) == 1
    assert {cutout.background for cutout in cutouts} == {"none"}


def test_transparency_is_found_in_palettes_grey_pictures_and_declared_colours() -> None:
    mask = Image.new("L", (64, 48), 0)
    ImageDraw.Draw(mask).rectangle((10, 5, 49, 34), fill=255)
    colour = Image.new("RGB", (64, 48), (255, 0, 255))
    colour.paste((20, 120, 220), (10, 5, 50, 35))
    grey = Image.new("L", (64, 48), 7)
    grey.paste(99, (10, 5, 50, 35))
    with_alpha = grey.copy()
    with_alpha.putalpha(mask)
    palette = colour.convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    background = palette.getpixel((0, 0))
    opacities = bytes(0 if entry == background else 255 for entry in range(4))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    files = {
        "P": encode(palette, transparency=background),
        "GIF": encode(palette, "GIF", transparency=background),
        "P, bytes": encode(palette, transparency=opacities),
        "RGB": encode(colour, transparency=(255, 0, 255)),
        "L": encode(grey, transparency=7),
        "LA": encode(with_alpha),
        "I;16": encode(deep, transparency=7 * 257),
    }  # fmt: skip
    for name, data in files.items():
        cutout = Cutter().cut_out(data)
        assert cutout.background == "alpha", name
        assert cutout.rgba.shape == (40, 40, 4), name
        assert (cutout.rgba[5:35, :, 3] == 255).all(), name
        assert (cutout.rgba[:5] == 0).all(), name


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    eight = np.round(ramp / 257)
    for image in (
        Image.fromarray(ramp.astype(np.uint16)),
        Image.fromarray(ramp.astype(np.int32)),
        Image.fromarray((ramp / 65535).astype(np.float32)),
    ):
        cutout = Cutter(background="none").cut_out(encode(image, "TIFF"))
        assert np.abs(cutout.rgb[..., 1] - eight).max() <= 1, image.mode


def tiff(values: NDArray[Any], kind: int) -> bytes:
    """A TIFF of one sample of these values; its kind: 1 unsigned, 2 signed, 3 floating point."""
    order = ">" if values.dtype.str[0] == ">" else "<"
    height, width = values.shape
    tags = {
        256: width, 257: height, 258: 8 * values.itemsize, 259: 1, 262: 1, 273: 200, 277: 1,
        278: height, 279: values.nbytes, 339: kind,
    }  # fmt: skip
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, tags[tag]) for tag in tags)
    header = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(tags))
    return (header + entries).ljust(200, b"\0") + values.tobytes()


RAMP = np.tile(np.linspace(0, 1, 128), (128, 1))
DEEP = {
    "float to 1": (RAMP, "<f4", 3),
    "half to 1": (RAMP, "<f2", 3),
    "float just over 1": (RAMP * 1.002, "<f4", 3),
    "float to 255.5": (RAMP * 255.5, "<f4", 3),
    "float over 1": (RAMP * 1.3, "<f4", 3),
    "float of small values": (RAMP * 0.01, ">f4", 3),
    "float from -1": (RAMP * 2 - 1, "<f4", 3),
    "float with highlights": (np.where(RAMP > 0.98, 50, RAMP), "<f4", 3),
    "float with ringing": (np.where(RAMP < 0.02, -0.03, RAMP), "<f4", 3),
    "float with infinities": (np.where(RAMP > 0.99, np.inf, RAMP), "<f4", 3),
    "double": (RAMP, "<f8", 3),
    "double, big endian": (RAMP * 255, ">f8", 3),
    "32 signed bits to 256": (RAMP * 256, "<i4", 2),
    "32 signed bits of 12": (RAMP * 4095, "<i4", 2),
    "32 signed bits": ((RAMP - 0.5) * (2**32 - 4), ">i4", 2),
    "32 unsigned bits": (RAMP * (2**32 - 1), "<u4", 1),
    "32 unsigned bits, big endian": (RAMP * (2**32 - 1), ">u4", 1),
    "32 unsigned bits of 16": (RAMP * 65535, "<u4", 1),
    "16 signed bits": ((RAMP - 0.5) * 65534, "<i2", 2),
    "16 signed bits, big endian, of 12": (RAMP * 4095, ">i2", 2),
    "8 signed bits": ((RAMP - 0.5) * 254, "i1", 2),
    "8 signed bits over 0": (RAMP * 127, "i1", 2),
}


@pytest.mark.parametrize(("values", "dtype", "kind"), DEEP.values(), ids=DEEP.keys())
def test_a_ramp_is_grey_in_the_middle_whatever_its_values(
    values: NDArray[Any], dtype: str, kind: int
) -> None:
    with np.errstate(all="ignore"):
        data = tiff(values.astype(dtype), kind)
    row = np.asarray(decode_image(data, max_pixels=100_000).image)[64, :, 0].astype(int)
    assert abs(row[64] - 128) < 12
    assert (np.diff(row[:120]) >= 0).all()
    assert row[3] < 16
    assert row[120] > 230


def test_a_small_bright_object_on_black_stays_what_it_is() -> None:
    values = np.zeros((400, 400), np.float32)
    values[:4, :4] = 0.8
    decoded = decode_image(tiff(values, 3), max_pixels=200_000)
    assert decoded.image.getpixel((1, 1)) == (204, 204, 204, 255)
    assert decoded.image.getpixel((9, 9)) == (0, 0, 0, 255)


@pytest.mark.parametrize("value", [-3.0, 0.0, 3e38, -3e38])
def test_a_picture_of_one_value_is_read(value: float) -> None:
    data = tiff(np.full((40, 40), value, np.float32), 3)
    assert decode_image(data, max_pixels=100_000).image.size == (40, 40)


def test_a_picture_of_nan_is_black() -> None:
    image = Image.fromarray(np.full((40, 40), np.nan, np.float32))
    assert not Cutter(background="none").cut_out(encode(image, "TIFF")).rgb.any()


def test_cmyk_becomes_rgb() -> None:
    flat = Image.new("RGB", (64, 64), (200, 40, 90)).convert("CMYK")
    for kind in ("JPEG", "TIFF"):
        cutout = Cutter(background="none").cut_out(encode(flat, kind))
        assert np.abs(cutout.rgb.astype(int) - (200, 40, 90)).max() <= 6


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("1", "RGB"), ("L", "L"), ("LA", "RGB"), ("La", "RGB"), ("P", "RGB"), ("YCbCr", "RGB"),
     ("RGBX", "RGB"), ("CMYK", "CMYK"), ("LAB", "LAB"), ("I", "L"), ("F", "L"), ("I;16", "L")],
)  # fmt: skip
def test_an_opaque_picture_gets_one_of_four_modes(mode: str, expected: str) -> None:
    image = Image.new("LA" if mode == "La" else mode, (4, 4))
    if mode in {"LA", "La"}:
        image.putalpha(255)
    has_alpha, converted = to_8_bit(image.convert("La") if mode == "La" else image)
    assert (has_alpha, converted.mode) == (False, expected)


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_a_picture_in_several_strips_is_converted_as_in_one(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.linspace(0, 60_000, 40 * 30).reshape(30, 40)
    dtype = {"I": np.int32, "F": np.float32, "I;16": np.uint16}[mode]
    image = Image.fromarray(values.astype(dtype))
    image.info["transparency"] = 0
    _, whole = to_8_bit(image)
    monkeypatch.setattr(pixel_modes, "_STRIP_PIXELS", 7 * 40)
    _, strips = to_8_bit(image)
    assert strips.mode == whole.mode == "RGBA"
    assert strips.tobytes() == whole.tobytes()
    assert strips.getpixel((0, 0)) == (0, 0, 0, 0)


def found_range(*values: float, kind: Any = "usual") -> tuple[float, float]:
    """The range of a picture of which these values have equal shares."""
    return pixel_modes.find_range(np.tile(np.float32(values), 1000), kind)


@pytest.mark.parametrize(
    ("kind", "white"),
    [("usual", 1), ("usual", 255), ("usual", 65_535), ("usual", 4_294_967_295),
     ("unsigned", 4_294_967_295), ("signed", 127), ("short", 32_767)],
)  # fmt: skip
def test_white_is_the_usual_value_of_its_kind(kind: Any, white: float) -> None:
    ramp = np.linspace(0, 1, 1000, dtype=np.float32)
    for share in (1, 0.9, 1.04):
        assert pixel_modes.find_range(ramp * np.float32(white * share), kind) == (0, white)


def test_white_may_be_passed_a_little_and_is_the_highest_value_of_dark_pictures() -> None:
    assert found_range(267.75) == (0, 255)
    assert found_range(268) == (0, 268)
    assert found_range(67) == (0, 255)
    assert found_range(66) == (0, 66)
    assert found_range(0.0625) == (0, 1)
    assert found_range(0.0624) == pytest.approx((0, 0.0624))
    assert found_range(133, kind="signed") == (0, 127)
    assert found_range(0) == (0, 1)


def test_one_value_in_two_hundred_at_each_end_does_not_count() -> None:
    ramp = np.linspace(-2000, 2000, 4001, dtype=np.float32)  # its half percent: twenty values
    ramp[:20], ramp[-20:] = -1e6, 1e6
    assert pixel_modes.find_range(ramp) == pytest.approx((-1980, 1980))


def test_black_is_below_zero_only_in_pictures_that_reach_far_below_it() -> None:
    assert found_range(-9.9, 100) == (0, 255)
    assert found_range(-10.1, 100) == pytest.approx((-10.1, 100))
    assert found_range(-5, -5) == (-5, -4)
    assert found_range(np.nan, np.inf) == (0, 1)
    assert found_range(np.nan, 200) == (0, 255)
