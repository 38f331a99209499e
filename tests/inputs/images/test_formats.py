from __future__ import annotations

import importlib.util
import struct
import sys

import numpy as np
import pytest
from PIL import Image, features

from tests.support.heic import HEIC
from tests.support.pictures import encode, photograph, vase
from trellis2_server.errors import InputError
from trellis2_server.inputs.images import Cutter
from trellis2_server.inputs.images.decoding import decode_image
from trellis2_server.inputs.images.formats import (
    FORMATS,
    HEIF_PACKAGES,
    available_formats,
    format_names,
)


def test_a_picture_has_the_same_hash_in_every_lossless_format() -> None:
    image = vase()
    dressed = {
        "png": encode(image),
        "png, another compression": encode(image, compress_level=1),
        "webp": encode(image, "WEBP", lossless=True),
        "webp, exact": encode(image, "WEBP", lossless=True, exact=True),
        "tiff": encode(image, "TIFF"),
    }
    cutouts = {name: Cutter().cut_out(data) for name, data in dressed.items()}
    assert len({cutout.image_hash for cutout in cutouts.values()}) == 1
    assert len({cutout.key for cutout in cutouts.values()}) == 1


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PNG"])
def test_every_format_is_opened(kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    cutout = Cutter(background="none").cut_out(encode(photograph(), kind))
    seen = cutout.rgb[40:280].astype(int)
    assert np.abs(seen - np.asarray(photograph())).mean() < (12 if kind == "GIF" else 4)


@pytest.mark.parametrize("kind", ["PPM", "TGA", "ICO", "PDF", "EPS", "PCX"])
def test_other_formats_are_not_opened(kind: str) -> None:
    with pytest.raises(InputError, match="not a PNG"):
        Cutter(background="none").cut_out(encode(photograph(), kind))


def test_messages_name_every_accepted_format() -> None:
    assert format_names() == "PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF or HEIC"
    assert set(FORMATS) - set(available_formats()) <= {"AVIF", "HEIF"}


@pytest.mark.skipif(
    not any(importlib.util.find_spec(name) for name in HEIF_PACKAGES),
    reason="neither pi-heif nor pillow-heif is installed",
)
def test_heic_is_read_by_an_optional_package_and_turned() -> None:
    decoded = decode_image(HEIC, max_pixels=100_000)
    assert decoded.image.size == (48, 64)
    want = np.asarray(photograph(64, 48).transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert np.abs(np.asarray(decoded.image)[..., :3] - want).mean() < 8


def test_without_the_package_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HEIF_PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)  # not importable
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    with pytest.raises(InputError, match=r"a HEIC picture; .* lacks .* \(pip install pi-heif\)"):
        decode_image(HEIC, max_pixels=100_000)


def test_a_damaged_package_is_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HEIF_PACKAGES:
        monkeypatch.setitem(sys.modules, name, np)  # without `register_heif_opener`
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    assert "HEIF" not in available_formats()


def bmp_of_32_bits(alpha: int) -> bytes:
    """A BMP with a mask for alpha, all of one value."""
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, 32, 32, 1, 32, 3, 4096, 0, 0, 0, 0) + masks
    header = header.ljust(108, b"\0")
    pixels = bytes((40, 90, 200, alpha)) * 1024
    start = 14 + len(header)
    return struct.pack("<2sIHHI", b"BM", start + 4096, 0, 0, start) + header + pixels


def test_a_bmp_whose_alpha_is_all_0_is_opaque() -> None:
    for alpha, has_alpha in ((0, False), (255, False), (90, True)):
        decoded = decode_image(bmp_of_32_bits(alpha), max_pixels=100_000)
        assert decoded.has_alpha is has_alpha
        assert decoded.image.getpixel((5, 5)) == (200, 90, 40, 90 if has_alpha else 255)
