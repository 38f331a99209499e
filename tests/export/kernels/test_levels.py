"""Quadrics, targets and collapses of coarser levels, against loops over a few faces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

from trellis2_server.export.adjacency import corner_lists, twins
from trellis2_server.export.cancellation import call
from trellis2_server.export.kernels import levels as kernels

#: How weakly a vertex is held to its place on the finest level.
HOLD = 0.05

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]


class Case(NamedTuple):
    """A rough sheet with a seam, and the lists that loops take."""

    vertices: Floats
    faces: Floats
    rows: Floats
    uv: Floats
    first: Floats
    corners: Floats
    kinds: Floats
    quadrics: Floats


def case(seed: int, side: int = 6, fin: int = 0) -> Case:
    """Return a sheet of `side` squared vertices; a fin makes edges with three faces."""
    random = np.random.default_rng(seed)
    x, y = (each.reshape(-1) for each in np.mgrid[:side, :side].astype(float))
    heights = random.uniform(0, 0.4, side * side) * (random.random(side * side) < 0.5)
    vertices = np.stack([x, y, heights], axis=1) + random.normal(0, 0.12, (side * side, 3))
    quads = [(side * i + j) for i in range(side - 1) for j in range(side - 1)]
    faces = [f for q in quads for f in ((q, q + side, q + 1), (q + side, q + side + 1, q + 1))]
    faces = [np.roll(face, random.integers(3)).tolist() for face in random.permutation(faces)]
    middle = side // 2
    if fin:
        vertices = np.concatenate([vertices, [(2, 2, 2)]])
        faces.append([side * fin + 1, side * fin + 2, side * side])
    # Beyond the middle, faces have rows of their own.
    count = len(vertices)
    rows = [
        [v + count * (np.mean([x[w] for w in face if w < side * side]) > middle) for v in face]
        for face in faces
    ]
    uv = (
        8 * np.concatenate([vertices[:, :2], vertices[:, :2] + 9])
        + random.normal(0, 1.5, (2, 1))[np.repeat([0, 1], count)]
    )
    points, triangles = vertices.astype(np.float32), np.array(faces, np.int32)
    first, corners = corner_lists(triangles, count)
    kinds = np.zeros(count, np.uint8)
    call(kernels.mark_vertices, triangles, twins(triangles, count), kinds)
    quadrics = np.zeros((count, 10))
    weights = np.zeros(triangles.size, np.float32)
    call(
        kernels.sum_quadrics, 0, count, points, triangles, first, corners,
        np.ones(len(triangles), np.float32), weights, quadrics,
    )  # fmt: skip
    return Case(
        points, triangles, np.array(rows, np.int32), uv.astype(np.float32), first, corners, kinds,
        quadrics,
    )  # fmt: skip


def finest_of(given: Case) -> Floats:
    """Return other places of the same vertices, where they were on the finest level."""
    return (given.vertices + np.float32(0.8) * np.sin(given.vertices[:, ::-1])).astype(np.float32)


def fan(given: Case, v: int) -> list[list[int]]:
    """Return the faces of a vertex, in their order."""
    return [face for face in given.faces.tolist() if v in face]


def area(a: Floats, b: Floats, c: Floats) -> Floats:
    return np.cross(np.subtract(b, a, dtype=float), np.subtract(c, a, dtype=float))


@pytest.mark.parametrize("fin", [0, 2])
def test_vertices_at_open_edges_and_at_edges_of_three_faces_are_marked(fin: int) -> None:
    given = case(0, fin=fin)
    counts: dict[tuple[int, int], int] = {}
    for a, b, c in given.faces.tolist():
        for edge in ((a, b), (b, c), (c, a)):
            key = (min(edge), max(edge))
            counts[key] = counts.get(key, 0) + 1
    wanted = np.zeros(len(given.vertices), int)
    for edge, count in counts.items():
        bit = {1: kernels.BORDER, 2: 0, 3: kernels.NON_MANIFOLD}[count]
        wanted[list(edge)] |= bit
    assert given.kinds.tolist() == wanted.tolist()


def planes(
    given: Case, v: int, face_weights: Floats, weights: Floats
) -> list[tuple[Floats, Floats, float]]:
    """Return normal, point and weight of each plane that holds a vertex."""
    points = given.vertices.astype(np.float64)
    found: list[tuple[Floats, Floats, float]] = []
    for f, face in enumerate(given.faces.tolist()):
        if v not in face:
            continue
        normal = area(*points[face])
        size = np.linalg.norm(normal)
        found.append((normal / size, points[face[0]], 0.5 * size * face_weights[f]))
        for k in range(3):
            p, q = face[k], face[(k + 1) % 3]
            if v in (p, q) and weights[3 * f + k]:
                edge = points[q] - points[p]
                across = np.cross(edge, normal)
                weight = weights[3 * f + k] * (edge @ edge)
                found.append((across / np.linalg.norm(across), points[p], weight))
    return found


def test_an_error_is_the_sum_of_squared_distances_from_the_planes_of_both() -> None:
    given = case(1)
    weights = np.random.default_rng(1).choice([0, 0.1, 4], given.faces.size).astype(np.float32)
    of_faces = np.random.default_rng(3).uniform(0.02, 50, len(given.faces)).astype(np.float32)
    quadrics = np.zeros((len(given.vertices), 10))
    call(
        kernels.sum_quadrics, 0, len(quadrics), given.vertices, given.faces, given.first,
        given.corners, of_faces, weights, quadrics,
    )  # fmt: skip
    random = np.random.default_rng(2)
    for v in range(len(quadrics)):
        u, place = int(random.integers(len(quadrics))), random.normal(size=3)
        wanted = sum(
            weight * (normal @ (place - point)) ** 2
            for vertex in (v, u)
            for normal, point, weight in planes(given, vertex, of_faces, weights)
        )
        found = kernels.error_at(quadrics, v, u, *place)
        assert found == pytest.approx(wanted, rel=1e-6)
    assert kernels.error_at(np.full((1, 10), -1.0), 0, 0, 0.0, 0.0, 0.0) == 0


def moved(given: Case, v: int, u: int, row: int) -> int:
    """Return the row at u that takes the place of one at v; -1: the texture has a seam there."""
    for face, rows in zip(given.faces.tolist(), given.rows.tolist(), strict=True):
        if v in face and u in face and rows[face.index(v)] == row:
            return rows[face.index(u)]
    return -1


def best_place(given: Case, v: int, u: int) -> Floats:
    """Return the place of the least error of both, weakly held to that of u on the finest level."""
    q = given.quadrics[v] + given.quadrics[u]
    matrix = np.array([[q[0], q[1], q[2]], [q[1], q[4], q[5]], [q[2], q[5], q[7]]])
    start, at = finest_of(given)[u].astype(np.float64), given.vertices.astype(np.float64)
    slope = matrix @ start + q[[3, 6, 8]]
    place = start - np.linalg.solve(matrix + HOLD * np.trace(matrix) * np.eye(3), slope)
    edge = ((at[u] - at[v]) ** 2).sum()
    return place if ((place - at[u]) ** 2).sum() <= kernels.FARTHEST * edge else at[u]


def keeps_faces(given: Case, v: int, u: int, place: Floats) -> bool:
    """Return whether the faces of v but not of u look the same way with v at a place."""
    for face in fan(given, v):
        if u in face:
            continue
        k = face.index(v)
        b, c = face[(k + 1) % 3], face[(k + 2) % 3]
        old = area(*given.vertices[[v, b, c]])
        new = area(place, *given.vertices[[b, c]])
        if old @ new <= 0 or (old @ new) ** 2 < 0.1 * (old @ old) * (new @ new):
            return False
        if new @ new < 1e-4 * (old @ old):
            return False
    return True


def may_move(given: Case, level: int, v: int, u: int, place: Floats) -> bool:
    if level == 3:
        return True
    shared = sum(u in face for face in fan(given, v))
    if level == 0 and shared != (1 if given.kinds[v] & kernels.BORDER else 2):
        return False
    near = {w for face in fan(given, v) for w in face} - {u, v}
    seen = {w for face in fan(given, u) for w in face}
    if level < 2 and len(near & seen) != shared:
        return False
    if not (keeps_faces(given, v, u, place) and keeps_faces(given, u, v, place)):
        return False
    uv = given.uv.astype(float)
    for face, rows in zip(given.faces.tolist(), given.rows.tolist(), strict=True):
        if v not in face or u in face:
            continue
        k = face.index(v)
        row = moved(given, v, u, rows[k])
        if level == 0 and row >= 0:
            others = [rows[(k + 1) % 3], rows[(k + 2) % 3]]
            before, after = (np.linalg.det(uv[others] - uv[at]) for at in (rows[k], row))
            if before * after < 1e-4 * before * before:
                return False
    return True


def best_target(given: Case, level: int, v: int) -> tuple[int, float]:
    around = fan(given, v)
    if not around or (given.kinds[v] & kernels.NON_MANIFOLD and level == 0):
        return -1, np.inf
    found = (-1, np.inf)
    points = given.vertices.astype(np.float64)
    for u in sorted({w for face in around for w in face} - {v}):
        place = best_place(given, v, u)
        square = ((place - points[v]) ** 2).sum()
        cost = kernels.error_at(given.quadrics, v, u, *place) + 1e-6 * square * square
        for face, rows in zip(given.faces.tolist(), given.rows.tolist(), strict=True):
            if v in face and u not in face and moved(given, v, u, rows[face.index(v)]) < 0:
                cost += kernels.SHIFT * np.linalg.norm(area(*points[face])) * square
        if cost < found[1] and may_move(given, level, v, u, place):
            found = (u, cost)
    return found


def targets_of(given: Case, level: int) -> tuple[Floats, Floats, Floats]:
    """Return the target of each vertex, the place of both, and the cost."""
    count = len(given.vertices)
    targets, places, costs = np.full(count, 9, np.int32), np.zeros((count, 3)), np.zeros(count)
    call(
        kernels.find_targets, 0, count, level, HOLD, finest_of(given), given.vertices,
        given.quadrics, given.faces, given.rows, given.uv, given.first, given.corners,
        given.kinds, targets, places, costs,
    )  # fmt: skip
    return targets, places, costs


@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize(("seed", "fin"), [(1, 0), (2, 0), (3, 2)])
def test_a_vertex_becomes_the_cheapest_neighbour_that_it_may(
    seed: int, fin: int, level: int
) -> None:
    given = case(seed, fin=fin)
    targets, places, costs = targets_of(given, level)
    wanted = [best_target(given, level, v) for v in range(len(targets))]
    assert targets.tolist() == [target for target, _ in wanted]
    assert costs == pytest.approx(np.array([cost for _, cost in wanted]))
    for v in np.flatnonzero(targets >= 0).tolist():
        assert places[v] == pytest.approx(best_place(given, v, int(targets[v])), abs=1e-6)


@pytest.mark.parametrize(("around", "is_target"), [(48, True), (49, False)])
def test_a_vertex_of_too_many_faces_stays(around: int, *, is_target: bool) -> None:
    angles = np.linspace(0, 2 * np.pi, around, endpoint=False)
    rim = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    vertices = np.concatenate([[(0, 0, 0)], rim]).astype(np.float32)
    faces = np.array([(0, 1 + i, 1 + (i + 1) % around) for i in range(around)], np.int32)
    first, corners = corner_lists(faces, len(vertices))
    nothing, kinds = np.zeros((len(vertices), 10)), np.zeros(len(vertices), np.uint8)
    uv = np.ascontiguousarray(vertices[:, :2])
    given = Case(
        vertices, faces, faces, uv, first, corners, kinds, nothing,
    )  # fmt: skip
    assert (targets_of(given, 3)[0][0] >= 0) == is_target


@pytest.mark.parametrize("level", [0, 3])
@pytest.mark.parametrize("wanted", [1, 7, 1000])
def test_vertices_become_their_targets_but_not_beside_each_other(wanted: int, level: int) -> None:
    given = case(4)
    targets, places, costs = targets_of(given, level)
    order = np.argsort(costs, kind="stable")[: np.count_nonzero(targets >= 0)]
    faces, rows, quadrics = given.faces.copy(), given.rows.copy(), given.quadrics.copy()
    touched, vertices = np.zeros(len(targets), np.bool_), given.vertices.copy()
    removed = call(
        kernels.collapse_all, order, wanted, targets, places, vertices, faces, rows, given.first,
        given.corners, quadrics, touched,
    )  # fmt: skip
    expected = {
        f: (face, row)
        for f, (face, row) in enumerate(zip(given.faces.tolist(), given.rows.tolist(), strict=True))
    }
    sums, used, moved_to = given.quadrics.copy(), set(), given.vertices.copy()
    for v in order.tolist():
        u = int(targets[v])
        if len(given.faces) - len(expected) >= wanted:
            break
        if {v, u} & used:
            continue
        used |= {w for end in (v, u) for face in fan(given, end) for w in face}
        sums[u] += given.quadrics[v]
        moved_to[u] = places[v]
        for f, (face, row) in list(expected.items()):
            if v in face and u in face:
                del expected[f]
            elif v in face:
                k = face.index(v)
                row_at = moved(given, v, u, row[k])
                expected[f] = (
                    [u if w == v else w for w in face],
                    [*row[:k], row[k] if row_at < 0 else row_at, *row[k + 1 :]],
                )
    assert removed == len(given.faces) - len(expected)
    assert np.flatnonzero(faces[:, 0] >= 0).tolist() == sorted(expected)
    for f, (face, row) in expected.items():
        assert (faces[f].tolist(), rows[f].tolist()) == (face, row)
    np.testing.assert_allclose(quadrics, sums)
    np.testing.assert_array_equal(vertices, moved_to)
    assert set(np.flatnonzero(touched).tolist()) == used
