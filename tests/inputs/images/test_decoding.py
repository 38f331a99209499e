from __future__ import annotations

import struct
import warnings

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.support.pictures import bounding_box, encode, photograph, png_that_declares, vase
from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.images import Cutter
from trellis2_server.inputs.images.decoding import decode_image


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


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_according_to_its_exif(orientation: int) -> None:
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


def test_only_the_first_frame_of_an_animation_is_used() -> None:
    first, second = vase(), vase().transpose(Image.Transpose.ROTATE_180)
    still = Cutter().cut_out(encode(first))
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        moving = encode(first, kind, save_all=True, append_images=[second] * 3, **options)
        assert Cutter().cut_out(moving).key == still.key, kind


@pytest.mark.parametrize("size", [(60000, 60000), (9500, 9500), (2**31 - 1, 2**31 - 1)])
def test_a_header_that_declares_too_many_pixels_is_too_large_without_a_warning(
    size: tuple[int, int],
) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(TooLargeError, match="limit of 64000000 pixels"):
            Cutter().cut_out(png_that_declares(*size))
    assert not seen


def test_a_damaged_file_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    data = encode(photograph(), "TIFF")
    entry = struct.pack("<HHI", 277, 3, 1)  # samples per pixel
    assert entry in data
    at = data.index(entry) + len(entry)
    with pytest.raises(InputError, match=r"^image: "):
        Cutter().cut_out(data[:at] + b"\xff\xff" + data[at + 2 :])
    assert not caplog.records


def test_the_limit_of_pixels_can_be_configured() -> None:
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
def test_a_truncated_file_is_named_so(kind: str) -> None:
    data = encode(photograph(), kind)
    with pytest.raises(InputError, match=r"^image: (the file is damaged|not a PNG)"):
        Cutter(background="none").cut_out(data[: len(data) // 2])


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"%PDF-1.7"]
)
def test_other_bytes_are_an_input_error(data: bytes) -> None:
    with pytest.raises(InputError, match=r"^image: "):
        Cutter().cut_out(data)


def test_a_header_that_declares_more_than_the_file_has_is_damaged() -> None:
    with pytest.raises(InputError, match="damaged or cut short"):
        Cutter().cut_out(png_that_declares(2000, 2000))


@pytest.mark.parametrize(("image", "has_alpha"), [(vase(), True), (photograph(), False)])
def test_a_decoded_picture_is_rgba_and_tells_whether_it_has_alpha(
    image: Image.Image,
    has_alpha: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    decoded = decode_image(encode(image), max_pixels=100_000)
    assert decoded.image.mode == "RGBA"
    assert decoded.image.size == image.size
    assert decoded.has_alpha == has_alpha
    assert decoded.warnings == ()
