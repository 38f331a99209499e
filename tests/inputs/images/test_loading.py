from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.support.hostile_pictures import segment
from tests.support.pictures import encode, photograph, vase
from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.images.decoding import DecodedImage, decode_image
from trellis2_server.inputs.images.loading import CUT_SHORT, MAX_REDUCED_PIXELS
from trellis2_server.inputs.images.structure import MAX_SCANS, MAX_SCANS_PIXELS, check_structure

# ---- JPEG: cut short ----------------------------------------------------------------------------


def difference(decoded: DecodedImage, want: Image.Image) -> float:
    """Mean difference of the rows that both have."""
    seen = np.asarray(decoded.image)[..., :3].astype(int)
    other = np.asarray(want.convert("RGB")).astype(int)[: len(seen)]
    return float(np.abs(seen - other).mean())


@pytest.mark.parametrize("missing", [1, 2, 10])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_without_its_last_bytes_is_read_with_a_warning(
    missing: int, options: dict[str, Any], mode: str
) -> None:
    image = photograph().convert(mode)
    decoded = decode_image(encode(image, "JPEG", **options)[:-missing], max_pixels=100_000)
    assert decoded.image.size == (320, 240)
    assert decoded.warnings == (CUT_SHORT,)
    assert difference(decoded, image) < 4


@pytest.mark.costly
@pytest.mark.parametrize("size", [(320, 240), (4200, 3150)])
def test_the_rows_that_a_jpeg_lacks_are_cut_off(size: tuple[int, int]) -> None:
    image = photograph(*size)
    data = encode(image, "JPEG", exif=with_orientation(1))
    decoded = decode_image(data[: len(data) * 9 // 10], max_pixels=14_000_000)
    whole = decode_image(data, max_pixels=14_000_000)
    height = decoded.image.height / decoded.image.width * whole.image.width
    assert 0.6 * whole.image.height < height < 0.97 * whole.image.height
    assert "the lower" in decoded.warnings[0]
    want = np.asarray(whole.image).astype(int)[: decoded.image.height]
    if size[0] < 1024:  # not scaled
        assert np.abs(np.asarray(decoded.image).astype(int) - want).mean() < 1


def test_a_jpeg_that_is_cut_short_is_turned_nevertheless() -> None:
    data = encode(photograph(), "JPEG", exif=with_orientation(6))
    decoded = decode_image(data[: len(data) * 9 // 10], max_pixels=100_000)
    assert decoded.image.height == 320
    assert decoded.image.width < 240


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_too_little_of_a_jpeg_is_refused_with_its_rows(share: float) -> None:
    data = encode(photograph(), "JPEG")
    with pytest.raises(InputError, match=r"cut short, \d+ of 240 rows are left"):
        decode_image(data[: round(len(data) * share)], max_pixels=100_000)


def test_the_beginning_of_a_progressive_jpeg_is_a_coarse_picture() -> None:
    data = encode(photograph(), "JPEG", progressive=True)
    begins = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    decoded = decode_image(data[: begins[1] + 12], max_pixels=100_000)
    assert decoded.image.size == (320, 240)
    assert difference(decoded, photograph()) < 12
    with pytest.raises(InputError, match="cut short"):
        decode_image(data[: begins[0] + 100], max_pixels=100_000)


# ---- JPEG: large --------------------------------------------------------------------------------


def large(width: int, height: int, **options: Any) -> bytes:
    image = Image.new("L", (width, height), 128)
    ImageDraw.Draw(image).ellipse((width * 0.2, height * 0.2, width * 0.8, height * 0.8), fill=30)
    return encode(image, "JPEG", quality=50, **options)


def test_a_jpeg_over_the_limit_is_decoded_at_a_fraction() -> None:
    decoded = decode_image(large(9248, 6936), max_pixels=64_000_000)
    assert decoded.image.size == (1024, 768)
    assert decoded.image.getpixel((512, 384)) == (30, 30, 30, 255)
    assert decoded.warnings == ()


def test_the_limit_of_pixels_counts_what_is_decoded() -> None:
    data = large(8200, 4100)  # a quarter is 2050 x 1025 pixels
    assert decode_image(data, max_pixels=2050 * 1025).image.size == (1024, 512)
    with pytest.raises(TooLargeError, match="2050 x 1025 pixels, over the limit of 2101249"):
        decode_image(data, max_pixels=2050 * 1025 - 1)


def declaring(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header declares other measures."""
    at = next(at for at in range(len(data)) if data[at : at + 2] in {b"\xff\xc0", b"\xff\xc2"}) + 5
    return data[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[at + 4 :]


def test_a_jpeg_of_over_200_megapixels_is_too_large() -> None:
    data = declaring(encode(photograph(), "JPEG"), 20_000, 10_001)
    assert MAX_REDUCED_PIXELS < 20_000 * 10_001
    with pytest.raises(TooLargeError, match="over the limit of"):
        decode_image(data, max_pixels=64_000_000)


def test_only_jpegs_are_reduced() -> None:
    with pytest.raises(TooLargeError, match="9248 x 6936 pixels, over the limit of 64000000"):
        decode_image(encode(Image.new("1", (9248, 6936))), max_pixels=64_000_000)


def test_the_pixels_of_all_scans_are_bounded() -> None:
    data = encode(photograph(), "JPEG", progressive=True)
    begun = data.count(b"\xff\xda")
    at = data.rindex(b"\xff\xda")
    most = MAX_SCANS_PIXELS // (16_000 * 12_000)
    assert begun < most < MAX_SCANS

    def with_scans(count: int) -> bytes:
        more = segment(0xDA, b"\1\1\0\1\x3f\0") * (count - begun)
        return declaring(data[:at] + more + data[at:], 16_000, 12_000)

    check_structure(with_scans(most))
    with pytest.raises(TooLargeError, match=f"limit of {most} scans"):
        check_structure(with_scans(most + 1))


# ---- animations ---------------------------------------------------------------------------------

ANIMATIONS = {
    "PNG": {},
    "WEBP": {"lossless": True},
    "GIF": {"disposal": 2},
}
SIZE = (200, 160)


def animation(kind: str, *frames: Image.Image) -> bytes:
    options = ANIMATIONS[kind]
    return encode(frames[0], kind, save_all=True, append_images=list(frames[1:]), **options)


def upper_part() -> Image.Image:
    part = vase()
    part.paste((0, 0, 0, 0), (0, 70, 200, 160))
    return part


@pytest.mark.parametrize("kind", ANIMATIONS)
@pytest.mark.parametrize(
    "first", [Image.new("RGBA", SIZE), upper_part(), Image.new("RGBA", SIZE, (9, 9, 9, 255))]
)
def test_an_empty_or_partial_first_frame_is_not_the_picture(kind: str, first: Image.Image) -> None:
    whole = vase()
    decoded = decode_image(animation(kind, first, first, whole, whole), max_pixels=200_000)
    want = decode_image(animation(kind, whole, whole, whole), max_pixels=200_000)
    shown = [np.asarray(each.image)[..., 3] > 127 for each in (decoded, want)]
    if not np.asarray(first)[0, 0, 3] or kind != "GIF":  # a GIF keeps what is not drawn over
        assert np.array_equal(shown[0], shown[1])
    assert decoded.image.getpixel((90, 90)) == want.image.getpixel((90, 90))


@pytest.mark.parametrize("kind", ANIMATIONS)
def test_frames_that_show_about_as_much_do_not_replace_the_first(kind: str) -> None:
    turned = vase().transpose(Image.Transpose.ROTATE_180)
    decoded = decode_image(animation(kind, vase(), turned, turned), max_pixels=200_000)
    want = decode_image(animation(kind, vase(), vase()), max_pixels=200_000)
    assert decoded.image.tobytes() == want.image.tobytes()


@pytest.mark.parametrize("kind", ANIMATIONS)
def test_an_animation_of_empty_frames_is_empty(kind: str) -> None:
    one, other = Image.new("RGBA", SIZE), Image.new("RGBA", SIZE)
    decoded = decode_image(animation(kind, one, other), max_pixels=200_000)
    assert not np.asarray(decoded.image)[..., 3].any()


def test_damage_behind_the_first_frame_does_not_matter() -> None:
    data = animation("PNG", upper_part(), vase())
    at = data.index(b"fdAT") + 30
    decoded = decode_image(data[:at] + bytes(40) + data[at + 40 :], max_pixels=200_000)
    want = decode_image(encode(upper_part()), max_pixels=200_000)
    assert decoded.image.tobytes() == want.image.tobytes()


def test_frames_are_looked_at_within_the_limit_of_pixels() -> None:
    data = animation("PNG", *[Image.new("RGBA", SIZE)] * 2, vase(), vase())
    few = decode_image(data, max_pixels=2 * 200 * 160)
    assert not np.asarray(few.image)[..., 3].any()
    assert np.asarray(decode_image(data, max_pixels=4 * 200 * 160).image)[..., 3].any()


# ---- orientation --------------------------------------------------------------------------------


def with_orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "WEBP"])
def test_only_exif_turns_a_picture(kind: str) -> None:
    decoded = decode_image(encode(photograph(), kind, xmp=XMP), max_pixels=100_000)
    assert decoded.image.size == (320, 240)
    exif = with_orientation(8)
    decoded = decode_image(encode(photograph(), kind, xmp=XMP, exif=exif), max_pixels=100_000)
    assert decoded.image.size == (240, 320)


def test_only_its_own_tag_turns_a_tiff() -> None:
    for tags, size in (({700: XMP}, (320, 240)), ({700: XMP, 274: 8}, (240, 320))):
        decoded = decode_image(encode(photograph(), "TIFF", tiffinfo=tags), max_pixels=100_000)
        assert decoded.image.size == size


def test_a_jpeg_that_is_cut_short_names_the_share_that_is_missing() -> None:
    data = encode(photograph(), "JPEG", subsampling=0)
    found: set[int] = set()
    for share in np.linspace(0.6, 0.99, 25):
        try:
            decoded = decode_image(data[: round(len(data) * share)], max_pixels=100_000)
        except InputError as error:
            match = re.search(r"cut short, (\d+) of 240 rows are left$", str(error))
            assert match is not None
            assert int(match[1]) < 160
            assert int(match[1]) % 8 == 0  # rows of blocks
            continue
        [warning] = decoded.warnings
        if warning == CUT_SHORT:
            assert decoded.image.size == (320, 240)
            continue
        missing = 100 * (1 - decoded.image.height / 240)
        assert decoded.image.height >= 160
        assert decoded.image.height % 8 == 0
        assert f"the lower {max(round(missing), 1)} % with it" in warning
        found.add(round(missing))
    assert len(found) >= 5
