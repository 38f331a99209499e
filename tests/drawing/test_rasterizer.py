"""Both rasterizers, held against one that tests every sample of every face by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support.triangles import BOTH, LOOPS, N, soup, weights_at
from trellis2_server.drawing import rasterizer
from trellis2_server.drawing.rasterizer import rasterize

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.drawing import Loops


def nearest(
    points: NDArray[Any],
    faces: NDArray[np.int32],
    *,
    cull: bool,
    beyond: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
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
                is_behind = beyond is None or near < beyond[row * N + column] - 1e-9
                if weights.min() >= 0 and near > depth[row, column] and is_behind:
                    owner[row, column], depth[row, column] = number, near
    return owner.ravel(), depth.ravel()


@pytest.mark.parametrize("cull", [False, True])
@pytest.mark.parametrize("seed", range(5))
@LOOPS
def test_each_sample_belongs_to_the_nearest_face(loops: Loops, seed: int, *, cull: bool) -> None:
    points, faces = soup(seed)
    owner, depth = loops.rasterize(points, faces, N, cull=cull)
    assert (owner.dtype, depth.dtype) == (np.int32, np.float64)
    wanted, wanted_depth = nearest(points, faces, cull=cull)
    assert owner.tolist() == wanted.tolist()
    assert depth == pytest.approx(wanted_depth, abs=1e-9)


@pytest.mark.costly
@LOOPS
def test_behind_a_depth_only_what_is_farther_away_counts(loops: Loops) -> None:
    points, faces = soup(2, 20)
    beyond = np.full(N * N, np.inf)
    seen = 0
    for _ in range(4):
        owner, depth = loops.rasterize(points, faces, N, cull=False, beyond=beyond)
        wanted, _ = nearest(points, faces, cull=False, beyond=beyond)
        assert owner.tolist() == wanted.tolist()
        assert (depth < beyond)[owner >= 0].all()
        seen += (owner >= 0).any()
        beyond = depth
    assert seen == 4
    nothing, _ = loops.rasterize(points, faces, N, cull=False, beyond=np.full(N * N, -np.inf))
    assert (nothing == -1).all()


@pytest.mark.parametrize("cull", [False, True])
def test_the_compiled_rasterizer_returns_the_same_bits(*, cull: bool) -> None:
    points, faces = soup(7, 300)
    first, second = (each.rasterize(points, faces, N, cull=cull) for each in BOTH)
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1].tobytes() == second[1].tobytes()


def test_the_size_of_a_batch_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points, faces = soup(1, 60)
    whole, _ = rasterize(points, faces, N, cull=False)
    assert len(set(whole.tolist())) > 8
    for size in (1, 7, 100, 1000):
        monkeypatch.setattr(rasterizer, "BATCH_SAMPLES", size)
        assert rasterize(points, faces, N, cull=False)[0].tolist() == whole.tolist()


def test_batches_are_as_large_as_they_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rasterizer, "BATCH_SAMPLES", 10)
    batches = list(rasterizer._batches(np.array([4, 6, 1, 9, 1, 25, 3, 3, 3])))
    assert batches == [(0, 2), (2, 4), (4, 5), (5, 6), (6, 9)]
    assert list(rasterizer._batches(np.zeros(0, np.int64))) == []


@LOOPS
def test_of_equally_near_faces_the_first_one_is_seen(loops: Loops) -> None:
    points = np.array([[0.0, 0, 0], [N, 0, 0], [0, N, 0]])
    faces = np.array([[0, 1, 2], [1, 2, 0], [2, 0, 1]], np.int32)
    assert set(loops.rasterize(points, faces, N, cull=False)[0].tolist()) == {-1, 0}


@LOOPS
def test_faces_that_share_an_edge_leave_no_sample_between_them(loops: Loops) -> None:
    """Also where the edge goes through the samples themselves."""
    corners = np.array([[0.0, 0, 0], [N, 0, 0], [N, N, 0], [0, N, 0]])
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    owner = loops.rasterize(corners, faces, N, cull=False)[0].reshape(N, N)
    assert (owner >= 0).all()
    assert np.triu(owner == 0, 1).sum() == np.tril(owner == 1, -1).sum() == N * (N - 1) / 2
    angle = np.linspace(0, 2 * np.pi, 12)[:-1]
    fan = np.vstack([[11.3, 12.1, 0], np.stack([np.cos(angle), np.sin(angle), angle], 1) * 40])
    faces = np.array([[0, k + 1, (k + 1) % 11 + 1] for k in range(11)], np.int32)
    assert (loops.rasterize(fan, faces, N, cull=False)[0] >= 0).all()


@LOOPS
def test_faces_without_an_area_and_outside_the_picture_are_not_seen(loops: Loops) -> None:
    line = np.array([[1.0, 1, 0], [5, 5, 0], [9, 9, 0], [-9, -9, 0], [-3, -9, 0], [-9, -2, 0]])
    faces = np.array([[0, 1, 2], [3, 4, 5], [3, 5, 4]], np.int32)
    assert set(loops.rasterize(line, faces, N, cull=False)[0].tolist()) == {-1}
    far = line + np.array([N + 9, N + 9, 0])
    assert set(loops.rasterize(far, faces, N, cull=False)[0].tolist()) == {-1}
