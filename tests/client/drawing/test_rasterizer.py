"""The rasterizer, held against one that tests every sample of every face by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from trellis2_server.client.drawing import rasterizer
from trellis2_server.client.drawing.model import DrawnModel
from trellis2_server.client.drawing.rasterizer import interpolate, rasterize

if TYPE_CHECKING:
    from numpy.typing import NDArray

N = 24


def weights_at(triangle: NDArray[Any], x: float, y: float) -> NDArray[np.float64]:
    """Barycentric coordinates of a point, by the linear equations that define them."""
    equations = np.vstack([triangle[:, :2].T, np.ones(3)])
    return np.linalg.solve(equations, [x, y, 1.0])


def nearest(points: NDArray[Any], faces: NDArray[np.int32], *, cull: bool) -> NDArray[np.int32]:
    """What `rasterize` returns, one sample of one face after the other."""
    owner, depth = np.full((N, N), -1, np.int32), np.full((N, N), -np.inf)
    for number, face in enumerate(faces):
        triangle = points[face]
        (a_x, a_y), (b_x, b_y) = (triangle[k, :2] - triangle[0, :2] for k in (1, 2))
        turn = a_x * b_y - a_y * b_x
        if turn == 0 or (cull and turn > 0):  # rows count downward
            continue
        for row in range(N):
            for column in range(N):
                weights = weights_at(triangle, column + 0.5, row + 0.5)
                near = float(weights @ triangle[:, 2])
                if weights.min() >= 0 and near > depth[row, column]:
                    owner[row, column], depth[row, column] = number, near
    return owner.ravel()


def soup(seed: int, count: int = 8) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Triangles of all sizes that lie across each other, and beyond the picture."""
    chance = np.random.default_rng(seed)
    centers = chance.uniform(-4, N + 4, (count, 1, 2))
    corners = centers + chance.uniform(-1, 1, (count, 3, 2)) * chance.uniform(
        0.5, 20, (count, 1, 1)
    )
    points = np.dstack([corners, chance.uniform(-9, 9, (count, 3, 1))]).reshape(-1, 3)
    return points, chance.permutation(3 * count).reshape(-1, 3).astype(np.int32)


@pytest.mark.parametrize("cull", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_each_sample_belongs_to_the_nearest_face(seed: int, *, cull: bool) -> None:
    points, faces = soup(seed)
    owner = rasterize(points, faces, N, cull=cull)
    assert owner.dtype == np.int32
    assert owner.tolist() == nearest(points, faces, cull=cull).tolist()


def test_the_size_of_a_batch_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points, faces = soup(1, 60)
    whole = rasterize(points, faces, N, cull=False)
    assert len(set(whole.tolist())) > 8
    for size in (1, 7, 100, 1000):
        monkeypatch.setattr(rasterizer, "BATCH_SAMPLES", size)
        assert rasterize(points, faces, N, cull=False).tolist() == whole.tolist()


def test_batches_are_as_large_as_they_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rasterizer, "BATCH_SAMPLES", 10)
    batches = list(rasterizer._batches(np.array([4, 6, 1, 9, 1, 25, 3, 3, 3])))
    assert batches == [(0, 2), (2, 4), (4, 5), (5, 6), (6, 9)]
    assert list(rasterizer._batches(np.zeros(0, np.int64))) == []


def test_of_equally_near_faces_the_first_one_is_seen() -> None:
    points = np.array([[0.0, 0, 0], [N, 0, 0], [0, N, 0]])
    faces = np.array([[0, 1, 2], [1, 2, 0], [2, 0, 1]], np.int32)
    assert set(rasterize(points, faces, N, cull=False).tolist()) == {-1, 0}


def test_faces_that_share_an_edge_leave_no_sample_between_them() -> None:
    """Also where the edge goes through the samples themselves."""
    corners = np.array([[0.0, 0, 0], [N, 0, 0], [N, N, 0], [0, N, 0]])
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    owner = rasterize(corners, faces, N, cull=False).reshape(N, N)
    assert (owner >= 0).all()
    assert np.triu(owner == 0, 1).sum() == np.tril(owner == 1, -1).sum() == N * (N - 1) / 2
    angle = np.linspace(0, 2 * np.pi, 12)[:-1]
    fan = np.vstack([[11.3, 12.1, 0], np.stack([np.cos(angle), np.sin(angle), angle], 1) * 40])
    faces = np.array([[0, k + 1, (k + 1) % 11 + 1] for k in range(11)], np.int32)
    assert (rasterize(fan, faces, N, cull=False) >= 0).all()


def test_faces_without_an_area_and_outside_the_picture_are_not_seen() -> None:
    line = np.array([[1.0, 1, 0], [5, 5, 0], [9, 9, 0], [-9, -9, 0], [-3, -9, 0], [-9, -2, 0]])
    faces = np.array([[0, 1, 2], [3, 4, 5], [3, 5, 4]], np.int32)
    assert set(rasterize(line, faces, N, cull=False).tolist()) == {-1}
    far = line + np.array([N + 9, N + 9, 0])
    assert set(rasterize(far, faces, N, cull=False).tolist()) == {-1}


def model_of(points: NDArray[Any], texture: NDArray[np.uint8]) -> DrawnModel:
    chance = np.random.default_rng(9)
    return DrawnModel(
        positions=points.astype(np.float32),
        faces=np.zeros((0, 3), np.int32),
        normals=chance.uniform(-1, 1, points.shape).astype(np.float32),
        uvs=chance.uniform(-2, 3, (len(points), 2)).astype(np.float32),
        base_color=texture,
        is_textured=True,
        alpha_mode="OPAQUE",
        alpha_cutoff=0.5,
        double_sided=False,
    )


@pytest.mark.parametrize("size", [(3, 5), (1, 4), (4, 1), (8, 8)])
def test_colours_and_normals_between_corners_are_those_of_another_implementation(
    size: tuple[int, int],
) -> None:
    points, faces = soup(3)
    texture = np.random.default_rng(2).integers(0, 256, (*size, 4), np.uint8)
    model = model_of(points, texture)
    owner = rasterize(points, faces, N, cull=False)
    sample = np.flatnonzero(owner >= 0)
    color, normal = interpolate(model, points, faces[owner[sample]], sample, N)
    weights = np.array(
        [weights_at(points[faces[owner[each]]], each % N + 0.5, each // N + 0.5) for each in sample]
    )
    corners = faces[owner[sample]]
    assert normal == pytest.approx(
        np.einsum("sk,skc->sc", weights, model.normals[corners]), abs=1e-4
    )
    uv = np.einsum("sk,skc->sc", weights, model.uvs[corners])
    places = [uv[:, 1] * size[0] - 0.5, uv[:, 0] * size[1] - 0.5]
    wanted = np.stack(
        [
            map_coordinates(texture[..., k].astype(float), places, order=1, mode="grid-wrap")
            for k in range(4)
        ],
        -1,
    )
    assert color == pytest.approx(wanted, abs=0.05)


def test_a_texture_of_one_pixel_is_everywhere_the_same() -> None:
    points, faces = soup(3)
    model = model_of(points, np.uint8([[[1, 2, 3, 4]]]))
    sample = np.arange(4)
    color, _ = interpolate(model, points, faces[[0] * 4], sample, N)
    assert (color.dtype, color.tolist()) == (np.float32, [[1, 2, 3, 4]] * 4)
