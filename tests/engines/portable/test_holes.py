from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from trellis2_server.engines.portable import holes  # noqa: E402

Tensor = Any


def open_box() -> tuple[Tensor, Tensor]:
    """A cube without its top, and one triangle far away."""
    vertices = torch.tensor(
        [[x, y, z] for x in (0.0, 1.0) for y in (0.0, 1.0) for z in (0.0, 1.0)]
        + [[5.0, 5.0, 5.0], [6.0, 5.0, 5.0], [5.0, 7.0, 5.0]]
    )
    quads = [(0, 2, 6, 4), (0, 4, 5, 1), (2, 3, 7, 6), (0, 1, 3, 2), (4, 6, 7, 5)]
    faces = [t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))]
    return vertices, torch.tensor([*faces, (8, 9, 10)], dtype=torch.int32)


def test_small_boundary_loops_are_closed_with_the_winding_of_their_faces() -> None:
    mesh = holes.CuMesh()
    mesh.init(*open_box())
    assert (mesh.num_boundaries, mesh.num_boundary_loops) == (7, 2)
    mesh.fill_holes(max_hole_perimeter=4.1)
    vertices, faces = mesh.read()
    assert vertices[-1].tolist() == [0.5, 0.5, 1.0]
    assert len(faces) == 11 + 4
    directed = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).tolist()
    assert len({tuple(e) for e in directed}) == len(directed)
    assert mesh.num_boundary_loops == 1


def test_a_long_loop_is_one_loop() -> None:
    count = 1001
    angle = torch.arange(count) / count * 6.2831853
    ring = torch.stack([angle.cos(), angle.sin(), torch.zeros(count)], dim=1)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    vertices = torch.cat([ring[order], torch.tensor([[0.0, 0.0, 1.0]])])
    index_of_vertex = torch.argsort(order)
    faces = torch.stack(
        [index_of_vertex, index_of_vertex.roll(-1), torch.full((count,), count)], dim=1
    )
    mesh = holes.CuMesh()
    mesh.init(vertices, faces)
    assert mesh.num_boundary_loops == 1
    mesh.fill_holes(10.0)
    assert mesh.num_boundaries == 0


def test_simplify_reaches_its_target_and_remove_faces_drops_unused_vertices() -> None:
    angle = torch.linspace(0, 6.28, 60)
    grid = torch.cartesian_prod(angle.cos(), torch.linspace(0, 1, 60))
    vertices = torch.cat([grid, grid[:, :1] * grid[:, 1:]], dim=1)
    i = torch.cartesian_prod(torch.arange(59), torch.arange(59)) @ torch.tensor([60, 1])
    faces = torch.cat([torch.stack([i, i + 1, i + 60], 1), torch.stack([i + 1, i + 61, i + 60], 1)])
    mesh = holes.CuMesh()
    mesh.init(vertices, faces)
    mesh.simplify(500)
    assert 50 < mesh.num_faces <= 500
    simplified, low = mesh.num_faces, vertices.amin(0)
    edge = float((vertices.amax(0) - low).max())
    mesh.init(vertices, faces)
    counts = [len(mesh._merged(low, edge / cells)[1]) for cells in range(1, 60)]
    finest = next(n for n, count in enumerate(counts) if count > 500)
    assert simplified == counts[finest - 1]  # a grid with one more cell would be too fine
    mesh.simplify(500)
    mask = torch.ones(mesh.num_faces, dtype=torch.bool)
    mask[0] = False
    mesh.remove_faces(mask)
    assert (mesh.num_vertices, mesh.num_faces) == (3, 1)


def fan(*sides: int, size: float = 1.0) -> tuple[Tensor, Tensor]:
    """Cones without a base beside each other, with so many sides each."""
    vertices: list[list[float]] = []
    faces: list[list[int]] = []
    for number, count in enumerate(sides):
        first = len(vertices)
        angles = torch.arange(count) / count * 6.283185307179586
        for angle in angles.tolist():
            x, y = size * math.cos(angle), size * math.sin(angle)
            vertices.append([x + 10 * number, y, 0.0])
        vertices.append([10.0 * number, 0.0, 1.0])
        faces += [[first + k, first + (k + 1) % count, first + count] for k in range(count)]
    return torch.tensor(vertices), torch.tensor(faces, dtype=torch.int32)


@pytest.mark.parametrize("is_filled", [True, False])
def test_a_hole_is_closed_if_it_is_shorter_than_the_limit(*, is_filled: bool) -> None:
    mesh = holes.CuMesh()
    vertices, faces = fan(4)
    mesh.init(vertices, faces)
    perimeter = 4 * 2**0.5
    mesh.fill_holes(perimeter * (1.001 if is_filled else 0.999))
    assert mesh.num_faces == (8 if is_filled else 4)
    assert mesh.num_boundaries == (0 if is_filled else 4)


def test_a_hole_of_exactly_the_limit_stays() -> None:
    mesh = holes.CuMesh()
    mesh.init(*open_box())
    mesh.fill_holes(4.0)
    assert mesh.num_boundary_loops == 2


def test_each_hole_has_a_fan_around_its_middle() -> None:
    mesh = holes.CuMesh()
    vertices, faces = fan(3, 7, 5, 40)
    mesh.init(vertices, faces)
    assert mesh.num_boundary_loops == 4
    mesh.fill_holes(6.2)  # the last one is longer: 6.28
    found, triangles = mesh.read()
    assert torch.equal(found[: len(vertices)], vertices)
    assert torch.equal(triangles[: len(faces)], faces)
    assert triangles.dtype == faces.dtype
    assert torch.allclose(
        found[len(vertices) :], torch.tensor([[10.0 * k, 0, 0] for k in range(3)]), atol=1e-5
    )
    new = triangles[len(faces) :].tolist()
    assert len(new) == 3 + 7 + 5
    for a, b, middle in new:
        assert middle - len(vertices) == round(float(found[a, 0] / 10))
        edges = [tuple(face[[k, (k + 1) % 3]].tolist()) for face in faces for k in range(3)]
        assert (b, a) in edges  # the other way round
    assert mesh.num_boundary_loops == 1


def test_boundaries_that_touch_are_no_loops() -> None:
    """Two triangles that share a vertex, and one beside them."""
    vertices = torch.rand(8, 3)
    mesh = holes.CuMesh()
    mesh.init(vertices, torch.tensor([[0, 1, 2], [0, 3, 4], [5, 6, 7]]))
    assert mesh.num_boundaries == 9
    assert mesh.num_boundary_loops == 1
    mesh.fill_holes(100.0)
    assert mesh.num_faces == 6
    assert mesh.read()[1][3:, :2].sort(dim=0).values.tolist() == [[5, 5], [6, 6], [7, 7]]


def test_what_is_derived_is_computed_again_after_a_change() -> None:
    mesh = holes.CuMesh()
    mesh.init(*fan(3))
    assert mesh.num_boundary_loops == 1
    mesh.init(*fan(3, 4))
    assert (mesh.num_boundaries, mesh.num_boundary_loops) == (7, 2)
    mesh.remove_faces(torch.tensor([True, *[False] * 6]))
    assert mesh.num_faces == 6
    assert (mesh.num_boundaries, mesh.num_boundary_loops) == (4 + 4, 2)


@pytest.mark.parametrize("axis", range(3))
def test_simplifying_merges_vertices_of_a_cell_into_their_mean(axis: int) -> None:
    """Pairs that are close together, along each axis."""
    vertices = torch.zeros(8, 3)
    vertices[:, axis] = torch.tensor([0.0, 0.01, 1.0, 1.01, 2.0, 2.01, 3.0, 3.01])
    vertices[:, (axis + 1) % 3] = torch.tensor([0.0, 0, 1, 1, 0, 0, 1, 1])
    vertices[:, (axis + 2) % 3] = torch.tensor([0.0, 0, 0, 0, 2, 2, 2, 2])
    faces = torch.tensor([[0, 2, 4], [1, 3, 5], [0, 1, 2], [2, 4, 6], [5, 3, 7], [6, 7, 4]])
    mesh = holes.CuMesh()
    mesh.init(vertices, faces)
    mesh.simplify(6)
    assert torch.equal(mesh.read()[0], vertices)  # few enough
    merged, kept = mesh._merged(vertices.amin(0), 0.5)
    assert len(merged) == len(kept) == 4
    expected = vertices.view(4, 2, 3).mean(dim=1)
    corners = [(0, 1, 2), (0, 1, 2), (1, 2, 3), (2, 1, 3)]
    for face, wanted in zip(merged[kept], corners, strict=True):
        assert torch.allclose(face, expected[[*wanted]], atol=1e-6)
