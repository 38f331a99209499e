from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest

from tests.support import shapes
from trellis2_server import export, parameters
from trellis2_server.errors import ExportError
from trellis2_server.export import cancellation, formats
from trellis2_server.parameters import PlacedFile, Placement

if TYPE_CHECKING:
    from trellis2_server.parameters import FileType

trimesh = pytest.importorskip("trimesh")

#: A GLB is copied in one step.
FILE_TYPES = tuple(name for name in get_args(parameters.FileType) if name != "glb")


@pytest.fixture(scope="module")
def glb() -> bytes:
    mesh = export.prepare(shapes.torus(), decimation_target=1000)
    return export.textured_glb(mesh, shapes.field(24), texture_size=64)


def loaded(content: bytes, file_type: str) -> Any:
    return trimesh.load(io.BytesIO(content), file_type=file_type, process=False, force="mesh")


def test_every_file_type_of_a_request_has_a_writer() -> None:
    assert {*formats._WRITERS, *formats._GLTF_WRITERS} == {"glb", *FILE_TYPES}
    assert not set(formats._WRITERS) & set(formats._GLTF_WRITERS)


@pytest.mark.parametrize("file_type", ["obj", "ply", "stl"])
def test_the_triangles_are_those_of_the_glb(glb: bytes, file_type: FileType) -> None:
    content = formats.convert(glb, PlacedFile(file_type, Placement()))
    expected, mesh = loaded(glb, "glb"), loaded(content, file_type)
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


class StopError(Exception):
    """Raised by the reports of these tests."""


def _count_checks(glb: bytes, file_type: FileType, stop_at: int) -> int:
    """Convert, and raise at a check; return the number of checks after the model was read."""
    checks = 0
    stage = 0
    real = cancellation._Watch.check

    def report(_stage: str, step: int, _steps: int) -> None:
        nonlocal stage
        stage = step

    def check(watch: cancellation._Watch) -> None:
        nonlocal checks
        checks += stage == 1
        if checks == stop_at:
            raise StopError
        real(watch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cancellation._Watch, "check", check)
        formats.convert(glb, file_type, report)
    return checks


@pytest.mark.costly
@pytest.mark.parametrize("file_type", FILE_TYPES)
def test_a_conversion_checks_often_and_stops_at_any_check(file_type: FileType) -> None:
    glb = export.untextured_glb(shapes.torus(400, 300))
    checks = _count_checks(glb, file_type, -1)
    # 120,000 vertices and 240,000 faces, in parts of at most 32,768 rows.
    assert checks > 8
    for stop_at in (1, checks // 2, checks - 1):
        with pytest.raises(StopError):
            _count_checks(glb, file_type, stop_at)


@pytest.mark.parametrize("file_type", FILE_TYPES)
def test_the_decoding_of_textures_can_be_stopped(glb: bytes, file_type: FileType) -> None:
    def report(_stage: str, step: int, _steps: int) -> None:
        if step == 0:
            raise StopError

    with pytest.raises(StopError):
        formats.convert(glb, file_type, report)


def test_a_conversion_reports_when_it_begins_reads_and_ends(glb: bytes) -> None:
    reports: list[tuple[str, int, int]] = []
    formats.convert(glb, "stl", lambda *progress: reports.append(progress))
    # A thread repeats the latest one.
    assert list(dict.fromkeys(reports)) == [("convert", step, 2) for step in range(3)]


def test_a_normal_map_is_in_the_files_that_have_a_place_for_it() -> None:
    mesh = export.prepare(shapes.torus(), decimation_target=1000)
    maps: Any = {"normal_map": True, "occlusion": True, "texture_size": 64}
    glb = export.textured_glb(mesh, shapes.field(24), **maps)
    with zipfile.ZipFile(io.BytesIO(formats.convert(glb, "obj_zip"))) as archive:
        assert b"\nnorm normal.png\n" in archive.read("model.mtl")
        assert archive.read("normal.png").startswith(b"\x89PNG")
    with zipfile.ZipFile(io.BytesIO(formats.convert(glb, "gltf_zip"))) as archive:
        assert "normal.jpg" in archive.namelist()
        assert b"occlusionTexture" in archive.read("model.gltf")
    assert formats.convert(glb, "ply").startswith(b"ply")
