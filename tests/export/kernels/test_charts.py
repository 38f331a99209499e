"""Charts of a few faces, against texels and faces one at a time."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support import shapes
from tests.support.flat_charts import bent, corners, covered, crossed, overlapping, whole
from trellis2_server.export import charts as module
from trellis2_server.export.adjacency import twins
from trellis2_server.export.charts import (
    build_charts,
    face_normals,
    project_charts,
    total_length,
)
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


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
