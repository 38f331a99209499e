"""Damaged picture files, made at random: only a cut-out or an `InputError` may come out."""

from __future__ import annotations

import functools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import features

from tests.support.pictures import allow_input_error, encode, png_chunk, vase
from trellis2_server.inputs.images import Cutter


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
    """Cut out or get an `InputError`; the pixel limit makes this fast."""
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


@pytest.mark.costly
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
