"""Charts of a few faces, against texels and faces one at a time."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support import shapes
from trellis2_server.export import charts as module
from trellis2_server.export.adjacency import twins
from trellis2_server.export.charts import (
    Charts,
    build_charts,
    face_normals,
    flatten,
    project_charts,
    total_length,
)
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def bent(rows: int = 5, columns: int = 4) -> Mesh:
    """A sheet that no plane fits, with faces of different sizes."""

    def place(u: Floats, v: Floats) -> Floats:
        return np.stack([0.8 * u * u + 0.2 * v, v, 0.5 * np.sin(2 * u) * v], -1) * 0.6

    return shapes.grid(rows, columns, place, wraps=(False, False))


def whole(mesh: Mesh, *axis: float) -> Charts:
    """All faces as one chart."""
    unit = np.array([axis], np.float32) / np.float32(np.linalg.norm(axis))
    return project_charts(mesh, np.zeros(len(mesh.faces), np.int32), unit)


def corners(mesh: Mesh) -> Floats:
    return mesh.vertices[mesh.faces].astype(np.float64)


def crossed(mesh: Mesh) -> Floats:
    a, b, c = np.moveaxis(corners(mesh), 1, 0)
    return np.cross(b - a, c - a)


def test_normals_areas_and_lengths_are_those_of_the_faces() -> None:
    mesh = bent()
    mesh = Mesh(mesh.vertices, np.vstack([mesh.faces, [[2, 2, 7]], [[3, 9, 3]]]).astype(np.int32))
    normals, area = face_normals(mesh), np.linalg.norm(crossed(mesh), axis=1)
    np.testing.assert_allclose(normals[:, 3], area / 2, rtol=1e-5)
    np.testing.assert_allclose(normals[:-2, :3], crossed(mesh)[:-2] / area[:-2, None], atol=1e-5)
    assert not normals[-2:].any()
    sides = np.linalg.norm(corners(mesh) - np.roll(corners(mesh), -1, axis=1), axis=2)
    assert total_length(mesh) == pytest.approx(sides.max(axis=1).sum(), rel=1e-5)
    for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1]):
        turned = Mesh(mesh.vertices, np.ascontiguousarray(mesh.faces[:, order]))
        assert total_length(turned) == pytest.approx(total_length(mesh), rel=1e-6)


@pytest.mark.parametrize("count", [1, 40, 1500])
def test_faces_are_sorted_by_chart_in_their_order(count: int) -> None:
    chart = np.random.default_rng(count).integers(0, 7, count).astype(np.int32)
    order, first = module._faces_by_chart(chart)
    np.testing.assert_array_equal(order, np.argsort(chart, kind="stable"))
    np.testing.assert_array_equal(first, [0, *np.cumsum(np.bincount(chart))])


AXES = [
    axis for axis in product((-2.0, 0.0, 1.0), repeat=3) if any(axis)
]  # each component may be the smallest


@pytest.mark.parametrize("axis", AXES)
def test_a_projection_is_a_view_along_its_axis(axis: tuple[float, float, float]) -> None:
    mesh = bent()
    charts = whole(mesh, *axis)
    unit = charts.axes[0].astype(np.float64)
    space = mesh.vertices[charts.source].astype(np.float64)
    space -= (space @ unit)[:, None] * unit
    np.testing.assert_allclose(charts.flat @ charts.flat.T, space @ space.T, atol=1e-6)
    # Seen from where the axis points to: what faces it turns counter-clockwise.
    a, b, c = (charts.flat[charts.uv_faces[:, k]] for k in range(3))
    p, q = b - a, c - a
    twice = p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]
    np.testing.assert_allclose(twice, crossed(mesh) @ unit, atol=1e-6)


def test_each_chart_has_a_row_for_each_of_its_vertices() -> None:
    mesh = bent()
    chart = np.random.default_rng(1).integers(0, 3, len(mesh.faces)).astype(np.int32)
    axes = np.eye(3, dtype=np.float32)
    charts = project_charts(mesh, chart, axes)
    for number in range(3):
        rows = slice(charts.start[number], charts.start[number + 1])
        used = charts.uv_faces[chart == number]
        assert {*used.ravel().tolist()} == {*range(rows.start, rows.stop)}
        assert sorted(charts.source[rows]) == sorted({*mesh.faces[chart == number].ravel()})
    np.testing.assert_array_equal(charts.source[charts.uv_faces], mesh.faces)
    assert charts.start[0] == 0
    assert charts.start[-1] == len(charts.flat) == len(charts.source)


def covered(points: Floats, faces: NDArray[np.integer]) -> list[set[tuple[int, int]]]:
    """The texels whose centres each face contains; no centre lies on an edge."""
    texels: list[set[tuple[int, int]]] = []
    for a, b, c in points[faces]:
        low = np.floor(np.minimum(np.minimum(a, b), c)).astype(int)
        high = np.ceil(np.maximum(np.maximum(a, b), c)).astype(int)
        found: set[tuple[int, int]] = set()
        for x, y in product(range(low[0], high[0] + 1), range(low[1], high[1] + 1)):
            at = np.array([x + 0.5, y + 0.5])
            sides = [
                (q[0] - p[0]) * (at[1] - p[1]) - (q[1] - p[1]) * (at[0] - p[0])
                for p, q in ((a, b), (b, c), (c, a))
            ]
            if min(sides) > 0 or max(sides) < 0:
                found.add((x, y))
        texels.append(found)
    return texels


def overlapping(points: Floats, faces: NDArray[np.integer]) -> int:
    """The number of faces that cover texels of earlier ones."""
    taken: set[tuple[int, int]] = set()
    count = 0
    for texels in covered(points, faces):
        count += bool(texels & taken)
        taken |= texels
    return count


def test_a_group_is_one_chart_unless_faces_share_texels() -> None:
    """60 groups of three loose faces, of all sizes."""
    random = np.random.default_rng(4)
    groups = 60
    places = random.uniform(0, 1, (groups, 9, 3)) * random.uniform(2, 12, (groups, 1, 1))
    places[..., 2] = 0
    places[:, 3:6, 0] += random.uniform(0, 9, (groups, 1))
    places[:, 6:9, 1] += random.uniform(0, 9, (groups, 1))
    faces = np.arange(9, dtype=np.int32).reshape(-1, 3)
    parts: list[Mesh] = []
    axes = random.normal(size=(groups, 3))
    for place, axis in zip(places, axes, strict=True):
        part = Mesh(place, faces.copy())
        is_down = crossed(part)[:, 2] < 0
        part.faces[is_down] = part.faces[is_down][:, ::-1]
        parts.append(tilted(part, *axis))
    mesh = shapes.joined(*parts)
    group = np.repeat(np.arange(groups, dtype=np.int32), 3)
    twin = np.full(mesh.faces.size, -1, np.int32)
    charts = build_charts(mesh, twin, face_normals(mesh), group, 1.0, 64)
    shared: list[bool] = []
    for number, (part, axis) in enumerate(zip(parts, axes, strict=True)):
        flat = whole(part, *axis)
        overlaps = overlapping(flat.flat - flat.flat.min(axis=0) + 1.5, flat.uv_faces)
        shared.append(overlaps > 0)
        # Unconnected faces are charts of their own as soon as the group is split.
        own = charts.chart[3 * number : 3 * number + 3]
        assert len({*own.tolist()}) == (3 if overlaps else 1), number
    assert 10 < sum(shared) < 50


def test_faces_that_share_an_edge_share_no_texel_even_at_their_centres() -> None:
    """The corners of the grid are centres of texels."""
    mesh = shapes.grid(6, 7, lambda u, v: np.stack([5 * u, 6 * v, 0 * u], -1), wraps=(False,) * 2)
    twin, normals = twins(mesh.faces, len(mesh.vertices)), face_normals(mesh)
    group = np.zeros(len(mesh.faces), np.int32)
    charts = build_charts(mesh, twin, normals, group, 1.0, 16)
    assert charts.count == 1
    above = Mesh(mesh.vertices + np.float32([0, 0, 1]), mesh.faces)
    two = shapes.joined(mesh, above)
    group = np.zeros(len(two.faces), np.int32)
    twin = twins(two.faces, len(two.vertices))
    charts = build_charts(two, twin, face_normals(two), group, 1.0, 16)
    assert charts.count == 2
    assert charts.chart.tolist() == [0] * len(mesh.faces) + [1] * len(mesh.faces)


def grown(mesh: Mesh, group: NDArray[np.int32], density: float, side: int) -> NDArray[np.int32]:
    """The chart of each face, of groups whose faces overlap: grown face by face."""
    twin = twins(mesh.faces, len(mesh.vertices)).reshape(-1, 3)
    chart, count = np.full(len(mesh.faces), -1, np.int32), 0
    weighted = crossed(mesh)
    unit = weighted / np.linalg.norm(weighted, axis=1, keepdims=True)
    for number in range(int(group.max()) + 1):
        for seed in np.flatnonzero(group == number).tolist():
            if chart[seed] >= 0:
                continue
            members = [seed]
            for face in members:
                near = [h // 3 for h in twin[face].tolist() if h >= 0]
                members += [
                    g for g in near if group[g] == number and chart[g] < 0 and g not in members
                ]
            mean = weighted[members].sum(axis=0)
            mean /= np.linalg.norm(mean)
            best = members[int((unit[members] @ mean).argmax())]
            part = Mesh(mesh.vertices, np.ascontiguousarray(mesh.faces[members]))
            flat = whole(part, *mean)
            low, high = flat.flat.min(axis=0), flat.flat.max(axis=0)
            scale = min(density, (2 * side - 4) / (high - low).max())
            texels = covered((flat.flat - low) * scale + 1.5, flat.uv_faces)
            taken: set[tuple[int, int]] = set()
            queue, tried = [best], {best}
            for face in queue:
                own = texels[members.index(face)]
                if unit[face] @ mean <= 0.15 or own & taken:
                    continue
                taken |= own
                chart[face] = count
                near = [h // 3 for h in twin[face].tolist() if h >= 0]
                new = [g for g in near if g in members and g not in tried and chart[g] < 0]
                queue += new
                tried |= {*new}
            count += 1
    return chart


def tilted(mesh: Mesh, *axis: float) -> Mesh:
    """Turned, so that what was above lies along an axis."""
    unit = np.array(axis) / np.linalg.norm(axis)
    other = np.cross(unit, [0.3, 0.5, -0.4])
    other /= np.linalg.norm(other)
    turn = np.stack([other, np.cross(unit, other), unit])
    return Mesh((mesh.vertices @ turn).astype(np.float32), mesh.faces)


@pytest.mark.parametrize("density", [1.3, 9.0])
def test_groups_that_cover_themselves_are_cut_as_face_by_face(density: float) -> None:
    """Two spirals and a fold, each in another direction."""
    fold = Mesh(
        np.float32([[0, 0, 0], [0, 9, 0], [9, 0, 0], [9, 9, 0], [8.9, 0, 1.5], [8.9, 9, 1.5]]),
        np.array([[0, 2, 1], [1, 2, 3], [2, 4, 3], [3, 4, 5]], np.int32),
    )
    parts = [
        tilted(stair(1.7, 25), 1, -2, 0.5),
        tilted(fold, -1, 0.2, -0.4),
        tilted(stair(2.2, 30), -0.3, 0.8, 1.1),
    ]
    mesh = shapes.joined(*parts)
    sizes = [len(part.faces) for part in parts]
    group = np.repeat(np.arange(3, dtype=np.int32), sizes)
    twin = twins(mesh.faces, len(mesh.vertices))
    charts = build_charts(mesh, twin, face_normals(mesh), group, density, 32)
    expected = grown(mesh, group, density, 32)
    assert expected.max() >= 5
    np.testing.assert_array_equal(charts.chart, expected)


def test_groups_without_overlaps_are_projected_along_their_mean_normals() -> None:
    """With one that has overlaps between them, and one of a single face."""
    single = Mesh(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]], np.int32))
    parts = [
        tilted(bent(), 1, -2, 0.5), tilted(stair(1.7, 20), 1, 1, 0), single,
        tilted(bent(3, 6), -1, 0.4, -2), tilted(bent(2, 3), 0.1, -1, -0.2),
    ]  # fmt: skip
    mesh = shapes.joined(*parts)
    group = np.repeat(np.arange(5, dtype=np.int32), [len(part.faces) for part in parts])
    twin = twins(mesh.faces, len(mesh.vertices))
    charts = build_charts(mesh, twin, face_normals(mesh), group, 20.0, 64)
    for number in (0, 2, 3, 4):
        (chart,) = {*charts.chart[group == number].tolist()}
        mean = crossed(mesh)[group == number].sum(axis=0)
        np.testing.assert_allclose(charts.axes[chart], mean / np.linalg.norm(mean), atol=1e-5)
    assert len({*charts.chart[group == 1].tolist()}) > 1


def stair(turns: float, steps: int) -> Mesh:
    """A spiral ramp around the z axis, which covers itself after each turn."""

    def place(u: Floats, v: Floats) -> Floats:
        angle, radius = 2 * np.pi * turns * u, 4 + 6 * v
        height = 2 * turns * u + 0.6 * np.sin(5 * u + v)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], -1)

    mesh = shapes.grid(steps, 3, place, wraps=(False, False))
    up = crossed(mesh)[0, 2] > 0
    return mesh if up else Mesh(mesh.vertices, np.ascontiguousarray(mesh.faces[:, ::-1]))


@pytest.mark.parametrize("tilt", [0.0, 0.9])
def test_a_spiral_is_cut_where_it_would_cover_itself(tilt: float) -> None:
    mesh = stair(2.6, 60)
    turn = np.array(
        [[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]], np.float32
    )
    mesh = Mesh(mesh.vertices @ turn.T, mesh.faces)
    twin = twins(mesh.faces, len(mesh.vertices))
    group = np.zeros(len(mesh.faces), np.int32)
    charts = build_charts(mesh, twin, face_normals(mesh), group, 2.0, 64)
    assert 3 <= charts.count <= 8
    for number in range(charts.count):
        own = charts.chart == number
        start = charts.start[number]
        flat = 2 * charts.flat[start : charts.start[number + 1]]
        texels = covered(flat - flat.min(axis=0) + 1.5, charts.uv_faces[own] - start)
        most = sum(len(each) for each in texels)
        # The grid of the chart may lie a fraction of a texel aside.
        assert len(set[tuple[int, int]]().union(*texels)) >= 0.98 * most
        # Each is connected.
        seen, stack = set[int](), [int(np.flatnonzero(own)[0])]
        while stack:
            face = stack.pop()
            if face not in seen:
                seen.add(face)
                near = twin[3 * face : 3 * face + 3]
                stack += [int(h) // 3 for h in near if h >= 0 and own[h // 3]]
        assert len(seen) == own.sum()
    unit = charts.axes @ turn
    assert (unit[:, 2] > 0.8).all()


def test_faces_that_look_away_from_the_axis_are_charts_of_their_own() -> None:
    """A rim that hangs over."""
    places = np.float32([[0, 0, 0], [0, 9, 0], [9, 0, 0], [9, 9, 0], [8.9, 0, 1.5], [8.9, 9, 1.5]])
    faces = np.array([[0, 2, 1], [1, 2, 3], [2, 4, 3], [3, 4, 5]], np.int32)
    mesh = Mesh(places, faces)
    twin = twins(faces, len(places))
    charts = build_charts(mesh, twin, face_normals(mesh), np.zeros(4, np.int32), 1.0, 64)
    assert charts.chart[0] == charts.chart[1] != charts.chart[2] == charts.chart[3]


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
