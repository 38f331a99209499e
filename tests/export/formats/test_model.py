from __future__ import annotations

import io

import numpy as np
import pytest

from tests.support.glb_scenes import built
from tests.support.glb_scenes import read as as_scene
from tests.support.meshes import as_bytes, two_nodes
from trellis2_server.errors import ExportError, InputError
from trellis2_server.export import retexture
from trellis2_server.export.formats import convert
from trellis2_server.export.formats.model import read_model
from trellis2_server.inputs.meshes import placements, read_scene
from trellis2_server.inputs.meshes import to_model_frame as to_frame
from trellis2_server.parameters import PlacedFile, Placement

trimesh = pytest.importorskip("trimesh")


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


@pytest.fixture
def row_of_eggs() -> bytes:
    """A GLB that places one mesh three times, 5 apart, once mirrored."""
    file = built()
    file.document["nodes"] = [
        {"mesh": 0},
        {"mesh": 0, "translation": [5, 0, 0], "scale": [-1, 1, 1]},
        {"mesh": 0, "translation": [10, 0, 0]},
    ]
    file.document["scenes"] = [{"nodes": [0, 1, 2]}]
    read = as_scene(file)
    return retexture.untextured_glb(read, to_frame(read), extras={}, generator="test")


def test_a_mesh_is_written_at_each_of_its_places(row_of_eggs: bytes) -> None:
    model = read_model(row_of_eggs)
    assert len(model.faces) == 3 * 4
    middles = model.positions[model.faces].mean(axis=(1, 2))
    expected = trimesh.load(io.BytesIO(row_of_eggs), file_type="glb").to_mesh()
    np.testing.assert_allclose(
        np.sort(middles), np.sort(expected.triangles.mean(axis=(1, 2))), atol=1e-5
    )
    placed = convert(row_of_eggs, PlacedFile("glb", Placement(size=3, origin="floor")))
    low, high = trimesh.load(io.BytesIO(placed), file_type="glb").bounds
    np.testing.assert_allclose([(high - low).max(), low[1], low[0] + high[0]], [3, 0, 0], atol=1e-5)


def test_a_mesh_at_too_many_places_is_an_error(
    row_of_eggs: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placements, "density_limits", lambda _: (11, 11))
    with pytest.raises(ExportError, match="cannot be written as obj"):
        convert(row_of_eggs, "obj")


def test_a_file_without_a_material_or_mesh_is_an_error() -> None:
    with pytest.raises(InputError):
        read_model(b"glTF")
