from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import importlib.util
import io
import os
import re
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw, features

from trellis2_server.errors import (
    EngineError,
    InputError,
    MissingPackageError,
    TooLargeError,
)
from trellis2_server.inputs.background_model import ModelPending
from trellis2_server.inputs.images import Cutout, Cutter, decode_base64

if TYPE_CHECKING:
    from collections.abc import Generator

needs_opencv = pytest.mark.skipif(
    not importlib.util.find_spec("cv2"), reason="OpenCV is not installed"
)


# ---- pictures, drawn ---------------------------------------------------------------------


def vase(width: int = 200, height: int = 160) -> Image.Image:
    """A soft-edged, two-coloured object on transparency, off centre; no two sides alike."""
    scale = 4
    big = Image.new("RGBA", (width * scale, height * scale), (0, 0, 0, 0))
    draw = ImageDraw.Draw(big)
    left, top, right, bottom = (
        round(f * s * scale)
        for f, s in zip((0.2, 0.1, 0.6, 0.8), (width, height, width, height), strict=True)
    )
    draw.ellipse((left, top, right, bottom), fill=(200, 60, 40, 255))
    draw.rectangle(
        ((left + right) // 2, (top + bottom) // 2, right, bottom), fill=(30, 90, 180, 255)
    )
    return big.resize((width, height), Image.Resampling.BOX)


def photograph(width: int = 320, height: int = 240, seed: int = 0) -> Image.Image:
    """An object before a lit, slightly noisy wall."""
    y, x = np.mgrid[0:height, 0:width]
    wall = 150 + 40 * y / height + 10 * x / width
    noise = np.random.default_rng(seed).normal(0, 2, (height, width, 3))
    back = Image.fromarray(np.clip(wall[..., None] + noise, 0, 255).astype(np.uint8))
    front = vase(width, height)
    back.paste(front, (0, 0), front)
    return back


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_that_claims(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + png_chunk(b"IEND", b"")
    )


def bounding_box(alpha: np.ndarray[Any, Any]) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(alpha > 204)
    return int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1


@contextlib.contextmanager
def allow_input_error(beginning: str = "image: ") -> Generator[None, None, None]:
    try:
        yield
    except InputError as error:
        message = str(error)
    else:
        return
    assert message.startswith(beginning)


class Session:
    """A background model: what is redder than it is blue or green is the object."""

    def __init__(self, pixel_of_another_opinion: int | None = None) -> None:
        self.veil = pixel_of_another_opinion

    def predict(self, img: Image.Image) -> list[Image.Image]:
        red, green, blue = np.moveaxis(np.asarray(img).astype(int), 2, 0)
        mask = ((abs(red - green) > 15) | (abs(green - blue) > 15)).astype(np.uint8) * 255
        if self.veil is not None:
            mask[mask == 0] = self.veil
        return [Image.fromarray(mask)]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# ---- base64 ------------------------------------------------------------------------------


@given(
    st.binary(min_size=1, max_size=200),
    st.sampled_from(["+/", "-_"]),
    st.sampled_from(["", "=", "=="]),
    st.sampled_from(["", " data:image/png;base64,\r\n", "DATA:;Base64,"]),
)
def test_base64_comes_back_however_it_was_dressed(
    data: bytes, alphabet: str, padding: str, prefix: str
) -> None:
    text = base64.b64encode(data, alphabet.encode()).decode().rstrip("=") + padding
    text = "\n ".join(text[i : i + 7] for i in range(0, len(text), 7))
    assert decode_base64(prefix + text, max_bytes=200) == data


@pytest.mark.parametrize(
    "text", ["", " \n", "====", "data:image/png;base64,", "data:image/png,abcd", "data:", "a",
             "not base64!", "été", "ab=cd", "https://example.com/a.png"],
)  # fmt: skip
def test_what_is_no_base64_is_an_input_error_that_names_the_field(text: str) -> None:
    with pytest.raises(InputError, match=r"^image: "):
        decode_base64(text, max_bytes=1000)


def test_base64_over_the_limit_is_too_large_and_names_the_limit() -> None:
    text = base64.b64encode(b"x" * 300).decode()
    assert len(decode_base64(text, max_bytes=300)) == 300
    with pytest.raises(TooLargeError, match="299"):
        decode_base64(text, max_bytes=299)


@given(st.text(max_size=60))
def test_no_text_gets_more_than_an_input_error_out_of_base64(text: str) -> None:
    with allow_input_error():
        assert isinstance(decode_base64(text, max_bytes=20), bytes)


# ---- the cut-out -------------------------------------------------------------------------


def test_the_cut_out_is_square_and_its_object_touches_the_frame_in_the_middle() -> None:
    cutout = Cutter().cut_out(encode(vase()))
    assert cutout.background == "alpha"
    assert cutout.warnings == ()
    side = cutout.rgba.shape[0]
    assert cutout.rgba.shape == (side, side, 4)
    top, left, bottom, right = bounding_box(cutout.rgba[..., 3])
    assert (top, bottom) == (0, side)
    assert abs(left - (side - right)) <= 1


def test_a_picture_within_the_limit_is_cropped_and_not_resampled() -> None:
    image = vase()
    top, left, bottom, right = bounding_box(np.asarray(image)[..., 3])
    cutout = Cutter().cut_out(encode(image))
    part = np.asarray(image)[top:bottom, left:right].copy()
    part[part[..., 3] == 0] = 0
    start = (cutout.rgba.shape[1] - (right - left)) // 2
    assert np.array_equal(cutout.rgba[:, start : start + right - left], part)


def test_a_large_picture_is_scaled_to_1024_pixels_before_the_crop() -> None:
    image = Image.new("RGBA", (3000, 1500), (0, 0, 0, 0))
    image.paste((10, 200, 30, 255), (0, 0, 3000, 750))
    cutout = Cutter().cut_out(encode(image, compress_level=1))
    assert cutout.rgba.shape == (1024, 1024, 4)
    top, _, bottom, _ = bounding_box(cutout.rgba[..., 3])
    assert abs((bottom - top) - 256) <= 2


def test_scaling_brings_no_halo_from_the_hidden_colour_behind_transparency() -> None:
    image = Image.new("RGBA", (2050, 2050), (255, 255, 255, 0))
    ImageDraw.Draw(image).ellipse((200, 200, 1800, 1700), fill=(90, 20, 10, 255))
    cutout = Cutter().cut_out(encode(image, compress_level=1))
    soft = (cutout.rgba[..., 3] > 100) & (cutout.rgba[..., 3] < 255)
    assert soft.sum() > 1000
    assert np.abs(cutout.rgba[soft][:, :3].astype(int) - (90, 20, 10)).max() <= 8


def test_the_rgb_is_the_object_on_black() -> None:
    cutout = Cutter().cut_out(encode(vase()))
    alpha = cutout.rgba[..., 3:].astype(float) / 255
    assert np.abs(cutout.rgb - cutout.rgba[..., :3] * alpha).max() <= 0.51
    assert cutout.rgb.dtype == np.uint8


def test_the_png_of_a_cut_out_is_the_cut_out() -> None:
    cutout = Cutter().cut_out(encode(vase()))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(cutout.png()))), cutout.rgba)


def test_a_cut_out_does_not_change() -> None:
    cutout = Cutter().cut_out(encode(vase()))
    with pytest.raises(ValueError, match="read-only"):
        cutout.rgba[0, 0] = 1


def test_the_hash_is_an_md5_of_what_the_model_sees_and_the_key_covers_alpha_too() -> None:
    black = np.zeros((20, 20, 4), np.uint8)
    black[..., 3] = 255
    faint = black.copy()
    faint[3, 3, 3] = 100
    solid, other = Cutout(black, "alpha", ()), Cutout(faint, "alpha", ())
    assert re.fullmatch("[0-9a-f]{32}", solid.image_hash)
    assert len(solid.key) == len(hashlib.md5(usedforsecurity=False).hexdigest())
    assert solid.image_hash == other.image_hash
    assert solid.key != other.key


# ---- formats -----------------------------------------------------------------------------


def test_the_same_picture_has_one_hash_in_every_lossless_dress() -> None:
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


def test_an_opaque_picture_has_one_hash_in_every_mode() -> None:
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


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_says(orientation: int) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = vase()
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    cutter = Cutter()
    want = cutter.cut_out(encode(upright)).key
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        assert cutter.cut_out(encode(stored, kind, exif=exif, **options)).key == want, kind


def test_broken_exif_does_not_break_the_picture() -> None:
    data = encode(photograph(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    assert Cutter(background="none").cut_out(data).rgba.shape == (320, 320, 4)


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


def test_a_picture_of_nan_is_no_crash() -> None:
    image = Image.fromarray(np.full((40, 40), np.nan, np.float32))
    assert not Cutter(background="none").cut_out(encode(image, "TIFF")).rgb.any()


def test_cmyk_becomes_rgb() -> None:
    flat = Image.new("RGB", (64, 64), (200, 40, 90)).convert("CMYK")
    for kind in ("JPEG", "TIFF"):
        cutout = Cutter(background="none").cut_out(encode(flat, kind))
        assert np.abs(cutout.rgb.astype(int) - (200, 40, 90)).max() <= 6


def test_a_colour_profile_is_brought_to_srgb_and_srgb_is_left_alone() -> None:
    image = photograph()
    cutter = Cutter(background="none")
    plain = cutter.cut_out(encode(image))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert cutter.cut_out(encode(image, icc_profile=srgb)).key == plain.key
    lab = ImageCms.profileToProfile(
        image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for options in ({}, {"icc_profile": profile}):
        back = cutter.cut_out(encode(lab, "TIFF", **options))
        assert np.abs(back.rgb.astype(int) - plain.rgb).mean() < 3


def test_a_damaged_colour_profile_is_ignored_with_a_warning() -> None:
    image = photograph()
    cutout = Cutter(background="none").cut_out(encode(image, icc_profile=b"no profile" * 20))
    assert cutout.warnings == ("image: its colour profile is damaged and was ignored",)
    assert cutout.key == Cutter(background="none").cut_out(encode(image)).key


def test_only_the_first_frame_of_an_animation_is_seen() -> None:
    first, second = vase(), vase().transpose(Image.Transpose.ROTATE_180)
    still = Cutter().cut_out(encode(first))
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        moving = encode(first, kind, save_all=True, append_images=[second] * 3, **options)
        assert Cutter().cut_out(moving).key == still.key, kind


# ---- limits and lies ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [(60000, 60000), (9500, 9500), (2**31 - 1, 2**31 - 1)])
def test_a_header_that_claims_too_many_pixels_is_too_large_without_a_warning(
    size: tuple[int, int],
) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(TooLargeError, match="limit of 64000000 pixels"):
            Cutter().cut_out(png_that_claims(*size))
    assert not seen


def test_a_damaged_file_leaves_no_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    data = encode(photograph(), "TIFF")
    entry = struct.pack("<HHI", 277, 3, 1)  # samples per pixel
    assert entry in data
    at = data.index(entry) + len(entry)
    with pytest.raises(InputError, match=r"^image: "):
        Cutter().cut_out(data[:at] + b"\xff\xff" + data[at + 2 :])
    assert not caplog.records


def test_the_limit_of_pixels_is_the_operators() -> None:
    data = encode(vase(100, 80))
    assert Cutter(max_image_pixels=8000).cut_out(data)
    with pytest.raises(TooLargeError, match="100 x 80 pixels, over the limit of 7999"):
        Cutter(max_image_pixels=7999).cut_out(data)


def test_an_elongated_picture_is_refused_with_its_size() -> None:
    for size in ((3000, 1), (1, 3000), (990, 30)):
        with pytest.raises(InputError, match=f"{size[0]} x {size[1]} pixels is too elongated"):
            Cutter(background="none").cut_out(encode(Image.new("RGB", size)))
    assert Cutter(background="none").cut_out(encode(Image.new("RGB", (960, 30))))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_file_that_is_cut_short_says_so(kind: str) -> None:
    data = encode(photograph(), kind)
    with pytest.raises(InputError, match=r"^image: (the file is damaged|not a PNG)"):
        Cutter(background="none").cut_out(data[: len(data) // 2])


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"%PDF-1.7"]
)
def test_what_is_no_image_is_an_input_error(data: bytes) -> None:
    with pytest.raises(InputError, match=r"^image: "):
        Cutter().cut_out(data)


def test_a_header_that_promises_more_than_the_file_holds_is_damaged() -> None:
    with pytest.raises(InputError, match="damaged or cut short"):
        Cutter().cut_out(png_that_claims(2000, 2000))


def test_transparent_and_tiny_objects_are_no_objects() -> None:
    empty = Image.new("RGBA", (100, 100), (9, 9, 9, 0))
    faint = Image.new("RGBA", (100, 100), (9, 9, 9, 204))
    for image in (empty, faint):
        with pytest.raises(InputError, match="no object was found, everything in it is trans"):
            Cutter().cut_out(encode(image))
    tiny = empty.copy()
    tiny.paste((9, 9, 9, 255), (20, 20, 35, 30))
    with pytest.raises(InputError, match="only 15 x 10 pixels are left"):
        Cutter().cut_out(encode(tiny))
    tiny.paste((9, 9, 9, 255), (20, 20, 36, 30))
    assert Cutter().cut_out(encode(tiny)).rgba.shape == (16, 16, 4)


@functools.cache
def seeds() -> list[bytes]:
    small = vase(48, 40)
    files = [encode(small), encode(small, "WEBP"), encode(small, "TIFF")]
    opaque = small.convert("RGB")
    kinds = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"] + ["AVIF"] * features.check("avif")
    files += [encode(opaque, kind) for kind in kinds]
    files.append(encode(opaque.convert("P"), "PNG", transparency=0))
    files.append(encode(small, save_all=True, append_images=[opaque.convert("RGBA")]))
    return files


def cut_or_refuse(data: bytes) -> None:
    """Only a cut-out or an error that a client can act on; the limit keeps the fuzzing fast."""
    with allow_input_error():
        cutout = Cutter(background="none", max_image_pixels=1_000_000).cut_out(data)
        assert cutout.rgba.shape[0] >= 16


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    cut_or_refuse(data)


@settings(deadline=None)
@given(st.data())
def test_a_truncated_image_is_cut_out_or_refused(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from(seeds()))
    cut_or_refuse(whole[: data.draw(st.integers(0, len(whole)))])


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_a_bit_flipped_image_is_cut_out_or_refused(data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from(seeds())))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    cut_or_refuse(bytes(damaged))


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_png_with_damage_behind_valid_checksums_is_cut_out_or_refused(
    data: st.DataObject,
) -> None:
    image = encode(vase(48, 40).convert("P"), transparency=0)
    parts, at = [image[:8]], 8
    chosen = data.draw(st.integers(0, 4))
    while at < len(image):
        length = struct.unpack(">I", image[at : at + 4])[0]
        kind, body = image[at + 4 : at + 8], bytearray(image[at + 8 : at + 8 + length])
        if len(parts) - 1 == chosen and body:
            body[data.draw(st.integers(0, length - 1))] = data.draw(st.integers(0, 255))
        parts.append(png_chunk(kind, bytes(body)))
        at += 12 + length
    cut_or_refuse(b"".join(parts))


# ---- background --------------------------------------------------------------------------


def refuse(name: str) -> Session:
    raise EngineError(f"no {name} here")


def test_alpha_is_honoured_whatever_the_request_and_the_configuration_say() -> None:
    data = encode(vase())
    keys = {
        Cutter(background=background, open_session=refuse).cut_out(data, remove_background=r).key
        for background in ("auto", "rembg", "grabcut", "none")
        for r in (True, False)
    }
    assert len(keys) == 1


def test_one_transparent_pixel_is_alpha_and_none_is_not() -> None:
    image = photograph().convert("RGBA")
    cutter = Cutter(background="none")
    assert cutter.cut_out(encode(image)).background == "none"
    image.putpixel((5, 5), (0, 0, 0, 254))
    assert cutter.cut_out(encode(image)).background == "alpha"


def test_without_removal_the_whole_frame_is_the_object() -> None:
    cutout = Cutter(open_session=refuse).cut_out(encode(photograph()), remove_background=False)
    assert cutout.background == "none"
    assert cutout.warnings == ()
    assert cutout.rgba.shape == (320, 320, 4)
    assert (cutout.rgba[40:280, :, 3] == 255).all()
    assert not cutout.rgba[:40].any()


def test_the_model_is_asked_first_and_its_veil_is_lifted() -> None:
    clean = Cutter(open_session=lambda _: Session()).cut_out(encode(photograph()))
    veiled = Cutter(open_session=lambda _: Session(10)).cut_out(encode(photograph()))
    assert clean.background == "rembg"
    assert clean.warnings == ()
    assert clean.key == veiled.key
    want = Cutter().cut_out(encode(vase(320, 240)))
    assert abs(clean.rgba.shape[0] - want.rgba.shape[0]) <= 4


def test_a_soft_edge_does_not_carry_the_background() -> None:
    image = np.full((200, 200, 3), (0, 255, 0), np.uint8)
    alpha = np.clip((np.arange(200) - 80) / 12, 0, 1)[None, :, None] * np.ones((200, 1, 1))
    mixed = (image * (1 - alpha) + np.array([200, 30, 60]) * alpha).astype(np.uint8)

    class Soft:
        def predict(self, img: Image.Image) -> list[Image.Image]:
            assert img.size == (200, 200)
            return [Image.fromarray((alpha[..., 0] * 255).astype(np.uint8))]

    cutout = Cutter(open_session=lambda _: Soft()).cut_out(encode(Image.fromarray(mixed)))
    soft = (cutout.rgba[..., 3] > 100) & (cutout.rgba[..., 3] < 250)
    assert soft.sum() > 100
    assert np.abs(cutout.rgba[soft][:, :3].astype(int) - (200, 30, 60)).mean() < 8


def test_nothing_left_after_removal_says_so() -> None:
    data = encode(Image.new("RGB", (100, 100), (128, 128, 128)))
    with pytest.raises(InputError, match="nothing is left after the background was removed"):
        Cutter(open_session=lambda _: Session()).cut_out(data)


@needs_opencv
def test_without_a_model_grabcut_takes_over_and_says_so() -> None:
    cutout = Cutter(open_session=refuse, background_model="m").cut_out(encode(photograph()))
    assert cutout.background == "grabcut"
    assert cutout.warnings == (
        "the background was removed with GrabCut, which is less exact: no m here",
    )


@needs_opencv
def test_grabcut_finds_the_object_before_a_wall_and_finds_it_again() -> None:
    cutter = Cutter(background="grabcut")
    cutout = cutter.cut_out(encode(photograph()))
    assert cutout.background == "grabcut"
    assert cutout.warnings == ()
    want = Cutter().cut_out(encode(vase(320, 240)))
    side = min(cutout.rgba.shape[0], want.rgba.shape[0])
    assert abs(cutout.rgba.shape[0] - want.rgba.shape[0]) <= 6
    found, true = (c.rgba[:side, :side, 3] > 127 for c in (cutout, want))
    assert (found & true).sum() / (found | true).sum() > 0.95
    with ThreadPoolExecutor(3) as threads:
        again = list(threads.map(cutter.cut_out, [encode(photograph())] * 6))
    assert {c.key for c in again} == {cutout.key}


@needs_opencv
@pytest.mark.parametrize("size", [(16, 16), (17, 300), (300, 17), (40, 40)])
def test_grabcut_on_a_flat_or_noisy_picture_is_no_crash(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    cutter = Cutter(background="grabcut")
    for image in (Image.new("RGB", size, (9, 99, 200)), Image.fromarray(noise)):
        with allow_input_error("image: no object was found"):
            assert cutter.cut_out(encode(image)).background == "grabcut"


def test_asked_for_rembg_alone_the_lack_of_it_is_an_error() -> None:
    with pytest.raises(EngineError, match="no m here"):
        Cutter(background="rembg", background_model="m", open_session=refuse).cut_out(
            encode(photograph())
        )


def test_a_missing_package_stays_one() -> None:
    def missing(name: str) -> Session:
        raise MissingPackageError(f"{name} is not installed")

    with pytest.raises(MissingPackageError, match="not installed"):
        Cutter(background="rembg", open_session=missing).cut_out(encode(photograph()))


@pytest.mark.parametrize("error", [OSError("/home/secret"), SystemExit(1), MemoryError()])
def test_whatever_loading_raises_becomes_an_engine_error_without_paths(
    error: BaseException,
) -> None:
    def fail(name: str) -> Session:
        assert name == "isnet-general-use"
        raise error

    with pytest.raises(EngineError, match=type(error).__name__) as caught:
        Cutter(background="rembg", open_session=fail).cut_out(encode(photograph()))
    assert "secret" not in str(caught.value)


def test_a_model_that_fails_on_a_picture_is_an_engine_error() -> None:
    class Broken:
        def predict(self, img: Image.Image) -> list[Image.Image]:
            raise RuntimeError(f"{img.size} at /home/secret")

    with pytest.raises(EngineError, match=r"isnet-general-use failed \(RuntimeError\)$"):
        Cutter(background="rembg", open_session=lambda _: Broken()).cut_out(encode(photograph()))


def test_a_failure_is_remembered_for_ten_minutes_and_then_tried_again() -> None:
    asked: list[str] = []
    clock = Clock()

    def open_session(name: str) -> Session:
        asked.append(name)
        if len(asked) == 1:
            raise OSError("no network")
        return Session()

    cutter = Cutter(background="rembg", open_session=open_session, clock=clock)
    data = encode(photograph())
    for later in (0, 300, 299):
        clock.now += later
        with pytest.raises(EngineError):
            cutter.cut_out(data)
    assert len(asked) == 1
    clock.now += 1
    for _ in range(3):
        assert cutter.cut_out(data).background == "rembg"
    assert len(asked) == 2


def test_many_pictures_at_once_load_the_model_once() -> None:
    asked: list[str] = []
    gate = threading.Barrier(4)

    def open_session(name: str) -> Session:
        asked.append(name)
        return Session()

    cutter = Cutter(open_session=open_session)

    def cut(data: bytes) -> str:
        gate.wait(30)
        return cutter.cut_out(data).key

    with ThreadPoolExecutor(4) as threads:
        keys = set(threads.map(cut, [encode(photograph())] * 4))
    assert len(keys) == 1
    assert len(asked) == 1


def test_a_download_that_hangs_holds_nobody_for_longer_than_its_bound() -> None:
    network, started = threading.Event(), threading.Event()
    asked: list[str] = []

    def open_session(name: str) -> Session:
        asked.append(name)
        started.set()
        assert network.wait(60)
        return Session()

    clock = Clock()
    cutter = Cutter(
        background="rembg", open_session=open_session, download_timeout_s=60, clock=clock
    )
    data = encode(photograph())
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(cutter.cut_out, data)
        assert started.wait(60)
        # Nobody who does not need the model waits for it.
        assert cutter.cut_out(encode(vase())).background == "alpha"
        assert cutter.cut_out(data, remove_background=False).background == "none"
        # The bound counts from the first who asked: whoever comes after it does not wait.
        clock.now += 61
        with pytest.raises(EngineError, match="not ready within 60 s"):
            cutter.cut_out(data)
        clock.now += 6000
        with pytest.raises(EngineError, match="not ready within 60 s"):
            cutter.cut_out(data)
        # Late is better than never, and one download is enough.
        network.set()
        assert waiting.result(60).background == "rembg"
    assert cutter.cut_out(data).background == "rembg"
    assert len(asked) == 1


def test_the_wait_for_a_model_ends_by_itself() -> None:
    network = threading.Event()

    def open_session(name: str) -> Session:
        assert name
        network.wait(60)
        return Session()

    cutter = Cutter(background="rembg", open_session=open_session, download_timeout_s=0.05)
    with pytest.raises(EngineError, match=r"not ready within 0\.05 s"):
        cutter.cut_out(encode(photograph()))
    network.set()


def test_who_does_not_want_to_wait_for_a_model_is_asked_to_call_again() -> None:
    arrived = threading.Event()

    def open_session(name: str) -> Session:
        assert name
        arrived.wait(10)
        return Session()

    cutter = Cutter(background="rembg", open_session=open_session, download_timeout_s=10)
    with pytest.raises(ModelPending) as pending:
        cutter.cut_out(encode(photograph()), wait=False)
    assert 0 < pending.value.timeout_s <= 10
    arrived.set()
    pending.value.loaded.result(10)
    assert cutter.cut_out(encode(photograph()), wait=False).background == "rembg"


def test_a_picture_with_transparency_does_not_wait_for_a_model() -> None:
    arrived = threading.Event()

    def open_session(name: str) -> Session:
        assert name
        arrived.wait(10)
        return Session()

    cutter = Cutter(background="rembg", open_session=open_session)
    with pytest.raises(ModelPending):
        cutter.cut_out(encode(photograph()), wait=False)
    cut = Image.new("RGBA", (64, 64))
    cut.paste((200, 30, 30, 255), (8, 8, 56, 56))
    assert cutter.cut_out(encode(cut), wait=False).background == "alpha"
    arrived.set()


def test_pictures_are_cut_out_from_several_threads_at_once() -> None:
    cutter = Cutter(open_session=lambda _: Session())
    files = [encode(vase(100 + 5 * i, 90)) for i in range(8)]
    files += [encode(photograph(seed=i)) for i in range(4)]
    alone = [cutter.cut_out(data).key for data in files]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda data: cutter.cut_out(data).key, files)) == alone


# ---- imports, and the real model ---------------------------------------------------------


def test_neither_importing_nor_cutting_by_alpha_imports_a_heavy_package() -> None:
    code = (
        "import sys, trellis2_server.inputs.images as images\n"
        "images.Cutter().cut_out(sys.stdin.buffer.read())\n"
        "heavy = {'rembg', 'onnxruntime', 'cv2', 'torch', 'numba', 'scipy'} & set(sys.modules)\n"
        "sys.exit(' '.join(heavy) or None)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=encode(vase()),
        capture_output=True,
        check=False,
        cwd=Path(__file__).parents[2],
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()


def run_cutter(arguments: str, home: Path) -> subprocess.CompletedProcess[bytes]:
    """In a process of its own: `rembg` brings warnings of its own, and prints."""
    code = (
        "import sys, logging, trellis2_server.inputs.images as images\n"
        f"cutout = images.Cutter({arguments}).cut_out(sys.stdin.buffer.read())\n"
        "print(cutout.background, cutout.rgba.shape[0], *cutout.warnings)\n"
        "assert 'pymatting' not in sys.modules, 'it compiles for most of a minute'\n"
    )
    environment = os.environ | {"U2NET_HOME": str(home), "MODEL_CHECKSUM_DISABLED": "1"}
    return subprocess.run(
        [sys.executable, "-c", code],
        input=encode(photograph()),
        capture_output=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env=environment,
        timeout=300,
    )


def model_home() -> Path:
    home = Path(os.environ.get("U2NET_HOME", ""))
    if not (home / "isnet-general-use.onnx").is_file():
        pytest.skip("U2NET_HOME has no isnet-general-use.onnx")
    pytest.importorskip("onnxruntime")
    if not importlib.util.find_spec("rembg"):
        pytest.skip("rembg is not installed")
    return home


def test_rembg_finds_the_object_in_a_photograph() -> None:
    done = run_cutter("background='rembg', offline=True", model_home())
    assert done.returncode == 0, done.stderr.decode()
    background, side = done.stdout.decode().split()
    assert background == "rembg"
    want = Cutter().cut_out(encode(vase(320, 240))).rgba.shape[0]
    assert abs(int(side) - want) <= 12


@needs_opencv
def test_offline_without_the_model_grabcut_takes_over(tmp_path: Path) -> None:
    done = run_cutter("offline=True", tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.startswith(b"grabcut ")
    assert b"GrabCut, which is less exact: " in done.stdout
    assert not list(tmp_path.rglob("*.onnx"))
