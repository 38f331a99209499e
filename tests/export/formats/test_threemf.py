"""3MF files, read by the library of the 3MF consortium."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support import models, shapes
from tests.support.threemf import arrays, lib3mf, meshes, opened
from trellis2_server import export
from trellis2_server.export import formats
from trellis2_server.export.formats import threemf
from trellis2_server.export.formats.model import read_model
from trellis2_server.parameters import PlacedFile, Placement

if TYPE_CHECKING:
    from collections.abc import Callable

trimesh = pytest.importorskip("trimesh")


@pytest.mark.parametrize("texture_format", ["auto", "png", "webp"])
def test_the_library_reads_the_triangles_and_the_texture(texture_format: Any) -> None:
    mesh = export.prepare(shapes.torus(), decimation_target=1000)
    glb = export.textured_glb(
        mesh, shapes.field(24), texture_size=64, texture_format=texture_format
    )
    read, content = read_model(glb), formats.convert(glb, PlacedFile("3mf", Placement("y", 50.0)))
    model = opened(content)
    assert model.GetUnit() == lib3mf.ModelUnit.MilliMeter
    [body] = meshes(model)
    assert body.IsManifoldAndOriented()
    whole = arrays(body)
    np.testing.assert_array_equal(whole.faces, read.faces)
    scale = 50 / np.ptp(read.positions, axis=0).max()
    np.testing.assert_allclose(whole.vertices, read.positions * scale, atol=1e-4)
    groups, textures = model.GetTexture2DGroups(), model.GetTexture2Ds()
    assert groups.MoveNext()
    assert textures.MoveNext()
    image = read.material.base_color
    assert image is not None
    written = bytes(textures.GetCurrentTexture2D().GetAttachment().WriteToBuffer())
    assert written == image.content
    group = groups.GetCurrentTexture2DGroup()
    assert read.uv is not None
    assert read.uv_faces is not None
    for face in range(0, len(read.faces), 97):
        properties = body.GetTriangleProperties(face)
        assert properties.ResourceID == group.GetResourceID()
        for corner in range(3):
            coordinate = group.GetTex2Coord(properties.PropertyIDs[corner])
            u, v = read.uv[read.uv_faces[face, corner]]
            assert pytest.approx((u, 1 - v), abs=1e-5) == (coordinate.U, coordinate.V)


def boxes(*extents: float, at: Callable[[int], float], inside: tuple[int, ...] = ()) -> Any:
    made = []
    for index, extent in enumerate(extents):
        box = trimesh.creation.box([extent] * 3)
        box.apply_translation([at(index), 0, 0])
        if index in inside:
            box.invert()
        made.append(box)
    whole = trimesh.util.concatenate(made)
    return models.model(whole.vertices, whole.faces)


def test_each_shell_is_an_object_and_a_cavity_belongs_to_the_shell_around_it() -> None:
    # A hollow box, a box inside the hollow, and one beside.
    made = boxes(4, 3, 1, 2, at=lambda at: 6.0 if at == 3 else 0.0, inside=(1,))
    model = opened(threemf.write_3mf(made))
    bodies = [arrays(mesh) for mesh in meshes(model)]
    assert [len(body.faces) for body in bodies] == [24, 12, 12]
    assert [round(body.volume, 3) for body in bodies] == [64 - 27, 8, 1]
    items = model.GetBuildItems()
    assert items.MoveNext()
    assert not items.MoveNext()


def test_the_number_of_objects_is_limited_and_no_face_is_lost() -> None:
    count = threemf.MAX_OBJECTS + 6
    made = boxes(*(1 + at / 100 for at in range(count)), at=lambda at: 3.0 * at)
    bodies = [arrays(mesh) for mesh in meshes(opened(threemf.write_3mf(made)))]
    assert len(bodies) == threemf.MAX_OBJECTS
    assert sum(len(body.faces) for body in bodies) == 12 * count
    assert len(bodies[-1].faces) == 12 * 7


def test_a_model_without_a_texture_has_no_materials() -> None:
    content = formats.convert(export.untextured_glb(shapes.sphere(4)), "3mf")
    model = opened(content)
    assert not model.GetTexture2Ds().MoveNext()
    assert model.GetOutbox().MaxCoordinate[2] == pytest.approx(100, rel=1e-4)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == ["[Content_Types].xml", "_rels/.rels", "3D/3dmodel.model"]
