from __future__ import annotations

import numpy as np

from trellis2_server.export.outlines import chart_rims, outlined_cells, outlines


def test_the_rim_of_a_chart_is_where_no_face_of_the_chart_follows() -> None:
    # Two triangles that share half-edges 2 and 3.
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    twin = np.array([-1, -1, 3, 2, -1, -1], np.int32)
    edges, owner = chart_rims(faces, np.array([0, 0], np.int32), twin)
    assert edges.tolist() == [[0, 1], [1, 2], [2, 3], [3, 0]]
    assert owner.tolist() == [0] * 4
    _, owner = chart_rims(faces, np.array([0, 1], np.int32), twin)
    assert owner.tolist() == [0] * 3 + [1] * 3


def test_the_outline_of_a_triangle_is_its_first_and_last_cells() -> None:
    flat = np.array([[0, 0], [3.5, 0], [0, 3.5]])
    edges = np.array([[0, 1], [1, 2], [2, 0]], np.int32)
    cells = np.array([[4, 4]], np.int64)
    first, low, high = outlines(flat, edges, np.zeros(3, np.int32), 1.0, 0, cells)
    assert first.tolist() == [0, 8]
    assert low.tolist() == [0] * 8
    assert high.tolist() == [3, 2, 1, 0] * 2
    assert outlined_cells(first, low, high, cells).tolist() == [[10], [10]]
