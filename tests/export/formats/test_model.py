from __future__ import annotations

import numpy as np
import pytest

from tests.support.meshes import as_bytes, two_nodes
from trellis2_server.errors import InputError
from trellis2_server.export import retexture
from trellis2_server.export.formats.model import read_model
from trellis2_server.inputs.meshes import read_scene
from trellis2_server.inputs.meshes import to_model_frame as to_frame


def test_the_transforms_of_nodes_are_applied_and_mirrored_faces_flipped() -> None:
    scene = two_nodes()
    read = read_scene(as_bytes(scene, "glb"))
    model = read_model(retexture.untextured_glb(read, to_frame(read), extras={}, generator="test"))
    expected = scene.to_mesh()
    np.testing.assert_allclose(model.positions.min(0), expected.bounds[0], atol=1e-5)
    np.testing.assert_allclose(model.positions.max(0), expected.bounds[1], atol=1e-5)
    corner = model.positions[model.faces].astype(np.float64)
    volume = (corner[:, 0] * np.cross(corner[:, 1], corner[:, 2])).sum() / 6
    assert volume == pytest.approx(abs(expected.volume), rel=1e-4)


def test_a_file_without_a_material_or_mesh_is_an_error() -> None:
    with pytest.raises(InputError):
        read_model(b"glTF")
