"""TIFF files whose pixels have more than 8 bits."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from trellis2_server.errors import InputError
from trellis2_server.inputs.images.decoding import decode_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

Order = Literal["<", ">"]
HEIGHT, WIDTH = 20, 25
#: Types of TIFF: short and long.
_SHORT, _LONG = 3, 4
_LETTERS = {_SHORT: "H", _LONG: "I"}


def colors(count: int) -> NDArray[np.float64]:
    """Return colours from 0 to 1, all different; the fourth is an alpha with a clear corner."""
    made = np.empty((HEIGHT, WIDTH, 4))
    made[..., 0] = np.linspace(0, 1, WIDTH)
    made[..., 1] = np.linspace(0, 1, HEIGHT)[:, None]
    made[..., 2] = 0.25
    made[..., 3] = 1
    made[:4, :4, 3] = 0.2
    return made[..., :count]


def tiff(samples: NDArray[Any], order: Order = "<", *, in_planes: bool = False) -> bytes:
    """Return an uncompressed TIFF of the samples [H, W, C], whatever their dtype is."""
    height, width, count = samples.shape
    bits, kind = 8 * samples.dtype.itemsize, {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    planes = np.moveaxis(samples, 2, 0) if in_planes else samples
    data = planes.astype(samples.dtype.newbyteorder(order)).tobytes()
    strips = count if in_planes else 1
    size = len(data) // strips
    entries: list[tuple[int, int, list[int]]] = [
        (256, _LONG, [width]), (257, _LONG, [height]), (258, _SHORT, [bits] * count),
        (259, _SHORT, [1]), (262, _SHORT, [2 if count > 2 else 1]), (273, _LONG, [0] * strips),
        (277, _SHORT, [count]), (278, _LONG, [height]), (279, _LONG, [size] * strips),
        (284, _SHORT, [2 if in_planes else 1]), (339, _SHORT, [kind] * count),
    ]  # fmt: skip
    if count in {2, 4}:
        entries.insert(-1, (338, _SHORT, [2]))
    before = 8 + 2 + 12 * len(entries) + 4
    start = before + sum(
        length
        for _, letter, values in entries
        if (length := struct.calcsize(f"{len(values)}{_LETTERS[letter]}")) > 4
    )
    directory, more = struct.pack(f"{order}H", len(entries)), b""
    for tag, letter, values in entries:
        stored = [start + size * at for at in range(strips)] if tag == 273 else values
        packed = struct.pack(f"{order}{len(stored)}{_LETTERS[letter]}", *stored)
        directory += struct.pack(f"{order}HHI", tag, letter, len(stored))
        if len(packed) > 4:
            directory += struct.pack(f"{order}I", before + len(more))
            more += packed
        else:
            directory += packed.ljust(4, b"\0")
    header = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8)
    return header + directory + bytes(4) + more + data


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_16_bits_a_colour_are_read(count: int, order: Order) -> None:
    samples = np.rint(colors(count) * 65535).astype(np.uint16)
    decoded = decode_image(tiff(samples, order), max_pixels=10_000)
    pixels = np.asarray(decoded.image)
    expected = np.broadcast_to(colors(count)[..., :3], (HEIGHT, WIDTH, 3)) * 255
    assert np.abs(pixels[..., :3] - expected).max() <= 1
    assert decoded.has_alpha == (count == 4)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("count", [3, 4])
def test_deep_colours_in_planes_are_not_read_as_others(count: int, order: Order) -> None:
    """Pillow takes each byte of a plane for a pixel."""
    content = tiff(np.rint(colors(count) * 65535).astype(np.uint16), order, in_planes=True)
    match = f"^image: a TIFF file of {count} samples of 16 bits, unsigned, in planes, .* as PNG"
    with pytest.raises(InputError, match=match):
        decode_image(content, max_pixels=10_000)
    shallow = tiff(np.rint(colors(3) * 255).astype(np.uint8), order, in_planes=True)
    pixels = np.asarray(decode_image(shallow, max_pixels=10_000).image)
    assert np.array_equal(pixels[..., :3], np.rint(colors(3) * 255))


@pytest.mark.parametrize(
    ("count", "dtype", "words"),
    [
        (3, "f4", "3 samples of 32 bits, floating point"),
        (4, "f4", "4 samples of 32 bits, floating point"),
        (3, "f2", "3 samples of 16 bits, floating point"),
        (1, "f2", "1 sample of 16 bits, floating point"),
        (3, "u4", "3 samples of 32 bits, unsigned"),
        (2, "u2", "2 samples of 16 bits, unsigned"),
    ],
)
def test_colours_that_cannot_be_read_say_what_to_do(count: int, dtype: str, words: str) -> None:
    with pytest.raises(InputError, match=f"^image: a TIFF file of {words}, .*; save it as PNG"):
        decode_image(tiff(colors(count).astype(dtype)), max_pixels=10_000)
