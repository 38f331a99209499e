"""Rays from points of a surface and means over its faces, against loops over a few faces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from trellis2_server.export.adjacency import corner_lists
from trellis2_server.export.cancellation import call
from trellis2_server.export.kernels import occlusion as kernels
from trellis2_server.export.triangle_tree import TriangleTree
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]

LIFT = np.float32(1e-3)


def scattered(seed: int, count: int) -> Mesh:
    random = np.random.default_rng(seed)
    corners = random.uniform(-1, 1, (count, 1, 3)) + random.uniform(-0.6, 0.6, (count, 3, 3))
    faces = np.arange(3 * count, dtype=np.int32).reshape(-1, 3)
    return Mesh(corners.reshape(-1, 3).astype(np.float32), faces)


def unit(vectors: Floats) -> Floats:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def is_hit(mesh: Mesh, origin: Floats, direction: Floats) -> bool:
    a, b, c = mesh.vertices.astype(np.float64)[mesh.faces].swapaxes(0, 1)
    systems = np.stack([b - a, c - a, np.broadcast_to(-direction, a.shape)], axis=-1)
    s, t, distance = np.linalg.solve(systems, (origin - a)[..., None])[..., 0].T
    return bool(((np.minimum(np.minimum(s, t), 1 - s - t) >= 0) & (distance > 0)).any())


def frame(normal: Floats) -> Floats:
    """The basis of Duff and others around a unit vector, as rows."""
    x, y, z = normal
    sign = 1.0 if z >= 0 else -1.0
    a = -1 / (sign + z)
    return np.array(
        [
            (1 + sign * x * x * a, sign * x * y * a, -sign * x),
            (x * y * a, sign + y * y * a, -y),
            normal,
        ]
    )


def expected_openness(
    mesh: Mesh, point: Floats, normal: Floats, rays: Floats, number: int
) -> float:
    turned = (rays + np.array([number * 0.7548776662466927, number * 0.5698402909980532])) % 1
    flat, angle = np.sqrt(turned[:, 0]), 2 * np.pi * turned[:, 1]
    local = np.stack([flat * np.cos(angle), flat * np.sin(angle), np.sqrt(1 - flat**2)], axis=1)
    origin = point + LIFT * normal
    hits = [is_hit(mesh, origin, direction) for direction in local @ frame(normal)]
    return 1 - float(np.mean(hits))


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("count", [1, 5, 60])
def test_a_point_is_as_open_as_its_rays_hit_nothing(count: int, side: int) -> None:
    mesh = scattered(count, count)
    tree = TriangleTree(mesh)
    random = np.random.default_rng(2)
    points = random.uniform(-1.2, 1.2, (12, 3)).astype(np.float32)
    normals = unit(random.normal(size=(12, 3))).astype(np.float32)
    normals[3], normals[4], normals[5] = (0, 0, 1), (0, 0, -1), (0, 0, 0)
    rays = random.random((16, 2))
    chosen = random.permutation(12)[:9].astype(np.int64)
    before = np.where(np.arange(12) % 2, np.float32(0.5), np.float32(0))
    found = before.copy()
    call(
        kernels.trace_points, 0, 9, points, normals, np.float32(side), chosen, rays, tree.left,
        tree.right, tree.boxes, tree.gather_triangles(), LIFT, found,
    )  # fmt: skip
    wanted = before.astype(np.float64)
    for number in chosen.tolist():
        normal = side * normals[number].astype(np.float64)
        own = 1.0
        if normal.any():
            own = expected_openness(mesh, points[number].astype(np.float64), normal, rays, number)
        wanted[number] = max(own, wanted[number])
    assert found == pytest.approx(wanted)
    assert count == 1 or len(set(found.tolist())) > 3


def around(mesh: Mesh, vertex: int) -> list[int]:
    found = [f for f, face in enumerate(mesh.faces.tolist()) for v in face if v == vertex]
    return found[:: 1 + len(found) // 64]


def mean_around(
    mesh: Mesh, normals: Floats, values: Floats, face: int, vertices: list[int]
) -> float:
    total, weights = 1e-3 * values[face], 1e-3
    for vertex in vertices:
        for other in around(mesh, vertex):
            weight = max(0.0, float(normals[face] @ normals[other])) ** 4
            total, weights = total + weight * values[other], weights + weight
    return float(total / weights)


def bent(count: int) -> Mesh:
    """A cone of so many faces around vertex 0, and a face apart."""
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    rim = np.stack([np.cos(angles), np.sin(angles), 0.6 + 0.2 * np.sin(9 * angles)], axis=1)
    vertices = np.concatenate([[(0, 0, 0)], rim, [(5, 5, 5)]]).astype(np.float32)
    faces = [(0, 1 + i, 1 + (i + 1) % count) for i in range(count)]
    return Mesh(vertices, np.array([*faces, (1, 2, count + 1), (1, 1, 2)], np.int32))


@pytest.mark.parametrize("count", [5, 63, 64, 130])
def test_a_mean_is_over_the_faces_that_face_the_same_way(count: int) -> None:
    mesh = bent(count)
    first, corners = corner_lists(mesh.faces, len(mesh.vertices))
    faces = len(mesh.faces)
    points, normals = np.empty((2, faces, 3), np.float32)
    call(kernels.place_faces, 0, faces, mesh.vertices, mesh.faces, points, normals)
    exact = mesh.vertices.astype(np.float64)[mesh.faces]
    np.testing.assert_allclose(points, exact.mean(axis=1), atol=1e-6)
    areas = np.cross(exact[:, 1] - exact[:, 0], exact[:, 2] - exact[:, 0])
    np.testing.assert_allclose(normals[:-1], unit(areas[:-1]), atol=1e-6)
    assert normals[-1].tolist() == [0, 0, 0]
    values = np.random.default_rng(count).random(faces).astype(np.float32)
    smoothed, at_corners = np.empty(faces, np.float32), np.empty((faces, 3), np.float32)
    lists = mesh.faces, first, corners, normals, values
    call(kernels.smooth_faces, 0, faces, *lists, smoothed)
    call(kernels.spread_to_corners, 0, faces, *lists, at_corners)
    for face, vertices in enumerate(mesh.faces.tolist()):
        wanted = mean_around(mesh, normals, values, face, vertices)
        assert smoothed[face] == pytest.approx(wanted, rel=1e-4)
        for k in range(3):
            wanted = mean_around(mesh, normals, values, face, vertices[k : k + 1])
            assert at_corners[face, k] == pytest.approx(wanted, rel=1e-4)
    assert smoothed[-1] == pytest.approx(values[-1])


def test_areas_are_summed_and_long_edges_marked() -> None:
    mesh = scattered(4, 30)
    corners = mesh.vertices.astype(np.float64)[mesh.faces]
    areas = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    found = call(kernels.sum_areas, mesh.vertices, mesh.faces)
    assert found == pytest.approx(np.linalg.norm(areas, axis=1).sum())
    lengths = np.linalg.norm(corners - np.roll(corners, -1, axis=1), axis=2)
    limit = float(np.median(lengths))
    marks = np.full(30, 9, np.uint8)
    call(kernels.mark_long_edges, 0, 30, mesh.vertices, mesh.faces, limit, marks)
    assert marks.tolist() == ((lengths > limit) @ np.array([1, 2, 4])).tolist()
