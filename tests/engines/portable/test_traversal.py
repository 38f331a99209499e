from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from trellis2_server.engines.portable import traversal  # noqa: E402

Tensor = Any


def grid(size: int = 8) -> traversal.Grid:
    return traversal.Grid(torch.tensor([size] * 3))


def rows(parts: Any) -> list[tuple[int, ...]]:
    """All voxels of all chunks, sorted."""
    return sorted(tuple(v) for voxels, _ in parts for v in voxels.tolist())


def test_keys_and_voxels_are_each_others_inverse() -> None:
    voxels = torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(5))
    made = traversal.Grid(torch.tensor([3, 4, 5]))
    keys = made.key(voxels)
    assert keys.tolist() == list(range(60))
    assert torch.equal(made.voxels(keys), voxels)


def test_a_line_passes_the_voxels_between_its_ends() -> None:
    lines = torch.tensor([[[0.5, 1.5, 2.5], [3.5, 1.5, 2.5]]], dtype=torch.float64)
    assert rows(traversal.passed(lines, grid())) == [(x, 1, 2) for x in range(4)]
    outside = torch.tensor([[[-3.0, 0.5, 0.5], [1.5, 0.5, 0.5]]], dtype=torch.float64)
    assert rows(traversal.passed(outside, grid())) == [(0, 0, 0), (1, 0, 0)]


def test_a_triangle_touches_the_voxels_of_its_plane() -> None:
    triangle = torch.tensor(
        [[[0.5, 0.5, 4.5], [2.4, 0.5, 4.5], [0.5, 2.4, 4.5]]], dtype=torch.float64
    )
    expected = [(0, 0, 4), (0, 1, 4), (0, 2, 4), (1, 0, 4), (1, 1, 4), (2, 0, 4)]
    assert rows(traversal.touched(triangle, grid())) == expected


def test_a_triangle_crosses_the_edges_of_the_grid_through_it() -> None:
    triangle = torch.tensor(
        [[[0.5, 0.5, 4.25], [3.0, 0.5, 4.25], [0.5, 3.0, 4.25]]], dtype=torch.float64
    )
    voxels, axis, points, owner = traversal.crossings(triangle, grid())
    found = sorted(zip(map(tuple, voxels.tolist()), axis.tolist(), strict=True))
    assert found == [((0, 0, 4), 2), ((0, 1, 4), 2), ((1, 0, 4), 2)]
    assert (points[:, 2] - 4.25).abs().max() < 1e-12
    assert owner.tolist() == [0] * 3


@pytest.mark.parametrize(
    ("z", "layer"), [(-0.001, None), (0.0, 0), (7.999, 7), (8.0, None)], ids=str
)
def test_edges_that_begin_at_the_border_of_the_grid_are_crossed(
    z: float, layer: int | None
) -> None:
    triangle = torch.tensor([[[0.5, 0.5, z], [3.0, 0.5, z], [0.5, 3.0, z]]], dtype=torch.float64)
    voxels, _, _, _ = traversal.crossings(triangle, grid())
    assert len(voxels) == (0 if layer is None else 3)
    assert set(voxels[:, 2].tolist()) <= {layer}


@pytest.mark.parametrize("axis", range(3))
def test_the_voxels_around_an_edge_are_its_own_and_three_beside_it(axis: int) -> None:
    made = traversal.Grid(torch.tensor([4, 5, 6]))
    voxels = torch.tensor([[1, 2, 3], [0, 0, 0]])
    found = made.voxels(made.around(voxels, torch.full((2,), axis))).view(4, 2, 3)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    for voxel, around in zip(voxels.tolist(), found.unbind(1), strict=True):
        expected = [list(voxel) for _ in range(4)]
        for at, (one, two) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
            expected[at][first] += one
            expected[at][second] += two
        assert around.tolist() == expected


COUNT = (5, 6, 4)
SHAPES = ["small", "large", "outside", "along axes", "needles"]


def triangles(kind: str) -> Tensor:
    """Triangles [F, 3, 3], in and beyond a grid of `COUNT` voxels."""
    random = torch.Generator().manual_seed(SHAPES.index(kind))

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=random, dtype=torch.float64)

    if kind == "small":
        return uniform(0, 4, 12, 1, 3) + uniform(0, 1, 12, 3, 3)
    if kind == "large":
        return uniform(0, 4, 12, 3, 3)
    if kind == "outside":
        return uniform(-4, 9, 16, 3, 3)
    corners = uniform(0.1, 3.9, 12, 3, 3)
    if kind == "along axes":  # each lies in a plane, or has an edge along an axis
        for at in range(12):
            corners[at, :, at % 3] = corners[at, 0, at % 3]
            if at >= 6:
                corners[at, 0] = corners[at, 1]
                corners[at, 0, at % 3] += 0.7
        return corners
    corners[:, 2] = (corners[:, 0] + corners[:, 1]) / 2 + uniform(-0.02, 0.02, 12, 3)
    return corners


def every_voxel() -> list[tuple[int, ...]]:
    return [tuple(v) for v in torch.cartesian_prod(*map(torch.arange, COUNT)).tolist()]


def overlaps(corners: Tensor, voxel: tuple[int, ...]) -> bool:
    """Whether no axis separates a triangle and a voxel: Akenine-Möller, thirteen axes."""
    at = corners - torch.tensor(voxel, dtype=torch.float64) - 0.5
    edges = at.roll(-1, 0) - at
    unit = torch.eye(3, dtype=torch.float64)
    axes = [*unit, torch.linalg.cross(edges[0], edges[1])]
    axes += [torch.linalg.cross(one, two) for one in unit for two in edges]
    for axis in axes:
        along, reach = at @ axis, axis.abs().sum() / 2
        if along.min() > reach or along.max() < -reach:
            return False
    return True


@pytest.mark.parametrize("chunk", [2**18, 3])
@pytest.mark.parametrize("kind", SHAPES)
def test_no_plane_separates_a_triangle_and_a_voxel_that_it_touches(
    kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traversal, "CHUNK_ROWS", chunk)
    corners = triangles(kind)
    expected = {
        (voxel, number)
        for number, one in enumerate(corners)
        for voxel in every_voxel()
        if overlaps(one, voxel)
    }
    found: list[tuple[tuple[int, ...], int]] = []
    for voxels, owner in traversal.touched(corners, traversal.Grid(torch.tensor(COUNT))):
        found += zip(map(tuple, voxels.tolist()), owner.tolist(), strict=True)
    assert len(found) == len(set(found))
    assert set(found) == expected


@pytest.mark.parametrize("chunk", [2**18, 3])
@pytest.mark.parametrize("kind", SHAPES)
def test_each_line_of_the_grid_through_a_triangle_crosses_it(
    kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines between voxels, inside of the grid."""
    monkeypatch.setattr(traversal, "CHUNK_ROWS", chunk)
    corners = triangles(kind)
    expected: dict[tuple[int, ...], list[float]] = {}
    for number, (a, b, c) in enumerate(corners):
        for axis in range(3):
            m, n = (axis + 1) % 3, (axis + 2) % 3
            sides = torch.stack([(b - a)[[m, n]], (c - a)[[m, n]]], 1)
            if sides.det().abs() < 1e-12:
                continue
            for x in range(1, COUNT[m]):
                for y in range(1, COUNT[n]):
                    at = torch.tensor([x, y], dtype=torch.float64) - a[[m, n]]
                    s, t = torch.linalg.solve(sides, at).tolist()
                    height = float(a[axis] + s * (b - a)[axis] + t * (c - a)[axis])
                    if min(s, t, 1 - s - t) > 0 and 0 <= height < COUNT[axis]:
                        voxel = [0, 0, 0]
                        voxel[m], voxel[n], voxel[axis] = x - 1, y - 1, int(height)
                        point = [0.0, 0.0, 0.0]
                        point[m], point[n], point[axis] = x, y, height
                        expected[(number, axis, *voxel)] = point
    voxels, axes, points, owner = traversal.crossings(corners, traversal.Grid(torch.tensor(COUNT)))
    keys = [
        (number, axis, *voxel)
        for number, axis, voxel in zip(owner.tolist(), axes.tolist(), voxels.tolist(), strict=True)
    ]
    assert len(keys) == len(set(keys))
    assert set(keys) == set(expected)
    for key, point in zip(keys, points.tolist(), strict=True):
        assert point == pytest.approx(expected[key], abs=1e-9)


@pytest.mark.parametrize("chunk", [2**18, 3])
@pytest.mark.parametrize("kind", SHAPES)
def test_a_line_has_a_length_in_each_voxel_that_it_passes(
    kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traversal, "CHUNK_ROWS", chunk)
    lines = triangles(kind)[:, :2]
    lines = torch.cat([lines, lines[:1, :1].expand(-1, 2, -1)])  # one without length
    expected: set[tuple[tuple[int, ...], int]] = set()
    for number, (start, end) in enumerate(lines.tolist()):
        for voxel in every_voxel():
            low, high = 0.0, 1.0
            for p, q, v in zip(start, end, voxel, strict=True):
                if p == q:
                    low, high = (low, high) if v <= p < v + 1 else (1.0, 0.0)
                else:
                    times = sorted([(v - p) / (q - p), (v + 1 - p) / (q - p)])
                    low, high = max(low, times[0]), min(high, times[1])
            if high - low > 1e-12 and start != end:
                expected.add((voxel, number))
    found: set[tuple[tuple[int, ...], int]] = set()
    for voxels, owner in traversal.passed(lines, traversal.Grid(torch.tensor(COUNT))):
        found |= {*zip(map(tuple, voxels.tolist()), owner.tolist(), strict=True)}
    assert found == expected
