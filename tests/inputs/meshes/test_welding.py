from __future__ import annotations

import numpy as np

from trellis2_server.inputs.meshes.welding import weld


def test_vertices_at_the_same_position_are_merged_and_faces_keep_their_order() -> None:
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [-0.0, 0, 0], [1, 1, 0]], np.float32)
    faces = np.array([[0, 1, 2], [3, 4, 1]], np.int32)
    mesh = weld(points, faces)
    assert len(mesh.vertices) == 4
    assert mesh.vertices[mesh.faces].tolist() == (points[faces] + 0).tolist()
