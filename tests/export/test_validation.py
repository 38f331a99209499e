from __future__ import annotations

import numpy as np
import pytest

from tests.support import shapes
from trellis2_server import export
from trellis2_server.errors import ExportError
from trellis2_server.export.validation import checked_mesh
from trellis2_server.mesh import Mesh, VoxelField


def test_arrays_in_the_expected_layout_are_not_copied() -> None:
    mesh = shapes.torus()
    checked = checked_mesh(mesh)
    assert np.shares_memory(checked.vertices, mesh.vertices)
    assert np.shares_memory(checked.faces, mesh.faces)


@pytest.mark.parametrize(
    ("vertices", "faces", "words"),
    [
        (np.zeros((3, 3)), np.zeros((0, 3)), "no faces"),
        (np.zeros((3, 2)), np.array([[0, 1, 2]]), "needs vertices"),
        (np.zeros((3, 3)), np.array([[0, 1, 3]]), "does not exist"),
        (np.zeros((3, 3)), np.array([[0, 1, -1]]), "does not exist"),
        (np.full((3, 3), np.nan), np.array([[0, 1, 2]]), "not finite"),
        (np.zeros((3, 3)), np.array([[0, 1, 1]]), "no face"),
    ],
)
def test_arrays_that_are_not_a_mesh_are_an_error(
    vertices: np.ndarray, faces: np.ndarray, words: str
) -> None:
    with pytest.raises(ExportError, match=words):
        export.prepare(
            Mesh(vertices.astype(np.float32), faces.astype(np.int32)), decimation_target=10
        )


@pytest.mark.parametrize(
    ("coords", "attributes", "words"),
    [
        (np.zeros((0, 3)), np.zeros((0, 6)), "no voxels"),
        (np.zeros((1, 3)), np.zeros((1, 5)), "needs coords"),
        (np.full((1, 3), 4), np.zeros((1, 6)), "outside"),
        (np.zeros((1, 3)), np.full((1, 6), np.inf), "not finite"),
    ],
)
def test_arrays_that_are_not_a_field_are_an_error(
    coords: np.ndarray, attributes: np.ndarray, words: str
) -> None:
    field = VoxelField(coords.astype(np.int32), attributes.astype(np.float32), 4)
    with pytest.raises(ExportError, match=words):
        export.textured_glb(shapes.sphere(4), field, texture_size=64)


def test_arrays_of_another_layout_give_the_same_mesh() -> None:
    mesh = shapes.torus()
    vertices = np.asfortranarray(mesh.vertices.astype(np.float64))
    faces = np.asfortranarray(mesh.faces.astype(np.int64))
    vertices.flags.writeable = False
    faces.flags.writeable = False
    cleaned = export.prepare(Mesh(vertices, faces), decimation_target=500)  # pyright: ignore[reportArgumentType]
    expected = export.prepare(mesh, decimation_target=500)
    np.testing.assert_array_equal(cleaned.vertices, expected.vertices)
    np.testing.assert_array_equal(cleaned.faces, expected.faces)
