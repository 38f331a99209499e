"""Texture and normals between corners, by both implementations."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from tests.support.triangles import BOTH, LOOPS, N, soup, weights_at
from trellis2_server.drawing import DrawnModel, Loops
from trellis2_server.drawing.model import make_pyramid
from trellis2_server.drawing.rasterizer import rasterize

if TYPE_CHECKING:
    from numpy.typing import NDArray


def model_of(
    points: NDArray[Any], faces: NDArray[np.int32], texture: NDArray[np.uint8]
) -> DrawnModel:
    """A model whose normals and texture coordinates have faces of their own."""
    chance = np.random.default_rng(9)
    return DrawnModel(
        positions=points.astype(np.float32),
        faces=faces,
        normals=chance.uniform(-1, 1, points.shape).astype(np.float32),
        normal_faces=chance.permutation(faces.ravel()).reshape(-1, 3),
        uvs=chance.uniform(-2, 3, (len(points), 2)).astype(np.float32),
        uv_faces=chance.permutation(faces.ravel()).reshape(-1, 3),
        texture=texture,
        is_textured=True,
        alpha_mode="OPAQUE",
        alpha_cutoff=0.5,
        double_sided=False,
    )


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(2).integers(0, 256, (height, width, 6), np.uint8)


@pytest.mark.parametrize("size", [(3, 5), (1, 4), (4, 1), (8, 8)])
@LOOPS
def test_texture_and_normals_between_corners_are_those_of_another_implementation(
    loops: Loops, size: tuple[int, int]
) -> None:
    points, faces = soup(3)
    texture = noise(*size)
    model = model_of(points, faces, texture)
    owner, _ = rasterize(points, faces, N, cull=False)
    sample = np.flatnonzero(owner >= 0)
    texels, normal = loops.interpolate(model, make_pyramid(texture), points, owner, sample)
    weights = np.array(
        [weights_at(points[faces[owner[each]]], each % N + 0.5, each // N + 0.5) for each in sample]
    )
    corners = model.normals[model.normal_faces[owner[sample]]]
    assert normal == pytest.approx(np.einsum("sk,skc->sc", weights, corners), abs=1e-4)
    uv = np.einsum("sk,skc->sc", weights, model.uvs[model.uv_faces[owner[sample]]])
    places = [uv[:, 1] * size[0] - 0.5, uv[:, 0] * size[1] - 0.5]
    wanted = np.stack(
        [
            map_coordinates(texture[..., k].astype(float), places, order=1, mode="grid-wrap")
            for k in range(6)
        ],
        -1,
    )
    assert texels == pytest.approx(wanted, abs=0.05)


def test_the_compiled_interpolation_returns_the_same() -> None:
    points, faces = soup(4, 60)
    texture = noise(256, 512)  # of which all levels are used
    model = model_of(points, faces, texture)
    owner, _ = rasterize(points, faces, N, cull=False)
    sample = np.flatnonzero(owner >= 0)
    pyramid = make_pyramid(texture)
    (texels, normals), found = (
        each.interpolate(model, pyramid, points, owner, sample) for each in BOTH
    )
    assert found[0] == pytest.approx(texels, abs=0.02)
    assert found[1] == pytest.approx(normals, abs=1e-6)


@LOOPS
def test_a_texture_of_one_pixel_is_everywhere_the_same(loops: Loops) -> None:
    points, faces = soup(3)
    texture = np.uint8([[[1, 2, 3, 4, 5, 6]]])
    model = model_of(points, faces, texture)
    owner = np.zeros(N * N, np.int32)
    texels, _ = loops.interpolate(model, make_pyramid(texture), points, owner, np.arange(4))
    assert (texels.dtype, texels.tolist()) == (np.float32, [[1, 2, 3, 4, 5, 6]] * 4)


@LOOPS
@pytest.mark.parametrize(("size", "level"), [(256, 0), (200, 0), (170, 1), (100, 1), (80, 2)])
def test_a_sample_shows_the_mean_of_the_texels_that_it_covers(
    loops: Loops, size: int, level: int
) -> None:
    """The square of 256 texels is shown with that many samples along its edge."""
    texture = noise(256, 256)
    points = np.array([[0.0, 0, 0], [size, 0, 0], [size, size, 0], [0, size, 0]])
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    model = replace(
        model_of(points, faces, texture),
        uvs=np.float32([[0, 0], [1, 0], [1, 1], [0, 1]]),
        uv_faces=faces,
    )
    owner, _ = rasterize(points, faces, size, cull=False)
    sample = np.array([size * (size // 2) + size // 3])
    pyramid = make_pyramid(texture)
    texels, _ = loops.interpolate(model, pyramid, points, owner, sample)
    first, width, height = pyramid.levels[level]
    pixels = pyramid.texels[first : first + width * height].reshape(height, width, 6)
    y, x = (sample[0] // size + 0.5) / size, (sample[0] % size + 0.5) / size
    places = [[y * height - 0.5], [x * width - 0.5]]
    wanted = [map_coordinates(pixels[..., k].astype(float), places, order=1)[0] for k in range(6)]
    assert texels[0] == pytest.approx(wanted, abs=0.05)


def test_each_texel_of_a_level_is_the_mean_of_four() -> None:
    texture = noise(129, 65)  # an odd row and an odd column are left out
    pyramid = make_pyramid(texture)
    assert pyramid.levels.tolist() == [[0, 65, 129], [65 * 129, 32, 64]]
    assert pyramid.texels[: 65 * 129].tolist() == texture.reshape(-1, 6).tolist()
    means = texture[:128, :64].reshape(64, 2, 32, 2, 6).mean((1, 3))
    coarse = pyramid.texels[65 * 129 :].reshape(64, 32, 6)
    assert np.abs(coarse - means).max() <= 0.5
