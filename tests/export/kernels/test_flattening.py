"""Charts of a few faces are flattened as least squares and their faces want it."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support import shapes
from tests.support.flat_charts import bent, corners, overlapping, whole
from trellis2_server.export import charts as module
from trellis2_server.export.charts import (
    Charts,
    flatten,
)
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def plane_maps(mesh: Mesh, faces: NDArray[np.integer], flat: Floats) -> tuple[Floats, Floats]:
    """The Jacobian of each face's map from its plane into the chart [F, 2, 2], and its area."""
    space, at = corners(mesh), flat[faces]
    p, q = space[:, 1] - space[:, 0], space[:, 2] - space[:, 0]
    long = np.linalg.norm(p, axis=1)
    along = (p * q).sum(axis=1) / long
    up = np.linalg.norm(np.cross(p, q), axis=1) / long
    plane = np.stack([np.stack([long, along], 1), np.stack([0 * up, up], 1)], 1)
    moved = np.stack([at[:, 1] - at[:, 0], at[:, 2] - at[:, 0]], 2)
    return moved @ np.linalg.inv(plane), long * up / 2


def rotations(maps: Floats) -> Floats:
    """The nearest rotation of each Jacobian, by its singular values."""
    left, _, right = np.linalg.svd(maps)
    sign = np.sign(np.linalg.det(left @ right))
    left[:, :, 1] *= sign[:, None]
    return left @ right


def gradients(points: Floats, degree: int) -> Floats:
    """Of each monomial but the constant, [N, T, 2]."""
    x, y = points.T
    return np.stack(
        [
            np.stack([i * x ** max(i - 1, 0) * y**j, j * x**i * y ** max(j - 1, 0)], -1)
            for total in range(1, degree + 1)
            for j in range(total + 1)
            for i in (total - j,)
        ],
        axis=1,
    )


def fitted(mesh: Mesh, charts: Charts, iterations: int) -> Floats:
    """The rows of one chart displaced by the polynomials that distort its faces least."""
    flat, count = charts.flat, len(mesh.faces)
    degree = max([1, *(d for d in range(2, 7) if 3 * ((d + 1) * (d + 2) // 2 - 1) <= count)])
    low, high = flat.min(axis=0), flat.max(axis=0)
    half, middle = (high - low).max() / 2, (low + high) / 2
    sides = (high - low) / 2 / half
    maps, area = plane_maps(mesh, charts.uv_faces, flat)
    longest = np.linalg.norm(corners(mesh)[:, 1] - corners(mesh)[:, 0], axis=1)
    is_used = (2 * area > 1e-3 * longest**2) & (np.linalg.det(maps) > 0)
    maps, area = maps[is_used], area[is_used]
    centres = (flat[charts.uv_faces][is_used].mean(axis=1) - middle) / half
    slopes = gradients(centres, degree)  # [F, T, 2]
    through = np.einsum("ftk,fkl->ftl", slopes, maps)
    grid = np.array([*product(np.linspace(-1, 1, 9), repeat=2)]) * sides
    around = np.sqrt(2e-5 * area.sum()) * gradients(grid, degree)
    ridge = np.sqrt(1e-9 * area.sum()) * np.eye(slopes.shape[1])
    found = np.zeros((slopes.shape[1], 2))
    for _ in range(iterations):
        now = maps + np.einsum("tc,ftl->fcl", found, through)
        target = (rotations(now) - maps) * np.sqrt(area)[:, None, None]
        matrix = np.einsum("ftl,f->flt", through, np.sqrt(area)).reshape(-1, slopes.shape[1])
        matrix = np.vstack([matrix, np.moveaxis(around, 1, 2).reshape(-1, len(ridge)), ridge])
        right = np.zeros((len(matrix), 2))
        right[: 2 * len(maps)] = np.moveaxis(target, 1, 2).reshape(-1, 2)
        found = np.linalg.lstsq(matrix, right, rcond=None)[0]
    fine = np.array([*product(np.linspace(-1, 1, 17), repeat=2)]) * sides
    change = np.einsum("tc,ntl->ncl", found, gradients(fine, degree))
    worst = np.linalg.eigvalsh((change + np.swapaxes(change, 1, 2)) / 2).min()
    scale = min(1.0, -0.8 / worst) if worst < 0 else 1.0
    x, y = ((flat - middle) / half).T
    values = [x ** (t - j) * y**j for t in range(1, degree + 1) for j in range(t + 1)]
    return flat + scale * half * np.array(values).T @ found


@pytest.mark.parametrize(
    ("rows", "columns", "axis"),
    [(2, 2, (0, 0, 1)), (3, 4, (0.2, -0.5, 1)), (4, 5, (0, 0, 1)), (7, 6, (-0.3, 0.1, 1))],
)
@pytest.mark.parametrize("iterations", [1, 3])
def test_polynomials_are_those_that_distort_the_faces_least(
    rows: int,
    columns: int,
    axis: tuple[float, float, float],
    iterations: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The number of faces decides on the degree."""
    monkeypatch.setattr(module, "_ITERATIONS", iterations)
    monkeypatch.setattr(module, "_RELAXATIONS", 0)
    mesh = bent(rows, columns)
    charts = whole(mesh, *axis)
    expected = fitted(mesh, charts, iterations)
    flatten(mesh, charts, 50.0, 64)
    np.testing.assert_allclose(charts.flat, expected, atol=2e-5)


@pytest.mark.parametrize("factor", [1.0, 14.0])
def test_needles_and_folded_faces_do_not_count_and_maps_stay_one_to_one(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chart that is much too large would shrink beyond a point."""
    monkeypatch.setattr(module, "_RELAXATIONS", 0)
    mesh = bent(5, 5)
    faces = np.insert(mesh.faces, [3, 9], [[0, 1, 2], [6, 12, 7]], axis=0).astype(np.int32)
    vertices = mesh.vertices.copy()
    vertices[1] = (vertices[0] + vertices[2]) / 2 + np.float32([1e-5, 0, 0])
    mesh = Mesh(vertices, faces)
    charts = whole(mesh, 0.1, 0.1, 1)
    charts.flat[:] *= factor
    charts.flat[:, 0] += 0.2 * charts.flat[:, 1]
    expected = fitted(mesh, charts, 3)
    flatten(mesh, charts, 50.0, 64)
    np.testing.assert_allclose(charts.flat, expected, atol=2e-5 * factor)


def test_polynomials_are_fitted_to_samples_of_large_charts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_SAMPLES", 10)
    monkeypatch.setattr(module, "_RELAXATIONS", 0)
    monkeypatch.setattr(module, "_DEGREE", 1)
    mesh = bent(5, 6)  # 40 faces: every fifth
    charts = whole(mesh, 0, 0, 1)
    some = Mesh(mesh.vertices, np.ascontiguousarray(mesh.faces[::5]))
    sampled = Charts(
        charts.chart[::5], charts.axes, charts.flat.copy(), charts.source,
        np.ascontiguousarray(charts.uv_faces[::5]), charts.start,
    )  # fmt: skip
    expected = fitted(some, sampled, 3)
    flatten(mesh, charts, 50.0, 64)
    np.testing.assert_allclose(charts.flat, expected, atol=2e-5)


def relaxed(mesh: Mesh, charts: Charts, steps: int) -> Floats:
    """Local/global relaxation: each vertex goes where its rotated faces want it."""
    now, space = charts.flat.copy(), corners(mesh)
    for _ in range(steps):
        maps, _ = plane_maps(mesh, charts.uv_faces, now)
        turned = rotations(maps)
        wanted, weights = np.zeros_like(now), np.zeros(len(now))
        for face, points, turn in zip(charts.uv_faces, space, turned, strict=True):
            p, q = points[1] - points[0], points[2] - points[0]
            long = np.linalg.norm(p)
            along, up = p @ q / long, np.linalg.norm(np.cross(p, q)) / long
            plane = np.array([[0, 0], [long, 0], [along, up]]) @ turn.T
            for k in range(3):
                i, j, o = face[k], face[(k + 1) % 3], (k + 2) % 3
                r, s = points[k] - points[o], points[(k + 1) % 3] - points[o]
                cotangent = r @ s / np.linalg.norm(np.cross(r, s))
                weight = np.clip(cotangent, 0.05, 10)
                edge = plane[(k + 1) % 3] - plane[k]
                wanted[i] += weight * (now[j] - edge)
                wanted[j] += weight * (now[i] + edge)
                weights[[i, j]] += weight
        moved = wanted / weights[:, None]
        stays = np.zeros(len(now), bool)
        while True:
            a, b, c = (moved[charts.uv_faces[:, k]] for k in range(3))
            twice = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
            new = [*{*charts.uv_faces[twice <= 0].ravel().tolist()} - {*np.flatnonzero(stays)}]
            if not new:
                break
            stays[new] = True
            moved[new] = now[new]
        now = moved
    return now


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("axis", [(0, 0, 1), (0.3, -0.5, 1)])
def test_relaxation_moves_vertices_where_their_faces_want_them(
    axis: tuple[float, float, float], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ITERATIONS", 0)
    monkeypatch.setattr(module, "_RELAXATIONS", steps)
    mesh = bent()
    charts = whole(mesh, *axis)
    expected = relaxed(mesh, charts, steps)
    flatten(mesh, charts, 50.0, 64)
    np.testing.assert_allclose(charts.flat, expected, atol=1e-6)


@pytest.mark.parametrize("seed", [1, 4])
def test_faces_that_would_be_flipped_stay(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vertices of a crumpled sheet would move far."""
    monkeypatch.setattr(module, "_ITERATIONS", 0)
    monkeypatch.setattr(module, "_RELAXATIONS", 1)
    random = np.random.default_rng(seed)
    mesh = bent(4, 4)
    vertices = mesh.vertices.copy()
    vertices[:, 2] += random.uniform(0, 0.8, len(vertices)).astype(np.float32)
    mesh = Mesh(vertices, mesh.faces)
    charts = whole(mesh, 0, 0, 1)
    expected = relaxed(mesh, charts, 1)
    is_moved = (charts.flat != expected).any(axis=1)
    assert is_moved.any()
    assert not is_moved.all()
    flatten(mesh, charts, 50.0, 64)
    np.testing.assert_allclose(charts.flat, expected, atol=1e-6)


@pytest.mark.parametrize("height", [0.0, 0.12])
def test_a_chart_is_relaxed_unless_more_of_its_faces_would_overlap(
    height: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wavy ring, open at one place, is longer than its projection."""
    monkeypatch.setattr(module, "_ITERATIONS", 0)
    monkeypatch.setattr(module, "_RELAXATIONS", 12)

    def place(u: Floats, v: Floats) -> Floats:
        angle, radius = 2 * np.pi * 0.97 * u, 0.3 + 0.15 * v
        wave = height * np.sin(12 * angle)
        return np.stack([radius * np.sin(angle), radius * np.cos(angle), wave], -1)

    mesh = shapes.grid(50, 2, place, wraps=(False, False))
    charts = whole(mesh, 0, 0, 1)
    before, after = charts.flat.copy(), relaxed(mesh, charts, 12)
    density = 40.0
    overlaps = [
        overlapping((flat - flat.min(axis=0)) * density + 1.5, charts.uv_faces)
        for flat in (before, after)
    ]
    assert (overlaps[1] > overlaps[0]) == (height == 0.12)
    flatten(mesh, charts, density, 64)
    expected = before if overlaps[1] > overlaps[0] else after
    np.testing.assert_allclose(charts.flat, expected, atol=1e-6)


def test_flat_charts_stay_and_single_faces_too() -> None:
    mesh = shapes.grid(4, 5, lambda u, v: np.stack([u, v * v, 0 * u], -1), wraps=(False, False))
    for faces in (mesh.faces, mesh.faces[:1]):
        part = Mesh(mesh.vertices, np.ascontiguousarray(faces))
        charts = whole(part, 0, 0, 1)
        before = charts.flat.copy()
        flatten(part, charts, 50.0, 64)
        np.testing.assert_allclose(charts.flat, before, atol=1e-4)
