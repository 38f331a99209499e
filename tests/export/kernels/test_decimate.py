"""Decimation of small meshes: quadrics, queues and collapses against their definitions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support import shapes
from trellis2_server.export import decimate as module
from trellis2_server.export.decimate import _Decimation, decimate
from trellis2_server.mesh import Mesh

trimesh = pytest.importorskip("trimesh")

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def ball(level: int = 1, seed: int = 0) -> Mesh:
    """A closed mesh with bumps: no two edges cost the same."""
    made = trimesh.creation.icosphere(level)
    random = np.random.default_rng(seed)
    vertices = made.vertices * random.uniform(0.34, 0.4, (len(made.vertices), 1))
    return Mesh(vertices.astype(np.float32), made.faces.astype(np.int32))


def sheet(rows: int = 6, columns: int = 5) -> Mesh:
    def place(u: Floats, v: Floats) -> Floats:
        return np.stack([u, v + 0.1 * u * u, 0.2 * np.sin(5 * u) * np.cos(4 * v)], -1)

    return shapes.grid(rows, columns, place, wraps=(False, False))


def fins() -> Mesh:
    """Three sheets that share an edge, and a loose face."""
    random = np.random.default_rng(2)
    vertices = random.uniform(-0.5, 0.5, (10, 3)).astype(np.float32)
    faces = [[0, 1, 2], [1, 0, 3], [0, 1, 4], [2, 1, 5], [3, 0, 6], [7, 8, 9]]
    return Mesh(vertices, np.array(faces, np.int32))


MESHES = {"ball": ball, "sheet": sheet, "fins": fins}
SYMMETRIC = [[3, 4, 5], [4, 6, 7], [5, 7, 8]]


def quadric(row: NDArray[np.float32]) -> Floats:
    """Of a stored vertex, as a form over homogeneous coordinates, float64 [4, 4]."""
    row = row[:13].astype(np.float64)  # the others are set later
    out = np.empty((4, 4))
    out[:3, :3], out[:3, 3], out[3, :3], out[3, 3] = row[SYMMETRIC], row[9:12], row[9:12], row[12]
    shift = np.eye(4)
    shift[:3, 3] = -row[:3]
    return shift.T @ out @ shift


def plane(normal: Floats, point: Floats, weight: float) -> Floats:
    vector = np.append(normal, -normal @ point)
    return weight * np.outer(vector, vector)


def expected_quadrics(mesh: Mesh) -> Floats:
    """The planes of the faces at each vertex by area, and those that hold open edges."""
    out = np.zeros((len(mesh.vertices), 4, 4))
    places = mesh.vertices.astype(np.float64)
    uses: dict[frozenset[int], int] = {}
    for face in mesh.faces.tolist():
        for k in range(3):
            edge = frozenset((face[k], face[(k + 1) % 3]))
            uses[edge] = uses.get(edge, 0) + 1
    for face in mesh.faces.tolist():
        a, b, c = places[face]
        cross = np.cross(b - a, c - a)
        area = np.linalg.norm(cross) / 2
        normal = cross / (2 * area)
        for v in face:
            out[v] += plane(normal, places[v], area)
        for k in range(3):
            start, end = face[k], face[(k + 1) % 3]
            if uses[frozenset((start, end))] != 2:
                along = places[end] - places[start]
                across = np.cross(along, normal)
                across /= np.linalg.norm(across)
                for v in (start, end):
                    out[v] += plane(across, places[v], 4 * along @ along)
    return out


def queued(mesh: Mesh) -> _Decimation:
    work = _Decimation(mesh)
    work.enqueue()
    return work


@pytest.mark.parametrize("name", MESHES)
def test_a_vertex_has_the_quadrics_of_its_planes(name: str) -> None:
    mesh = MESHES[name]()
    work = queued(mesh)
    found = np.array([quadric(row) for row in work.vertices])
    np.testing.assert_allclose(found, expected_quadrics(mesh), atol=2e-5)
    np.testing.assert_array_equal(work.vertices[:, :3], mesh.vertices)


def best_merge(quadrics: Floats, places: Floats, v: int, u: int) -> tuple[float, Floats]:
    """The cost of merging two vertices, and where: the lowest point, pulled to the middle."""
    form = quadrics[v] + quadrics[u]
    middle, edge = (places[v] + places[u]) / 2, places[u] - places[v]
    trace = np.trace(form[:3, :3])
    step = -np.linalg.solve(
        form[:3, :3] / trace + 1e-4 * np.eye(3), (form[:3, :3] @ middle + form[:3, 3]) / trace
    )
    at = middle + step if step @ step <= 4 * edge @ edge else middle
    full = np.append(at, 1)
    return max(full @ form @ full, 0) + 1e-6 * trace * edge @ edge, at


@pytest.mark.parametrize("name", MESHES)
def test_each_vertex_is_queued_with_its_cheapest_edge(name: str) -> None:
    mesh = MESHES[name]()
    work, quadrics = queued(mesh), expected_quadrics(mesh)
    places = mesh.vertices.astype(np.float64)
    buckets = work._buckets[0]
    listed: dict[int, int] = {}
    for bucket in range(len(buckets)):
        v = int(buckets[bucket])
        while v >= 0:
            listed[v] = bucket
            v = int(work._after[v])
    assert sorted(listed) == [*range(len(places))]
    np.testing.assert_array_equal(
        work._counts[0], np.bincount([*listed.values()], minlength=len(buckets))
    )
    order: list[tuple[float, int]] = []
    for v in range(len(places)):
        near = {*mesh.faces[(mesh.faces == v).any(axis=1)].ravel().tolist()} - {v}
        costs = {u: best_merge(quadrics, places, v, u) for u in near}
        least = min(cost for cost, _ in costs.values())
        cost, at = costs[int(work._partner[v])]
        assert cost <= least * 1.01 + 1e-7
        np.testing.assert_allclose(work._target[v] + places[v], at, atol=2e-3)
        order.append((cost, listed[v]))
    # Eight buckets for each doubling, evenly spaced between powers of two.
    mantissa, exponent = np.frexp([cost for cost, _ in order])
    places_of = 8 * exponent + 16 * (mantissa - 0.5)
    offset = np.array([bucket for _, bucket in order]) - np.floor(places_of)
    is_exact = np.array([cost for cost, _ in order]) > 1e-6
    assert np.ptp(offset[is_exact], axis=0) <= 2


@pytest.mark.parametrize("name", ["ball", "sheet"])
def test_a_merged_vertex_has_the_quadrics_of_both(name: str) -> None:
    mesh = MESHES[name]()
    work = queued(mesh)
    before = expected_quadrics(mesh)
    removed = work.collapse(np.array([1]), 1023, 0)
    gone = np.flatnonzero(work._head < 0)
    (changed,) = np.flatnonzero(
        (work.vertices[:, :3] != mesh.vertices).any(axis=1) & (work._head >= 0)
    )
    assert len(gone) == 1
    faces = mesh.faces[(mesh.faces == gone[0]).any(axis=1)]
    assert changed in faces
    np.testing.assert_allclose(
        quadric(work.vertices[changed]), before[gone[0]] + before[changed], atol=5e-5
    )
    # The faces of both, but those between them, in the order of their corners.
    shared = ((mesh.faces == gone[0]).any(axis=1)) & ((mesh.faces == changed).any(axis=1))
    assert removed.tolist() == [shared.sum()]
    expected = np.where(mesh.faces == gone[0], changed, mesh.faces)[~shared]
    work.compact(drop_repeated_faces=False)
    np.testing.assert_array_equal(work.faces, expected)
    assert work._version[changed] == 1
    stays = np.setdiff1d(np.arange(len(mesh.vertices)), [*gone, changed])
    np.testing.assert_array_equal(work.vertices[stays, :3], mesh.vertices[stays])


@pytest.mark.parametrize("name", ["ball", "sheet"])
@pytest.mark.parametrize("budget", [6, 20])
def test_merging_keeps_the_sum_of_all_quadrics(name: str, budget: int) -> None:
    mesh = MESHES[name]()
    work = queued(mesh)
    before = expected_quadrics(mesh).sum(axis=0)
    removed = work.collapse(np.array([budget]), 1023, 0)
    assert budget <= removed[0] <= budget + 1
    left = [quadric(row) for row in work.vertices[work._head >= 0]]
    np.testing.assert_allclose(np.sum(left, axis=0), before, atol=5e-4)


@pytest.mark.parametrize("target", [60, 30, 12, 4])
@pytest.mark.parametrize("seed", range(3))
def test_a_ball_stays_closed_and_right_side_out(seed: int, target: int) -> None:
    mesh = ball(1, seed)
    small = decimate(mesh, target)
    assert target - 2 <= len(small.faces) <= target
    assert shapes.is_closed(small)
    uses, _ = shapes.edge_uses(small.faces)
    assert len(small.vertices) - len(uses) + len(small.faces) == 2
    assert len(np.unique(np.sort(small.faces, axis=1), axis=0)) == (len(small.faces) or 1)
    if target >= 30:
        middle = small.vertices[small.faces].mean(axis=1)
        a, b, c = (small.vertices[small.faces[:, k]] for k in range(3))
        assert ((np.cross(b - a, c - a) * middle).sum(axis=1) > 0).all()
        assert shapes.volume(small) == pytest.approx(shapes.volume(mesh), rel=0.12)


@pytest.mark.parametrize("shape", ["torus", "tetrahedra", "sheet", "fins"])
def test_what_is_connected_stays_so_as_long_as_it_can(shape: str) -> None:
    tall = trimesh.creation.icosphere(0)
    one = Mesh((tall.vertices * 0.2).astype(np.float32), tall.faces.astype(np.int32))
    mesh = {
        "torus": lambda: shapes.torus(8, 6),
        "tetrahedra": lambda: shapes.joined(one, Mesh(one.vertices + np.float32(0.5), one.faces)),
        "sheet": sheet,
        "fins": fins,
    }[shape]()
    least = {"torus": 30, "tetrahedra": 8, "sheet": 12, "fins": 4}[shape]
    small = decimate(mesh, least)
    assert len(small.faces) <= least
    before, _ = shapes.edge_uses(mesh.faces)
    after, _ = shapes.edge_uses(small.faces)
    euler = len(mesh.vertices) - len(before) + len(mesh.faces)
    if shape != "fins":
        assert len(small.vertices) - len(after) + len(small.faces) == euler
    if shape == "sheet":
        np.testing.assert_allclose(
            np.ptp(small.vertices, axis=0)[:2], np.ptp(mesh.vertices, axis=0)[:2], atol=0.02
        )
    parts = [len(trimesh.Trimesh(m.vertices, m.faces, process=False).split(only_watertight=False))
             for m in (mesh, small)]  # fmt: skip
    assert parts[0] == parts[1] or shape == "fins"


def test_a_flat_sheet_loses_nothing_of_its_shape() -> None:
    def place(u: Floats, v: Floats) -> Floats:
        return np.stack([u, 2 * v, 0.3 * u - 0.1 * v], -1)

    mesh = shapes.grid(7, 6, place, wraps=(False, False))
    small = decimate(mesh, 2)
    assert len(small.faces) == 2
    a, b, c = (small.vertices[small.faces[:, k]].astype(np.float64) for k in range(3))
    p, q, r = (mesh.vertices[mesh.faces[:, k]].astype(np.float64) for k in range(3))
    np.testing.assert_allclose(
        np.cross(b - a, c - a).sum(axis=0), np.cross(q - p, r - p).sum(axis=0), rtol=2e-3
    )


def test_a_mesh_is_split_into_the_cells_of_a_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CELL_VERTICES", 6)
    mesh = ball(2)
    work = _Decimation(mesh)
    work.split(1)
    side = round(float(np.sqrt(len(mesh.faces) / 36)))
    low, longest = mesh.vertices.min(axis=0), np.ptp(mesh.vertices, axis=0).max()
    cells = np.clip(((mesh.vertices - low) * (side / longest) + 0.75).astype(int), 0, side)
    number = (cells[:, 0] * (side + 1) + cells[:, 1]) * (side + 1) + cells[:, 2]
    order = np.argsort(number, kind="stable")
    np.testing.assert_array_equal(work.vertices[:, :3], mesh.vertices[order])
    _, counts = np.unique(number, return_counts=True)
    np.testing.assert_array_equal(work._first, [0, *np.cumsum(counts)])
    np.testing.assert_array_equal(work._cell, np.repeat(np.arange(len(counts)), counts))
    by_cell = np.argsort(number[mesh.faces[:, 0]], kind="stable")
    new = np.empty(len(order), np.int32)
    new[order] = np.arange(len(order))
    np.testing.assert_array_equal(work.faces, new[mesh.faces[by_cell]])
    work.enqueue()
    cell = work._cell
    crosses = (cell[work.faces] != cell[work.faces][:, :1]).any(axis=1)
    locked = np.zeros(len(order), bool)
    locked[work.faces[crosses]] = True
    np.testing.assert_array_equal(work.vertices[:, 13], locked)
    assert 0 < locked.sum() < len(locked)
    found = np.array([quadric(row) for row in work.vertices])
    np.testing.assert_allclose(found, expected_quadrics(mesh)[order], atol=2e-5)
    for number_of_cell, buckets in enumerate(work._buckets):
        for start in buckets.tolist():
            v = start
            while v >= 0:
                assert cell[v] == number_of_cell
                assert not locked[v]
                assert not locked[work._partner[v]]
                v = int(work._after[v])


@pytest.mark.parametrize("seed", range(2))
def test_cells_are_decimated_to_the_target_without_a_tear(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CELL_VERTICES", 12)
    monkeypatch.setattr(module, "_SAMPLE_CELLS", 2)
    mesh = ball(2, seed)
    small = decimate(mesh, 100, min_split_faces=60)
    assert 98 <= len(small.faces) <= 100
    assert shapes.is_closed(small)
    assert shapes.volume(small) == pytest.approx(shapes.volume(mesh), rel=0.05)
