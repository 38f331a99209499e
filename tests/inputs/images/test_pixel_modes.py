from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.support.pictures import encode, photograph
from trellis2_server.inputs.images import Cutter, pixel_modes
from trellis2_server.inputs.images.pixel_modes import to_8_bit


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
