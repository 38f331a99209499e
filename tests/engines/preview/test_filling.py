"""The texture of a filled back, on pictures of which the band and the middle differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trellis2_server.engines.preview.filling import fill, halved

Array = np.ndarray[Any, Any]


def levels_of(picture: Array) -> list[Array]:
    """A picture in smaller and smaller sizes, the smallest first."""
    levels = [picture]
    while len(levels[-1]) > 16:
        levels.append(np.ascontiguousarray(halved(levels[-1])))
    return levels[::-1]


def scene(size: int) -> tuple[Array, Array, Array]:
    """Stripes with a red middle, the distance from the outline of a disc, and the middle."""
    x, z = np.mgrid[:size, :size] + 0.5
    stripe = ((z // (size / 32)) % 2)[..., None]
    picture = np.repeat(0.1 + 0.8 * stripe, 3, 2)
    away = np.hypot(x - size / 2, z - size / 2)
    middle = away < 0.3 * size
    picture[middle] = (1, 0, 0)
    distance = np.clip(0.45 * size - away, 0, None)
    return picture.astype(np.float32), distance.astype(np.float32), middle


@pytest.mark.parametrize("size", [256, 512])
def test_the_middle_gets_the_texture_of_the_band(size: int) -> None:
    picture, distance, middle = scene(size)
    back = fill(levels_of(picture), distance, np.zeros((size, size), bool))
    inner = distance > 0.2 * size
    assert abs(back[inner][:, 0] - back[inner][:, 1]).max() < 0.05, "no red is left"
    assert back[inner].std() > 0.6 * picture[~middle].std(), "it is as sharp as the band"
    band = distance < 0.07 * size
    assert (back[band] == picture[band]).all()


def test_the_same_picture_gives_the_same_texture() -> None:
    picture, distance, _ = scene(256)
    nothing = np.zeros((256, 256), bool)
    first, second = (fill(levels_of(picture), distance, nothing) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_an_object_that_is_all_band_keeps_its_colours() -> None:
    picture, distance, _ = scene(256)
    thin = np.minimum(distance, 0.05 * 256).astype(np.float32)
    assert (fill(levels_of(picture), thin, np.zeros((256, 256), bool)) == picture).all()


def test_a_face_is_filled_though_it_is_near_the_outline() -> None:
    picture, distance, middle = scene(256)
    near = np.minimum(distance, 0.07 * 256).astype(np.float32)
    back = fill(levels_of(picture), near, middle)
    assert (abs(back[..., 0] - back[..., 1]) > 0.3).sum() < 0.02 * middle.sum()
    assert (fill(levels_of(picture), near, np.zeros_like(middle)) == picture).all()


def test_without_a_place_to_take_patches_from_the_colours_are_continued() -> None:
    picture, _, _ = scene(256)
    everywhere = np.full((256, 256), 200, np.float32)
    everywhere[:1] = 0
    back = fill(levels_of(picture), everywhere, np.zeros((256, 256), bool))
    assert back.shape == picture.shape
    assert np.isfinite(back).all()
