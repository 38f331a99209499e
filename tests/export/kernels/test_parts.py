"""Neighbours, folds, parts and their measures, against loops over a few faces."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from trellis2_server.export.adjacency import twins
from trellis2_server.export.cancellation import call
from trellis2_server.export.kernels import parts as kernels
from trellis2_server.export.parts import Parts

if TYPE_CHECKING:
    from numpy.typing import NDArray


def ball(seed: int, turned: float = 0.5) -> tuple[NDArray[Any], NDArray[Any]]:
    """Two octahedra, some of whose faces are wound inward, in any order."""
    random = np.random.default_rng(seed)
    axes = np.concatenate([np.eye(3), -np.eye(3)]) * random.uniform(0.8, 1.2, (6, 1))
    one = np.array(
        [
            (0, 1, 2), (1, 3, 2), (3, 4, 2), (4, 0, 2), (1, 0, 5), (3, 1, 5), (4, 3, 5), (0, 4, 5),
        ]
    )  # fmt: skip
    faces = np.concatenate([one, one + 6]).astype(np.int32)
    vertices = np.concatenate([axes, 0.25 * axes + (3, 1, 2)])
    faces = np.array([np.roll(face, random.integers(3)) for face in random.permutation(faces)])
    flipped = random.random(len(faces)) < turned
    faces[flipped] = faces[flipped][:, ::-1]
    return vertices.astype(np.float32), faces.astype(np.int32)


def normals(vertices: NDArray[Any], faces: NDArray[Any]) -> NDArray[np.float64]:
    a, b, c = vertices.astype(np.float64)[faces].swapaxes(0, 1)
    return np.cross(b - a, c - a)


def edges(face: list[int]) -> list[tuple[int, int]]:
    return [(face[k], face[(k + 1) % 3]) for k in range(3)]


def expected_neighbours(faces: NDArray[Any]) -> dict[int, tuple[int, bool]]:
    """Return by half-edge the face beyond and whether it goes along the edge the other way."""
    found: dict[int, tuple[int, bool]] = {}
    rows = faces.tolist()
    for f, face in enumerate(rows):
        for k, edge in enumerate(edges(face)):
            others = [
                (g, edge not in edges(other))
                for g, other in enumerate(rows)
                if g != f and {*edge} <= {*other}
            ]
            if len(others) == 1:
                found[3 * f + k] = others[0]
    return found


@pytest.mark.parametrize("seed", range(3))
def test_faces_are_neighbours_across_edges_of_two(seed: int) -> None:
    vertices, faces = ball(seed)
    faces = faces[: -seed or None]  # with a hole
    twin = twins(faces, len(vertices))
    neighbour, is_consistent = np.empty(twin.size, np.int32), np.empty(twin.size, bool)
    call(kernels.find_neighbours, 0, len(faces), faces, twin, neighbour, is_consistent)
    wanted = expected_neighbours(faces)
    assert neighbour.tolist() == [wanted.get(h, (-1,))[0] for h in range(twin.size)]
    assert is_consistent.tolist() == [wanted.get(h, (-1, False))[1] for h in range(twin.size)]


@pytest.mark.parametrize("is_consistent", [True, False])
@pytest.mark.parametrize(
    ("degrees", "fold"), [(0, 0), (29, 0), (31, 1), (59, 1), (61, 2), (91, 2), (170, 2)]
)
def test_a_fold_is_sharper_than_30_and_than_60_degrees(
    degrees: float, fold: int, *, is_consistent: bool
) -> None:
    angle = np.radians(degrees)
    vertices = np.array(
        [(0, 0, 0), (0, 2, 0), (-1, 0.5, 0), (3 * np.cos(angle), 0.7, 3 * np.sin(angle))]
    )
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    vertices = (vertices @ turn).astype(np.float32)
    faces = np.array([(0, 1, 2), (1, 0, 3) if is_consistent else (0, 1, 3)], np.int32)
    neighbour = np.array([1, -1, -1, 0, -1, -1], np.int32)
    folds = np.full(6, 9, np.uint8)
    consistent = np.full(6, is_consistent)
    call(kernels.find_folds, 0, 2, vertices, faces, neighbour, consistent, folds)
    assert folds.tolist() == [fold, 0, 0, fold, 0, 0]


@pytest.mark.parametrize("seed", range(4))
def test_parts_are_numbered_wound_and_measured(seed: int) -> None:
    vertices, faces = ball(seed)
    faces = faces[: -(seed % 2) or None]  # with a hole
    found = Parts(vertices, faces, twins(faces, len(vertices)))
    # The first faces of the parts come in the order of their numbers.
    is_small = (faces >= 6).any(axis=1)
    labels = (is_small != is_small[0]).astype(int)
    assert found.count == 2
    assert found.labels.tolist() == labels.tolist()
    # Each part is star-shaped, with one of two middles.
    middles = np.where(is_small[:, None], (3, 1, 2), (0, 0, 0))
    looks_out = (normals(vertices, faces) * (vertices[faces[:, 0]] - middles)).sum(axis=1) > 0
    first = [looks_out[labels == part][0] for part in range(2)]
    assert found._flip.tolist() == [
        bool(out != first[part]) for out, part in zip(looks_out, labels, strict=True)
    ]
    for part in range(2):
        own = labels == part
        corners = vertices[faces[own]]
        assert found._is_open[part] == (len(corners) < 8)
        assert found._low[part].tolist() == corners.reshape(-1, 3).min(axis=0).tolist()
        assert found._high[part].tolist() == corners.reshape(-1, 3).max(axis=0).tolist()
        sign = np.where(found._flip[own], -1, 1)
        vectors = normals(vertices, faces[own])
        areas = np.linalg.norm(vectors, axis=1)
        away = corners.astype(np.float64) - vertices[faces[own][0, 0]]
        wanted = [
            areas[sign > 0].sum(),
            areas[sign < 0].sum(),
            (sign * (away[:, 0] * vectors).sum(axis=1)).sum(),
            *(areas[:, None] * away.sum(axis=1)).sum(axis=0),
            *(sign[:, None] * vectors).sum(axis=0),
            len(corners),
        ]
        assert found._sums[part] == pytest.approx(np.array(wanted), rel=1e-9, abs=1e-9)


def test_a_strip_that_cannot_be_wound_consistently_is_open() -> None:
    around = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    middle = np.stack([np.cos(around), np.sin(around), 0 * around], axis=1)
    up = np.stack([np.cos(around / 2), 0 * around, np.sin(around / 2)], axis=1)
    vertices = np.concatenate([middle - 0.2 * up, middle + 0.2 * up]).astype(np.float32)
    quads = [(i, i + 1, i + 13, i + 12) for i in range(11)] + [(11, 12, 0, 23)]
    faces = np.array([(q[0], q[k], q[k + 1]) for q in quads for k in (1, 2)], np.int32)
    for turn in (1, -1):
        found = Parts(vertices, faces[:, ::turn].copy(), twins(faces[:, ::turn], 24))
        assert found.count == 1
        assert found._is_open.tolist() == [True]


def paired(
    vertices: NDArray[Any], faces: NDArray[Any], half: NDArray[Any]
) -> dict[int, tuple[int, float]]:
    """Return the partner and the cosine of half-edges at one edge, the best pair first."""
    units = normals(vertices, faces)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    starts = faces.reshape(-1)[half]
    found: dict[int, tuple[int, float]] = {}
    pairs = [
        (float(units[one // 3] @ units[two // 3]) * (1 if starts[i] != starts[j] else -1), one, two)
        for i, one in enumerate(half.tolist())
        for j, two in enumerate(half.tolist())
        if i < j
    ]
    for cosine, one, two in sorted(pairs, reverse=True):
        if cosine > 0.5 and one not in found and two not in found:
            found |= {one: (two, cosine), two: (one, cosine)}
    return found


@pytest.mark.parametrize("seed", range(6))
def test_at_an_edge_of_many_faces_the_smoothest_are_paired_first(seed: int) -> None:
    random = np.random.default_rng(seed)
    counts = [int(random.integers(2, 8)), 16, 17]
    vertices, faces, half, first = [np.zeros((0, 3))], [], [], [0]
    for edge, count in enumerate(counts):
        base = sum(len(each) for each in vertices)
        angles = random.uniform(0, 2 * np.pi, count)
        tips = np.stack([np.cos(angles), np.sin(angles), random.uniform(0, 1, count)], axis=1)
        vertices.append(np.array([(0, 0, 0), (0, 0, 1), *tips]) + np.array([9 * edge, 0, 0]))
        for tip in range(count):
            corners = np.array([base, base + 1, base + 2 + tip])
            if random.random() < 0.5:
                corners = corners[[1, 0, 2]]
            turn = int(random.integers(3))
            half.append(3 * len(faces) + turn)
            faces.append(np.roll(corners, turn))
        first.append(len(half))
    points = np.concatenate(vertices).astype(np.float32)
    rows, halves = np.array(faces, np.int32), np.array(half, np.int64)
    partner, cosine = np.empty(len(half), np.int64), np.zeros(len(half))
    call(kernels.pair_smoothest, points, rows, halves, np.array(first), partner, cosine)
    wanted: dict[int, tuple[int, float]] = {}
    for low, high in pairwise(first):
        if high - low <= 16:
            wanted |= paired(points, rows, halves[low:high])
    assert partner.tolist() == [wanted.get(each, (-1,))[0] for each in half]
    assert cosine == pytest.approx(np.array([wanted.get(each, (-1, 0))[1] for each in half]))
