from __future__ import annotations

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
    mask = torch.ones(mesh.num_faces, dtype=torch.bool)
    mask[0] = False
    mesh.remove_faces(mask)
    assert (mesh.num_vertices, mesh.num_faces) == (3, 1)
