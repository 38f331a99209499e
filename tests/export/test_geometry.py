from __future__ import annotations

import numpy as np
import pytest

from tests.support import shapes
from trellis2_server.export.geometry import geometry, smooth_normals
from trellis2_server.mesh import Mesh


def test_normals_of_a_sphere_point_outward() -> None:
    sphere = shapes.sphere()
    normals = smooth_normals(sphere)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)
    outward = sphere.vertices / np.linalg.norm(sphere.vertices, axis=1, keepdims=True)
    assert ((normals * outward).sum(1) > 0.999).all()


def test_a_vertex_whose_normals_cancel_out_has_a_unit_normal() -> None:
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    both_sides = Mesh(corners, np.array([[0, 1, 2], [0, 2, 1]], np.int32))
    np.testing.assert_allclose(np.abs(smooth_normals(both_sides)), [[0, 0, 1]] * 3)


def test_the_front_of_the_model_faces_forward_in_gltf() -> None:
    mesh = Mesh(
        np.array([[0, -0.5, 0], [0.1, 0, 0.3], [0.2, 0, 0]], np.float32),
        np.array([[0, 1, 2]], np.int32),
    )
    np.testing.assert_allclose(
        geometry(mesh).positions, np.array([[0, 0, 0.5], [0.1, 0.3, 0], [0.2, 0, 0]], np.float32)
    )


@pytest.mark.parametrize(
    ("shape", "is_double"),
    [("torus", False), ("links", False), ("thin_box", False), ("sheet", True), ("moebius", True)],
)
def test_only_a_watertight_surface_is_single_sided(shape: str, *, is_double: bool) -> None:
    assert geometry(shapes.ALL[shape]()).is_double_sided == is_double


def test_vertices_are_repeated_for_their_texture_coordinates() -> None:
    mesh = shapes.sphere(2)
    source = mesh.faces.reshape(-1)
    uv = np.random.default_rng(0).random((len(source), 2)).astype(np.float32)
    faces = np.arange(len(source), dtype=np.int32).reshape(-1, 3)
    whole, split = geometry(mesh), geometry(mesh, uv, source, faces)
    np.testing.assert_array_equal(split.positions, whole.positions[source])
    np.testing.assert_array_equal(split.normals, whole.normals[source])
    np.testing.assert_array_equal(split.faces, faces)
