from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trellis2_server.export.bake import Maps
from trellis2_server.export.encode import encode, encode_maps


def decoded(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture)


def smooth(size: int, channels: int) -> np.ndarray:
    y, x = np.mgrid[0:size, 0:size] / size
    waves = [np.sin(5 * x + k) * np.cos(4 * y - k) for k in range(channels)]
    return (127.5 + 100 * np.stack(waves, -1)).astype(np.uint8)


def maps(alpha: np.ndarray, *, metallic: float | None = None) -> Maps:
    size = len(alpha)
    base = smooth(size, 4)
    base[..., 3] = alpha
    metal_rough = smooth(size, 3)
    if metallic is not None:
        metal_rough[...] = [127, 127, round(255 * metallic)]
    return Maps(base, metal_rough, np.ones((size, size), np.uint8))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([3, 4]), st.integers(0, 999))
def test_png_is_lossless(height: int, width: int, channels: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    image = encode(pixels, "png")
    assert image.mime_type == "image/png"
    np.testing.assert_array_equal(decoded(image.content), pixels)


@pytest.mark.parametrize(("file_format", "channels"), [("jpeg", 3), ("webp", 3), ("webp", 4)])
def test_lossy_images_are_above_forty_decibels(file_format: str, channels: int) -> None:
    pixels = smooth(128, channels)
    image = encode(pixels, file_format)  # pyright: ignore[reportArgumentType]
    assert image.mime_type == f"image/{file_format}"
    error = decoded(image.content).astype(float) - pixels
    assert 10 * np.log10(255**2 / (error**2).mean()) > 40


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 999))
def test_jpeg_is_the_same_without_the_fourth_channel(height: int, width: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)
    assert encode(pixels, "jpeg") == encode(pixels[..., :3], "jpeg")
    strided = np.repeat(pixels, 2, axis=1)[:, ::2]
    assert encode(strided, "jpeg") == encode(pixels, "jpeg")


def test_jpeg_has_full_chroma_resolution() -> None:
    image = encode(smooth(64, 3), "jpeg")
    with Image.open(io.BytesIO(image.content)) as picture:
        assert {component[1:3] for component in picture.layer} == {(1, 1)}


@pytest.mark.parametrize(
    ("alpha", "mode"),
    [
        (np.full((64, 64), 255), "OPAQUE"),
        (np.full((64, 64), 252), "OPAQUE"),
        (np.repeat(np.repeat([[255, 0], [0, 255]], 32, 0), 32, 1), "MASK"),
        (np.tile(np.arange(64) * 4, (64, 1)), "BLEND"),
    ],
)
def test_the_alpha_mode_follows_the_histogram(alpha: np.ndarray, mode: str) -> None:
    material = encode_maps(maps(alpha.astype(np.uint8)), "auto", "auto")
    assert material.alpha_mode == mode
    assert material.base_color is not None
    assert material.base_color.mime_type == ("image/jpeg" if mode == "OPAQUE" else "image/png")
    assert decoded(material.base_color.content).shape == (64, 64, 3 if mode == "OPAQUE" else 4)


def test_a_base_colour_with_alpha_is_never_jpeg() -> None:
    material = encode_maps(maps(np.full((16, 16), 90, np.uint8)), "BLEND", "jpeg")
    assert material.base_color is not None
    assert material.base_color.mime_type == "image/png"
    assert material.metal_rough is not None
    assert material.metal_rough.mime_type == "image/jpeg"


@pytest.mark.parametrize("metallic", [0.0, 0.4, 1.0])
def test_constant_metallic_and_roughness_become_factors(metallic: float) -> None:
    opaque = np.full((16, 16), 255, np.uint8)
    material = encode_maps(maps(opaque, metallic=metallic), "auto", "auto")
    assert material.metal_rough is None
    assert material.metallic == pytest.approx(metallic, abs=0.002)
    assert material.roughness == pytest.approx(127 / 255, abs=0.002)


def test_varying_metallic_and_roughness_are_a_texture() -> None:
    material = encode_maps(maps(np.full((16, 16), 255, np.uint8)), "auto", "png")
    assert material.metal_rough is not None
    assert material.metallic == material.roughness == 1.0
