"""Repeated faces, holes, normals and pairs, against loops over a few faces."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from trellis2_server.export import clean
from trellis2_server.export.adjacency import BOUNDARY, NON_MANIFOLD, corner_lists, twins
from trellis2_server.export.geometry import pair_rows, smooth_normals
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]

STEP = 0.001


@pytest.mark.parametrize("seed", range(3))
def test_of_faces_with_the_same_vertices_the_first_is_kept(seed: int) -> None:
    faces = np.random.default_rng(seed).integers(0, 7, (200, 3)).astype(np.int32)
    wanted: list[list[int]] = []
    seen: set[frozenset[int]] = set()
    for face in faces.tolist():
        key = frozenset(face)
        if len(key) == 3 and key not in seen:
            seen.add(key)
            wanted.append(face)
    assert clean.drop_repeated(faces, 7).tolist() == wanted


def test_unused_vertices_are_dropped_and_the_others_keep_their_order() -> None:
    vertices = np.arange(30, dtype=np.float32).reshape(10, 3)
    faces = np.array([(8, 1, 5), (5, 1, 3), (3, 8, 5)], np.int32)
    rows, renumbered = clean.drop_unused(vertices, faces)
    assert rows.tolist() == vertices[[1, 3, 5, 8]].tolist()
    assert renumbered.tolist() == [[3, 0, 2], [2, 0, 1], [1, 3, 2]]


def holed(*lengths: int, step: float = STEP) -> tuple[Floats, Floats, list[list[int]]]:
    """A ring of faces around each hole of so many edges; and the rims of the holes, in order."""
    vertices: list[tuple[float, float, float]] = []
    faces: list[tuple[int, int, int]] = []
    rims: list[list[int]] = []
    for number, length in enumerate(lengths):
        base = len(vertices)
        angles = 2 * np.pi * np.arange(length) / length
        radius = step / (2 * np.sin(np.pi / length))
        for size in (radius, 20 * radius):
            vertices += [(size * np.cos(a) + number, size * np.sin(a), 0.0) for a in angles]
        for i in range(length):
            j = (i + 1) % length
            faces += [
                (base + i, base + length + i, base + j),
                (base + j, base + length + i, base + length + j),
            ]
        rims.append([base + i for i in range(length)])
    return np.array(vertices, np.float32), np.array(faces, np.int32), rims


def closed(vertices: Floats, faces: Floats) -> tuple[Floats, list[list[int]]]:
    rim = np.flatnonzero(twins(faces, len(vertices)) == BOUNDARY)
    rows, found = clean._close_holes(vertices, faces, rim)
    np.testing.assert_array_equal(rows[: len(vertices)], vertices)
    np.testing.assert_array_equal(found[: len(faces)], faces)
    return rows[len(vertices) :], found[len(faces) :].tolist()


def test_small_holes_are_closed_by_fans_that_continue_the_surface() -> None:
    vertices, faces, rims = holed(3, 4, 29, 31)
    rows, found = closed(vertices, faces)
    # Three edges by one face, others by a fan; 31 edges of a thousandth are too long.
    np.testing.assert_allclose(rows, [(1, 0, 0), (2, 0, 0)], atol=1e-6)
    count = len(vertices)
    wanted = {tuple(np.roll(rims[0], -k)) for k in range(3)}
    assert tuple(found[0]) in wanted
    assert [face[2] for face in found[1:]] == [count] * 4 + [count + 1] * 29
    for rim, fan in ((rims[1], found[1:5]), (rims[2], found[5:])):
        edges = {(face[0], face[1]) for face in fan}
        assert edges == set(pairwise([*rim, rim[0]]))
    merged = np.concatenate([faces, np.array(found, np.int32)])
    twin = twins(merged, count + 2)
    starts = merged.reshape(-1)
    paired = np.flatnonzero(twin >= 0)
    assert (starts[paired] != starts[twin[paired]]).all()
    # Only the outer rims and the hole that is too large are open.
    assert np.count_nonzero(twin == BOUNDARY) == 3 + 4 + 29 + 2 * 31


@pytest.mark.parametrize(("step", "is_closed"), [(0.0099, True), (0.0101, False)])
def test_a_hole_is_closed_up_to_its_perimeter(step: float, *, is_closed: bool) -> None:
    vertices, faces, _ = holed(3, step=step)
    assert len(closed(vertices, faces)[1]) == is_closed


def test_what_is_no_simple_hole_stays_open() -> None:
    single = np.array([(0, 0, 0), (STEP, 0, 0), (0, STEP, 0)], np.float32)
    assert closed(single, np.array([(0, 1, 2)], np.int32))[1] == []
    # Two holes that meet at a vertex.
    vertices, faces, rims = holed(4, 5)
    merged = np.where(faces == rims[1][0], rims[0][0], faces).astype(np.int32)
    vertices[rims[1]] = vertices[rims[1]] - (1, 0, 0)
    assert closed(vertices, merged)[1] == []


def hub(count: int, seed: int) -> Floats:
    """Faces at vertex 0, in any order, some of which share an edge with one or two others."""
    random = np.random.default_rng(seed)
    rim = random.permutation(count) + 1
    faces = [(0, int(a), int(b)) for a, b in pairwise([*rim, rim[0]])]
    faces += [(0, int(rim[k]), count + 1 + k) for k in range(0, count, 9)]
    rolled = [np.roll(face, random.integers(3))[:: random.choice([-1, 1])] for face in faces]
    return random.permutation(np.array(rolled, np.int32))


@pytest.mark.parametrize("count", [3, 4, 5, 14, 60, 200])
def test_faces_around_a_vertex_are_paired_at_their_edges(count: int) -> None:
    faces = hub(count, count)
    vertex_count = int(faces.max()) + 1
    twin = twins(faces, vertex_count)
    edges = [frozenset((face[k], face[(k + 1) % 3])) for face in faces.tolist() for k in range(3)]
    for half, edge in enumerate(edges):
        others = [other for other, each in enumerate(edges) if each == edge and other != half]
        wanted = others[0] if len(others) == 1 else NON_MANIFOLD if others else BOUNDARY
        assert twin[half] == wanted
    first, corners = corner_lists(faces, vertex_count)
    flat = faces.reshape(-1)
    for vertex in range(vertex_count):
        own = corners[first[vertex] : first[vertex + 1]].tolist()
        assert own == np.flatnonzero(flat == vertex).tolist()


@pytest.mark.parametrize(("vertices", "faces"), [(5, 30), (3, 150), (40, 60)])
def test_pairs_of_vertex_and_row_are_numbered_ascending(vertices: int, faces: int) -> None:
    random = np.random.default_rng(faces)
    flat = random.integers(0, vertices, (faces, 3)).astype(np.int32)
    rows = random.integers(0, 9, (faces, 3)).astype(np.int32)
    wanted = sorted({*zip(flat.reshape(-1).tolist(), rows.reshape(-1).tolist(), strict=True)})
    found_vertices, found_rows, pairs = pair_rows(flat, rows, vertices)
    assert list(zip(found_vertices.tolist(), found_rows.tolist(), strict=True)) == wanted
    np.testing.assert_array_equal(found_vertices[pairs], flat)
    np.testing.assert_array_equal(found_rows[pairs], rows)


@pytest.mark.parametrize("seed", range(3))
def test_a_normal_is_the_mean_of_the_faces_by_their_angles(seed: int) -> None:
    random = np.random.default_rng(seed)
    faces = np.array([random.permutation(12)[:3] for _ in range(30)], np.int32)
    faces[:3] = [(12, 13, 14), (12, 14, 13), (15, 15, 16)]
    vertices = random.normal(size=(18, 3)).astype(np.float32)
    points = vertices.astype(np.float64)
    found = smooth_normals(Mesh(vertices, faces))
    for vertex in range(18):
        total, largest = np.zeros(3), np.array([0, 0, 1.0])
        most = 0.0
        for face in faces.tolist():
            if face.count(vertex) != 1:
                continue
            k = face.index(vertex)
            one, two = (points[face[(k + n) % 3]] - points[vertex] for n in (1, 2))
            area = np.cross(one, two)
            size = np.linalg.norm(area)
            if size < 1e-18:
                continue
            angle = np.arccos(one @ two / np.linalg.norm(one) / np.linalg.norm(two))
            total += angle * area / size
            if size > most * (1 + 1e-9):
                most, largest = size, area / size
        if np.linalg.norm(total) > 1e-3:
            largest = total / np.linalg.norm(total)
        np.testing.assert_allclose(found[vertex], largest, atol=1e-5)
