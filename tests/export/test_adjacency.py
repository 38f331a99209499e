from __future__ import annotations

import numpy as np
import pytest

from tests.support import shapes
from trellis2_server.export.adjacency import (
    BOUNDARY,
    NON_MANIFOLD,
    corner_lists,
    is_watertight,
    next_half_edges,
    twins,
)


@pytest.mark.parametrize("shape", shapes.ALL)
def test_twins_share_their_edge_and_no_other_face_has_it(shape: str) -> None:
    mesh = shapes.ALL[shape]()
    twin = twins(mesh.faces, len(mesh.vertices))
    half = np.arange(mesh.faces.size)
    corner = mesh.faces.reshape(-1)
    edge = np.sort(np.stack([corner[half], corner[next_half_edges(half)]]), axis=0)
    _, inverse, uses = np.unique(edge, axis=1, return_inverse=True, return_counts=True)
    uses = uses[inverse.reshape(-1)]
    np.testing.assert_array_equal(twin == BOUNDARY, uses == 1)
    np.testing.assert_array_equal(twin == NON_MANIFOLD, uses > 2)
    paired = half[twin >= 0]
    np.testing.assert_array_equal(twin[twin[paired]], paired)
    np.testing.assert_array_equal(edge[:, paired], edge[:, twin[paired]])


@pytest.mark.parametrize("shape", shapes.ALL)
def test_a_mesh_is_watertight_if_all_edges_have_two_consistent_faces(shape: str) -> None:
    mesh = shapes.ALL[shape]()
    twin = twins(mesh.faces, len(mesh.vertices))
    assert is_watertight(mesh.faces, twin) == shapes.is_closed(mesh)


def test_the_corners_at_each_vertex_are_listed() -> None:
    mesh = shapes.sphere(4)
    first, corners = corner_lists(mesh.faces, len(mesh.vertices))
    for vertex in range(len(mesh.vertices)):
        expected = np.flatnonzero(mesh.faces.reshape(-1) == vertex)
        np.testing.assert_array_equal(corners[first[vertex] : first[vertex + 1]], expected)
