from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from tests.support.preview import (
    RED,
    Array,
    Request,
    cutout,
    disc,
    ignore,
    look_up,
    made,
    masks,
    measure,
    samples,
)
from trellis2_server.engines.preview import PreviewEngine
from trellis2_server.errors import JobCancelledError
from trellis2_server.mesh import ALPHA, METALLIC, ROUGHNESS


@pytest.mark.parametrize(
    ("texture_size", "resolution"),
    [(256, 256), (512, 320), (1024, 640), (2048, 1024), (8192, 1024)],
)
def test_the_field_is_as_fine_as_the_texture_can_show(
    engine: PreviewEngine, texture_size: int, resolution: int
) -> None:
    requested = Request(texture_size=texture_size, decimation_target=1_000)
    assert engine.shape(cutout(disc(64, 32, 32, 30)), requested, ignore).resolution == resolution


@pytest.mark.costly
@given(mask=masks())
@settings(max_examples=25, deadline=None)
def test_every_point_of_the_surface_has_all_its_voxels(mask: Array) -> None:
    if not mask.any():
        return
    requested = Request(texture_size=256)
    shape, field = made(PreviewEngine(), cutout(mask), requested)
    points = samples(shape.mesh, shape.mesh.faces, 4_000)
    near = points + np.random.default_rng(1).uniform(-0.49, 0.49, points.shape) / field.resolution
    assert (look_up(field, points) >= 0).all()
    assert (look_up(field, near) >= 0).all()


def test_a_normal_map_gets_a_finer_surface_of_the_same_object(engine: PreviewEngine) -> None:
    picture = cutout(disc(200, 100, 100, 95), RED)
    plain, fine = (
        engine.shape(picture, Request(decimation_target=500, normal_map=fine), ignore).mesh
        for fine in (False, True)
    )
    assert len(plain.faces) <= 1_500
    assert len(fine.faces) > 20 * len(plain.faces)
    assert measure(fine)[0] == pytest.approx(measure(plain)[0], rel=0.05)


def test_the_field_is_what_the_exporter_expects(engine: PreviewEngine) -> None:
    _, field = made(engine, cutout(disc(200, 100, 100, 95), RED))
    assert field.coords.dtype == np.int32
    assert field.attributes.dtype == np.float32
    assert field.coords.min() >= 0
    assert field.coords.max() < field.resolution
    assert len(np.unique(field.coords, axis=0)) == len(field.coords)
    assert field.attributes.shape == (len(field.coords), 6)
    assert (field.attributes[:, METALLIC] == 0).all()
    assert field.attributes[:, ROUGHNESS] == pytest.approx(0.7)
    assert (field.attributes[:, ALPHA] == 1).all()
    assert field.attributes.min() >= 0
    assert field.attributes.max() <= 1


def test_the_same_picture_gives_the_same_bytes(engine: PreviewEngine) -> None:
    picture = cutout(disc(200, 90, 100, 85, soft=False), RED)
    first, second = made(engine, picture), made(engine, picture, Request(seed=7))
    for a, b in (
        (first[0].mesh.vertices, second[0].mesh.vertices),
        (first[0].mesh.faces, second[0].mesh.faces),
        (first[1].coords, second[1].coords),
        (first[1].attributes, second[1].attributes),
    ):
        assert a.tobytes() == b.tobytes()


def test_progress_ends_with_all_steps_and_a_report_that_raises_stops_the_stage(
    engine: PreviewEngine,
) -> None:
    picture = cutout(disc(64, 32, 32, 30))
    seen = []
    shape = engine.shape(picture, Request(), lambda *step: seen.append(step))
    assert seen[-1][1] == seen[-1][2]
    engine.texture(shape, picture, Request(), lambda *step: seen.append(step))
    assert seen[0][1] == 0
    assert seen[-1][1] == seen[-1][2]

    def cancel(stage: str, _step: int, _of: int) -> None:
        if stage in {"inflate", "surface"}:
            raise JobCancelledError("cancelled")

    with pytest.raises(JobCancelledError):
        engine.shape(picture, Request(), cancel)
    with pytest.raises(JobCancelledError):
        engine.texture(shape, picture, Request(), cancel)


def test_depth_goes_from_flat_to_round(engine: PreviewEngine) -> None:
    picture = cutout(disc(200, 100, 100, 60))
    found = {
        depth: engine.shape(picture, Request(depth=depth), ignore)
        for depth in ("auto", 0.0, 0.5, 1.0)
    }
    deep = {depth: float(np.ptp(shape.mesh.vertices[:, 1])) for depth, shape in found.items()}
    assert 0 < deep[0.0] < 0.1 * deep[1.0]
    assert deep[0.0] < deep[0.5] < deep[1.0]
    assert deep[0.0] < deep["auto"] <= deep[1.0]
    assert found[0.5].details["depth"] == "0.5"


def test_an_unloaded_engine_serves_again(engine: PreviewEngine) -> None:
    engine.unload()
    assert engine.name == "preview"
    assert len(engine.shape(cutout(disc(64, 32, 32, 30)), Request(), ignore).mesh.faces)
