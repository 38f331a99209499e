from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.support.engines import cube, voxels
from tests.support.meshes import as_bytes, egg
from tests.support.server import SMALL, picture, settings
from trellis2_server import pipeline
from trellis2_server.engines.preview import PreviewEngine
from trellis2_server.errors import StoreError
from trellis2_server.inputs.images import Cutter
from trellis2_server.inputs.meshes import Glb
from trellis2_server.mesh import Mesh, Shape, VoxelField
from trellis2_server.parameters import read_options
from trellis2_server.settings import Settings
from trellis2_server.storage.serialization import serialize_arrays
from trellis2_server.storage.snapshots import (
    EngineName,
    export_again,
    field_snapshot,
    mesh_snapshot,
    shape_snapshot,
)

if TYPE_CHECKING:
    from trellis2_server.decoders import DecoderPool
    from trellis2_server.inputs.images import Cutout
    from trellis2_server.parameters import Options

MAKER = EngineName("preview")
EXPORT = settings().export


def options(**more: Any) -> Options:
    return read_options({"seed": 1, **SMALL, "decimation_target": 9000, **more}, Settings())


def report(stage: str, step: int, steps: int) -> None:
    del stage, step, steps


@pytest.fixture(scope="module")
def cutout() -> Cutout:
    return Cutter(background="none").cut_out(picture(3, 256))


@pytest.fixture(scope="module")
def made(cutout: Cutout) -> dict[str, Any]:
    """A job of the preview engine, with its snapshots."""
    engine = PreviewEngine()
    engine.load(report)
    shape = pipeline.make_shape(engine, cutout, options(), report)
    geometry, shape_glb = pipeline.export_shape(engine, shape, options(), report)
    field = pipeline.make_texture(engine, shape, cutout, options(), report)
    textured = pipeline.export_model(engine, geometry, field, options(), EXPORT, report)
    return {
        "shape": shape_snapshot(shape),
        "field": field_snapshot(field),
        "shape_glb": shape_glb,
        "textured_glb": textured,
        "faces": len(shape.mesh.faces),
        "raw": shape.mesh.vertices.nbytes + shape.mesh.faces.nbytes,
    }


def test_the_jobs_own_parameters_give_the_jobs_own_files(
    made: dict[str, Any], decoders: DecoderPool
) -> None:
    textured = export_again(
        MAKER, made["shape"], made["field"], options(), EXPORT, decoders, report
    )
    assert textured == made["textured_glb"]
    shape = export_again(MAKER, made["shape"], None, options(), EXPORT, decoders, report)
    assert shape == made["shape_glb"]


def test_other_parameters_give_another_file(made: dict[str, Any], decoders: DecoderPool) -> None:
    assert made["faces"] > 6000
    other = options(decimation_target=4000, texture_size=512, texture_format="png")
    glb = Glb(export_again(MAKER, made["shape"], made["field"], other, EXPORT, decoders, report))
    image = glb.item("images", 0)
    with Image.open(io.BytesIO(glb.view(image["bufferView"]))) as opened:
        assert opened.size == (512, 512)
        assert opened.format == "PNG"
    accessor = glb.item("meshes", 0)["primitives"][0]["indices"]
    assert 3000 < glb.item("accessors", accessor)["count"] / 3 <= 4000


def test_a_snapshot_is_smaller_than_its_arrays(made: dict[str, Any]) -> None:
    assert len(made["shape"]) < made["raw"] / 2


def test_a_clients_mesh_is_exported_again_too(cutout: Cutout, decoders: DecoderPool) -> None:
    engine = PreviewEngine()
    engine.load(report)
    mesh = cube()
    client_mesh = pipeline.export_shape(engine, Shape(mesh, 8, None), options(), report)[1]
    turned = options(geo_rotation=90.0)
    geometry, plain = pipeline.read_mesh(engine, client_mesh, turned, decoders, report)
    field = pipeline.make_texture(engine, geometry, cutout, turned, report)
    textured = pipeline.export_model(engine, geometry, field, turned, EXPORT, report)
    snapshot = mesh_snapshot(client_mesh)
    assert export_again(MAKER, snapshot, None, turned, EXPORT, decoders, report) == plain
    again = export_again(MAKER, snapshot, field_snapshot(field), turned, EXPORT, decoders, report)
    assert again == textured


def test_a_mesh_that_was_stored_before_files_had_an_axis_has_y_up(decoders: DecoderPool) -> None:
    stl = as_bytes(egg(), "stl")
    stored = serialize_arrays({"file": np.frombuffer(stl, np.uint8)})
    given = replace(options(), mesh="0" * 32)

    def exported(snapshot: bytes, asked: Options) -> bytes:
        return export_again(MAKER, snapshot, None, asked, EXPORT, decoders, report)

    with_y = exported(mesh_snapshot(stl), replace(given, up_axis="y"))
    assert exported(stored, given) == with_y
    assert exported(mesh_snapshot(stl), given) != with_y
    assert exported(stored, replace(given, up_axis="z")) != with_y


def test_the_memory_layout_of_arrays_does_not_matter() -> None:
    mesh, field = cube(), voxels()
    apart = Mesh(np.asfortranarray(mesh.vertices), mesh.faces[:, ::-1][:, ::-1].astype(np.int64))  # pyright: ignore[reportArgumentType]
    assert shape_snapshot(Shape(apart, 8, None)) == shape_snapshot(Shape(mesh, 8, None))
    spread = VoxelField(field.coords[::-1][::-1], field.attributes.astype(np.float64), 8)  # pyright: ignore[reportArgumentType]
    assert field_snapshot(spread) == field_snapshot(field)


def test_a_shape_in_a_fields_place_is_refused(decoders: DecoderPool) -> None:
    snapshot = shape_snapshot(Shape(cube(), 8, None))
    with pytest.raises(StoreError, match="not a voxel field"):
        export_again(MAKER, snapshot, snapshot, options(), EXPORT, decoders, report)
