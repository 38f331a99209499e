from __future__ import annotations

import numpy as np
import pytest
import trimesh

from tests.support.meshes import as_bytes, egg, glb, triangle, two_nodes
from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes import read_scene, to_model_frame


def test_a_scene_fills_the_cube_and_faces_the_front() -> None:
    mesh = to_model_frame(read_scene(as_bytes(egg(), "glb")))
    assert mesh.vertices.min(0) == pytest.approx([-0.25, -0.25, -0.5], abs=1e-3)
    flag = b"v 0 0 1\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"  # its first corner is the frontmost
    front = to_model_frame(read_scene(flag)).vertices
    assert front[:, 1].min() == pytest.approx(-0.5, abs=1e-3)
    turned = to_model_frame(
        read_scene(flag), 90
    ).vertices  # counter-clockwise: the front goes right
    assert turned[np.argmin(np.abs(turned[:, 1] - 0)), 0] == pytest.approx(turned[:, 0].max())


def test_a_mirrored_part_stays_right_side_out() -> None:
    mesh = to_model_frame(read_scene(as_bytes(two_nodes(), "glb")))
    known = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert all(body.volume > 0 for body in known.split())


def test_a_mesh_without_extent_is_refused() -> None:
    with pytest.raises(InputError, match="no size"):
        to_model_frame(read_scene(glb(triangle(), bytes(36))))
