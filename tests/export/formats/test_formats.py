from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest

from tests.support import shapes
from trellis2_server import export, parameters
from trellis2_server.errors import ExportError
from trellis2_server.export import formats

if TYPE_CHECKING:
    from trellis2_server.export.formats import FileType

trimesh = pytest.importorskip("trimesh")

FILE_TYPES: tuple[FileType, ...] = get_args(formats.FileType)


@pytest.fixture(scope="module")
def glb() -> bytes:
    mesh = export.prepare(shapes.torus(), decimation_target=1000)
    return export.textured_glb(mesh, shapes.field(24), texture_size=64)


def loaded(content: bytes, file_type: str) -> Any:
    return trimesh.load(io.BytesIO(content), file_type=file_type, process=False, force="mesh")


def test_every_file_type_of_a_request_has_a_writer() -> None:
    assert set(formats._WRITERS) == set(FILE_TYPES)
    assert {"glb", *FILE_TYPES} == set(get_args(parameters.FileType))


@pytest.mark.parametrize("file_type", ["obj", "ply", "stl"])
def test_the_triangles_are_those_of_the_glb(glb: bytes, file_type: FileType) -> None:
    expected, mesh = loaded(glb, "glb"), loaded(formats.convert(glb, file_type), file_type)
    np.testing.assert_allclose(mesh.triangles, expected.triangles, atol=1e-6)


@pytest.mark.parametrize("file_type", ["obj", "ply"])
def test_the_base_colour_is_at_the_vertices(glb: bytes, file_type: FileType) -> None:
    mesh = loaded(formats.convert(glb, file_type), file_type)
    points = np.stack([mesh.vertices[:, 0], -mesh.vertices[:, 2], mesh.vertices[:, 1]], 1)
    expected = 255 * shapes.colors(points)[:, :3]
    assert np.abs(mesh.visual.vertex_colors[:, :3] - expected).mean() < 12


@pytest.mark.parametrize("file_type", FILE_TYPES)
def test_equal_models_give_equal_bytes(glb: bytes, file_type: FileType) -> None:
    assert formats.convert(glb, file_type) == formats.convert(glb, file_type)


@pytest.mark.parametrize("file_type", FILE_TYPES)
def test_a_model_without_textures_can_be_converted(file_type: FileType) -> None:
    assert formats.convert(export.untextured_glb(shapes.sphere(4)), file_type)


@pytest.mark.parametrize("file_type", FILE_TYPES)
def test_a_file_that_is_not_a_glb_is_an_error(file_type: FileType) -> None:
    with pytest.raises(ExportError, match=file_type):
        formats.convert(b"no GLB", file_type)
