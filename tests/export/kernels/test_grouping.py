"""Groups of faces, against loops that look at one face or pair at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from trellis2_server.export.adjacency import twins
from trellis2_server.export.cancellation import call
from trellis2_server.export.charts import face_normals
from trellis2_server.export.grouping import DIRECTIONS
from trellis2_server.export.kernels import grouping as kernels
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]


def bumpy(seed: int, side: int = 7) -> Mesh:
    """A rough sheet with holes."""
    random = np.random.default_rng(seed)
    x, y = (each.reshape(-1) for each in np.mgrid[:side, :side].astype(float))
    vertices = np.stack([x, y, random.uniform(0, 1.2, side * side)], axis=1)
    quads = [side * i + j for i in range(side - 1) for j in range(side - 1)]
    faces = [f for q in quads for f in ((q, q + side, q + 1), (q + side, q + side + 1, q + 1))]
    kept = random.permutation(np.array(faces, np.int32))[: len(faces) - 6]
    return Mesh(vertices.astype(np.float32), np.ascontiguousarray(kept))


def neighbours(twin: Floats, face: int) -> list[int]:
    """Return the faces beyond the edges, -1: none."""
    return [int(h) // 3 if h >= 0 else -1 for h in twin[3 * face : 3 * face + 3]]


@pytest.mark.parametrize("seed", range(3))
def test_a_face_has_the_direction_that_it_and_its_neighbours_fit_best(seed: int) -> None:
    mesh = bumpy(seed)
    twin, normals = twins(mesh.faces, len(mesh.vertices)), face_normals(mesh)
    count = len(mesh.faces)
    label = np.full(count, -1, np.int32)
    call(kernels.assign_directions, 0, count, normals, DIRECTIONS, label)
    scores = normals[:, :3] @ DIRECTIONS.T
    assert label.tolist() == scores.argmax(axis=1).tolist()
    smoothed = label.copy()
    call(kernels.smooth_labels, 0, count, normals, DIRECTIONS, twin, label, smoothed)
    for face in range(count):
        beyond = [label[g] for g in neighbours(twin, face) if g >= 0]
        found = {
            int(w): float(scores[face, w]) + 0.16 * beyond.count(w) for w in {*beyond, label[face]}
        }
        assert found[int(smoothed[face])] == pytest.approx(max(found.values()), abs=1e-6)
    assert (smoothed != label).any()


@pytest.mark.parametrize("seed", range(3))
def test_faces_of_a_label_that_are_connected_are_a_group(seed: int) -> None:
    mesh = bumpy(seed)
    twin = twins(mesh.faces, len(mesh.vertices))
    count = len(mesh.faces)
    label = np.random.default_rng(seed).integers(0, 2, count).astype(np.int32)
    group, stack = np.full(count, 7, np.int32), np.empty(count, np.int32)
    found = call(kernels.connected_components, twin, label, group, stack)
    wanted = list(range(count))
    for _ in range(count):  # the smallest number spreads
        for face in range(count):
            for other in neighbours(twin, face):
                if other >= 0 and label[other] == label[face]:
                    wanted[face] = min(wanted[face], wanted[other])
    numbers = {first: number for number, first in enumerate(sorted(set(wanted)))}
    assert found == len(numbers)
    assert group.tolist() == [numbers[first] for first in wanted]
    half = np.full(3 * count, -9, np.int32)
    borders = call(kernels.list_borders, twin, group, half)
    assert half[:borders].tolist() == [
        h for h, t in enumerate(twin.tolist()) if t > h and group[t // 3] != group[h // 3]
    ]
    assert (half[borders:] == -9).all()


def sums_of(normals: Floats, group: Floats, count: int) -> Floats:
    sums = np.zeros((count, 10))
    call(kernels.sum_group_normals, normals, group, sums)
    return sums


def test_the_normals_of_a_group_are_summed_by_area() -> None:
    mesh = bumpy(1)
    normals = face_normals(mesh)
    group = np.random.default_rng(1).integers(0, 4, len(normals)).astype(np.int32)
    sums = sums_of(normals, group, 4)
    for number in range(4):
        own = normals[group == number].astype(np.float64)
        weighted = own[:, 3:] * own[:, :3]
        products = np.einsum("fa,fb->ab", weighted, own[:, :3])
        upper = products[np.triu_indices(3)]
        assert sums[number] == pytest.approx([own[:, 3].sum(), *weighted.sum(axis=0), *upper])


@pytest.mark.parametrize(("seed", "limit"), [(1, 0.02), (2, 0.1), (3, 0.3), (4, 1.0)])
def test_groups_are_merged_in_order_while_their_normals_agree(seed: int, limit: float) -> None:
    random = np.random.default_rng(seed)
    count = 14
    means = random.normal((0, 0, 1), 1, (count, 3))
    group = np.repeat(np.arange(count), 5).astype(np.int32)
    vectors = means[group] + random.normal(0, 0.2, (5 * count, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    areas = random.uniform(0.1, 1, (5 * count, 1)) * random.choice([0.01, 1], (count, 1))[group]
    areas[group == 3] = 0
    normals = np.concatenate([vectors, areas], axis=1).astype(np.float32)
    sums = sums_of(normals, group, count)
    low, high = random.integers(0, count, (2, 40)).astype(np.int32)
    small, limit_small = 0.5, 3 * limit
    parent = np.arange(count, dtype=np.int32)
    members = {number: {number} for number in range(count)}
    exact = normals.astype(np.float64)

    def fits(one: set[int], two: set[int]) -> bool:
        own = exact[np.isin(group, [*one, *two])]
        area = own[:, 3].sum()
        if area == 0:
            return True
        total = (own[:, 3:] * own[:, :3]).sum(axis=0)
        if np.linalg.norm(total) < 0.5 * area:
            return False
        spread = own[:, 3] @ (own[:, :3] @ (total / np.linalg.norm(total))) ** 2
        least = min(exact[np.isin(group, [*each]), 3].sum() for each in (one, two))
        return 1 - spread / area <= (limit_small if least < small else limit)

    wanted = 0
    for a, b in zip(low.tolist(), high.tolist(), strict=True):
        one, two = members[a], members[b]
        if one is not two and fits(one, two):
            both = one | two
            members |= dict.fromkeys(both, both)
            wanted += 1
    merged = call(kernels.merge_groups, low, high, sums, parent, limit, limit_small, small)
    assert merged == wanted
    assert parent.tolist() == [min(members[number]) for number in range(count)]
    for number in set(parent.tolist()):
        own = exact[np.isin(group, [*members[number]]), 3]
        assert sums[number, 0] == pytest.approx(own.sum())
