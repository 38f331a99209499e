"""The tree of boxes, against all of its faces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from trellis2_server.export.cancellation import call
from trellis2_server.export.kernels import trees
from trellis2_server.export.triangle_tree import TriangleTree
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Iterator


def triangles(seed: int, count: int, copies: int = 1) -> Mesh:
    """Small triangles in a box of 4 x 2 x 1; of each, as many as `copies`."""
    random = np.random.default_rng(seed)
    corners = random.uniform(0, (4, 2, 1), (count, 1, 3)) + random.uniform(-0.1, 0.1, (count, 3, 3))
    faces = np.tile(np.arange(3 * count, dtype=np.int32).reshape(-1, 3), (copies, 1))
    return Mesh(corners.reshape(-1, 3).astype(np.float32), faces)


def interleaved(x: int, y: int, z: int) -> int:
    return int(
        "".join(a + b + c for a, b, c in zip(*(f"{n:010b}" for n in (x, y, z)), strict=True)), 2
    )


def walk(tree: TriangleTree, node: int = 0, depth: int = 0) -> Iterator[tuple[int, int, range]]:
    """Yield each node below one, depth first, its depth and the rows of its faces."""
    if tree.left[node] >= 0:
        yield node, depth, range(tree.left[node], tree.right[node])
        return
    below = [list(walk(tree, child, depth + 1)) for child in (node + 1, -1 - tree.left[node])]
    yield node, depth, range(below[0][0][2].start, below[1][0][2].stop)
    for each in below:
        yield from each


def test_faces_are_on_a_curve_of_cells_of_a_cube() -> None:
    cells = np.random.default_rng(1).integers(0, 1024, (50, 3))
    cells[:4] = [(0, 0, 0), (1023, 1023, 1023), (1, 2, 4), (512, 256, 128)]
    low, scale = np.array([-3.0, 5.0, 0.5]), 64.0
    # The three corners are apart: the middle is in the cell.
    away = np.array([[3.0, 0, 0], [0, -2, 0], [-3, 2, 0]])
    vertices = (low + (cells[:, None] + 0.5) / scale + away).reshape(-1, 3)
    vertices = vertices.astype(np.float32)
    faces = np.arange(150, dtype=np.int32).reshape(-1, 3)
    codes = np.empty(50, np.int64)
    call(trees.morton_codes, 0, 50, vertices, faces, low, scale, codes)
    assert codes.tolist() == [interleaved(*cell) for cell in cells.tolist()]
    call(trees.morton_codes, 0, 50, vertices, faces, low - 100, scale, codes)
    assert set(codes.tolist()) == {2**30 - 1}
    call(trees.morton_codes, 0, 50, vertices, faces, low + 100, scale, codes)
    assert set(codes.tolist()) == {0}


@pytest.mark.parametrize(
    ("count", "copies"), [(1, 1), (4, 1), (5, 1), (150, 1), (3, 4), (7, 11), (2, 33)]
)
def test_each_box_is_that_of_the_faces_of_its_node(count: int, copies: int) -> None:
    mesh = triangles(count, count, copies)
    tree = TriangleTree(mesh)
    order = tree._order
    assert sorted(order.tolist()) == list(range(len(mesh.faces)))
    nodes = list(walk(tree))
    assert [node for node, *_ in nodes] == list(range(len(tree.left)))
    assert nodes[0][2] == range(len(order))
    boxes = {"as built": tree.boxes.copy()}
    moved = mesh.vertices * np.float32(-2)
    tree.move(moved)
    boxes["moved"] = tree.boxes
    for vertices, found in zip((mesh.vertices, moved), boxes.values(), strict=True):
        for node, _, rows in nodes:
            corners = vertices[mesh.faces[order[rows.start : rows.stop]]].reshape(-1, 3)
            assert found[node].tolist() == [*corners.min(axis=0), *corners.max(axis=0)]


@pytest.mark.parametrize(("count", "copies"), [(150, 1), (7, 11), (2, 33)])
def test_a_node_is_split_at_the_highest_bit_that_differs(count: int, copies: int) -> None:
    mesh = triangles(count, count, copies)
    tree = TriangleTree(mesh)
    low = mesh.vertices.min(axis=0).astype(np.float64)
    scale = 1024 / float((mesh.vertices.max(axis=0) - low).max())
    middles = mesh.vertices.astype(np.float64)[mesh.faces].mean(axis=1)
    cells = np.clip((middles - low) * scale, 0, 1023).astype(int)
    codes = [interleaved(*cells[face]) for face in tree._order.tolist()]
    assert codes == sorted(codes)
    rows_of = {node: rows for node, _, rows in walk(tree)}
    for node, rows in rows_of.items():
        if tree.left[node] >= 0:
            assert 1 <= len(rows) <= trees.LEAF
            continue
        assert len(rows) > trees.LEAF
        first, last = codes[rows.start], codes[rows.stop - 1]
        middle = rows_of[-1 - tree.left[node]].start
        assert rows_of[node + 1] == range(rows.start, middle)
        if first == last:
            assert middle == (rows.start + rows.stop) // 2
        else:
            bit = 1 << ((first ^ last).bit_length() - 1)
            assert all(not code & bit for code in codes[rows.start : middle])
            assert all(code & bit for code in codes[middle : rows.stop])


def test_gathered_triangles_are_a_corner_and_two_edges_in_the_order_of_leaves() -> None:
    mesh = triangles(3, 40)
    tree = TriangleTree(mesh)
    a, b, c = mesh.vertices[mesh.faces[tree._order]].swapaxes(0, 1)
    np.testing.assert_array_equal(
        tree.gather_triangles(), np.concatenate([a, b - a, c - a], axis=1)
    )
    tree.move(mesh.vertices + np.float32(1))
    np.testing.assert_allclose(tree.gather_triangles()[:, :3], a + 1, rtol=1e-6)
