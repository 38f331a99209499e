"""Normals of a full surface and tangents, against loops over a few vertices."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from trellis2_server.export.adjacency import corner_lists
from trellis2_server.export.atlas import Atlas
from trellis2_server.export.cancellation import call
from trellis2_server.export.kernels import normals as kernels
from trellis2_server.export.normals import tangents
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]


def scattered(seed: int, count: int = 40) -> Mesh:
    """Faces between a few points, wound in any way, and a point that none of them uses."""
    random = np.random.default_rng(seed)
    faces = np.array([random.permutation(15)[:3] for _ in range(count)], np.int32)
    return Mesh(random.normal(size=(16, 3)).astype(np.float32), faces)


def hub(count: int, turned: int = 0) -> Mesh:
    """A flat fan around vertex 0, of which the first faces are wound the other way."""
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    rim = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1) * (1, 2, 0)
    vertices = np.concatenate([[(0, 0, 0.25)], rim]).astype(np.float32)
    faces = np.array([(0, 1 + i, 1 + (i + 1) % count) for i in range(count)], np.int32)
    faces[:turned] = faces[:turned][:, ::-1]
    return Mesh(vertices, faces)


def around(mesh: Mesh, vertex: int) -> list[tuple[int, int, int]]:
    """Return the faces at a vertex, which is first, in their order."""
    return [
        (face[k], face[(k + 1) % 3], face[(k + 2) % 3])
        for face in mesh.faces.tolist()
        for k in range(3)
        if face[k] == vertex
    ]


def some(fan: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Return the faces that are looked at: of many, not all."""
    return fan[:: 1 + len(fan) // 64]


def source_normal(mesh: Mesh, vertex: int) -> Floats:
    fan = around(mesh, vertex)
    if not fan:
        return np.zeros(3)
    points = mesh.vertices.astype(np.float64)
    areas = np.array(
        [np.cross(points[p] - points[v], points[q] - points[v]) for v, p, q in some(fan)]
    )
    largest = areas[(areas**2).sum(axis=1).argmax()]
    is_twisted = max(Counter(p for _, p, _ in fan).values()) > 1
    if is_twisted and len(fan) <= 64:
        areas = np.where((areas @ largest < 0)[:, None], -areas, areas)
    total = areas.sum(axis=0)
    if np.linalg.norm(total) <= 1e-3 * np.linalg.norm(largest):
        total = largest
    return total / max(np.linalg.norm(total), 1e-30)


def source_normals(mesh: Mesh) -> Floats:
    first, corners = corner_lists(mesh.faces, len(mesh.vertices))
    found = np.full((len(mesh.vertices), 3), 9, np.float32)
    count = len(found)
    call(kernels.source_normals, 0, count, mesh.vertices, mesh.faces, first, corners, found)
    return found


MESHES = {
    **{f"scattered {seed}": scattered(seed) for seed in range(4)},
    "few": scattered(7, 5),
    **{f"hub of {count}": hub(count) for count in (3, 63, 64, 65, 130)},
    "turned hub": hub(9, 4),
    "turned hub of 64": hub(64, 20),
    "turned hub of 65": hub(65, 20),
}


@pytest.mark.parametrize("name", MESHES)
def test_a_normal_is_that_of_the_faces_turned_to_the_largest(name: str) -> None:
    mesh = MESHES[name]
    found = source_normals(mesh)
    wanted = [source_normal(mesh, vertex) for vertex in range(len(mesh.vertices))]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_faces_that_cancel_out_leave_the_normal_of_the_largest() -> None:
    vertices = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, -1, 0)], np.float32)
    # On top of each other, wound differently, without a common edge at the vertex in one direction.
    mesh = Mesh(vertices, np.array([(0, 1, 2), (0, 2, 1)], np.int32))
    assert np.abs(source_normals(mesh)[:3]).tolist() == [[0, 0, 1]] * 3
    assert not source_normals(Mesh(0 * vertices, mesh.faces)).any()


@pytest.mark.parametrize("name", MESHES)
def test_a_smoothed_normal_is_the_mean_over_its_neighbours(name: str) -> None:
    mesh = MESHES[name]
    normals = source_normals(mesh).astype(np.float64)
    signs = np.random.default_rng(3).choice([-1, 1], (len(normals), 1))
    given = (normals * signs).astype(np.float32)
    first, corners = corner_lists(mesh.faces, len(normals))
    found = np.full((len(normals), 3), 9, np.float32)
    call(kernels.smooth_normals, 0, len(found), mesh.faces, first, corners, given, found)
    for vertex, own in enumerate(given.astype(np.float64)):
        total = own.copy()
        for _, *others in some(around(mesh, vertex)):
            for other in given[others].astype(np.float64):
                total += 0.5 * (own @ other) ** 5 * other
        length = np.linalg.norm(total)
        np.testing.assert_allclose(found[vertex], total / max(length, 1e-30), atol=1e-5)


def expected_tangent(mesh: Mesh, normals: Floats, atlas: Atlas, row: int) -> Floats:
    """As in Mikkelsen's thesis: of each face, weighted by its angle."""
    points, uv = mesh.vertices.astype(np.float64)[atlas.source], atlas.uv.astype(np.float64)
    normal = normals[atlas.source[row]].astype(np.float64)

    def flat(vector: Floats) -> Floats:
        return vector - (vector @ normal) * normal

    total, hand = np.zeros(3), 0.0
    for face in atlas.faces.tolist():
        if row not in face:
            continue
        k = face.index(row)
        p, q = face[(k + 1) % 3], face[(k + 2) % 3]
        one, two = points[p] - points[row], points[q] - points[row]
        matrix = np.array([uv[p] - uv[row], uv[q] - uv[row]])
        if np.linalg.det(matrix) == 0:
            continue
        along = flat(np.linalg.solve(matrix, np.array([one, two]))[0])
        if np.linalg.norm(along) < 1e-12:
            continue
        one, two = flat(one), flat(two)
        angle = np.arccos(np.clip(one @ two / np.linalg.norm(one) / np.linalg.norm(two), -1, 1))
        total += angle * along / np.linalg.norm(along)
        hand -= angle * np.sign(np.linalg.det(matrix))
    return np.array([*total / np.linalg.norm(total), 1 if hand >= 0 else -1])


@pytest.mark.parametrize("seed", range(4))
def test_a_tangent_is_the_mean_of_those_of_the_faces_by_their_angles(seed: int) -> None:
    random = np.random.default_rng(seed)
    mesh = scattered(seed, 12)
    source = random.permutation(np.repeat(np.arange(16), 2)).astype(np.int32)
    rows = np.array([[random.choice(np.flatnonzero(source == v)) for v in f] for f in mesh.faces])
    uv = random.uniform(0, 64, (32, 2)).astype(np.float32)
    uv[rows[0]] = [[0, 0], [1, 1], [2, 2]]  # without an area
    atlas = Atlas(uv, source, rows.astype(np.int32), np.zeros(12, np.int32), 64)
    normals = random.normal(size=(16, 3))
    normals = (normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32)
    found = tangents(mesh, normals, atlas)
    used = set(rows[1:].reshape(-1).tolist())
    for row in range(32):
        if row in used:
            wanted = expected_tangent(mesh, normals, atlas, row)
            np.testing.assert_allclose(found[row], wanted, atol=1e-4)
        else:  # any unit vector across the normal
            assert abs(found[row, :3] @ normals[source[row]]) < 1e-6
            assert np.linalg.norm(found[row, :3]) == pytest.approx(1, abs=1e-6)
            assert found[row, 3] == 1


@pytest.mark.parametrize("normal", [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, 0, -1), (0.6, 0, 0.8)])
def test_a_row_without_a_face_has_a_tangent_across_its_normal(
    normal: tuple[float, float, float],
) -> None:
    mesh = Mesh(np.zeros((4, 3), np.float32), np.array([[1, 2, 3]], np.int32))
    source = np.arange(4, dtype=np.int32)
    atlas = Atlas(np.zeros((4, 2), np.float32), source, mesh.faces, np.zeros(1, np.int32), 8)
    found = tangents(mesh, np.tile(np.float32(normal), (4, 1)), atlas)
    assert np.abs(found[:, :3] @ np.array(normal)).max() < 1e-6
    assert np.linalg.norm(found[:, :3], axis=1) == pytest.approx(np.ones(4))
