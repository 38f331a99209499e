"""What follows from the end of each step."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tests.support.engines import cube, voxels
from tests.support.managers import in_a_loop, submit, working
from tests.support.steps_alone import CUTOUT, EXPORTED, FIELD, SHAPE, Stage, shaped
from trellis2_server.errors import ShuttingDownError
from trellis2_server.jobs.job import Progress, Status
from trellis2_server.jobs.scheduler import TEXTURE_PATIENCE_S
from trellis2_server.mesh import Shape
from trellis2_server.storage.snapshots import FIELD_SNAPSHOT, SHAPE_SNAPSHOT
from trellis2_server.storage.store import Artifact

if TYPE_CHECKING:
    from tests.support.engines import GatedEngine


@in_a_loop
async def test_a_job_tells_the_warnings_of_all_its_steps_in_their_order(
    engine: GatedEngine,
) -> None:
    engine.returns["shape"] = Shape(cube(), 8, state=None, warnings=("a coarser shape",))
    engine.returns["texture"] = replace(voxels(), warnings=("a coarser texture", "a seam"))
    async with working(engine) as service:
        done = await service.wait_for_texture(await submit(service, 1))
        assert done.warnings == ("a coarser shape", "a coarser texture", "a seam")
        other = await service.wait_for_texture(await submit(service, 2))
        assert other.warnings == ()


@in_a_loop
async def test_a_job_tells_what_the_engine_decided(engine: GatedEngine) -> None:
    engine.returns["shape"] = Shape(cube(), 8, None, details={"depth": "flat", "back": "mirror"})
    engine.returns["texture"] = replace(voxels(), details={"back": "fill"})
    async with working(engine) as service:
        job = await submit(service, 1)
        assert (await service.wait_for_shape(job)).details["depth"] == "flat"
        done = await service.wait_for_texture(job)
        assert done.details == {"depth": "flat", "back": "fill"}
        other = await service.wait_for_texture(await submit(service, 2))
        assert other.details == {}


# ---- by themselves -----------------------------------------------------------------------------


@in_a_loop
async def test_a_textured_job_goes_through_all_of_its_steps() -> None:
    stage = Stage()
    stage.results.start_job(stage.active, b"picture")
    assert stage.queued == [("cutout", ("cut_out", b"picture"))]
    assert stage.active.upload_bytes == 7
    stage.take("cutout", CUTOUT)
    assert stage.active.upload_bytes == 0
    job = stage.job
    assert (job.image_hash, job.background, job.warnings) == ("a" * 32, "alpha", ("dark",))
    assert stage.shelf.deferred["input.png"] == (CUTOUT.png, False)
    assert stage.queued[1:] == [("shape", ("make_shape", CUTOUT))]
    stage.parts.clock.now = 5.0
    stage.take("shape", SHAPE)
    assert (stage.job.resolution, stage.job.warnings) == (512, ("dark", "coarse"))
    assert stage.job.details == {"depth": "round", "back": "mirror"}
    assert stage.queued[2:] == [
        ("shape_export", ("export_shape", SHAPE)),
        ("texture", ("make_texture", SHAPE, CUTOUT)),
    ]
    assert stage.active.steps["texture"].deadline == 5.0 + TEXTURE_PATIENCE_S
    assert stage.active.steps["shape_export"].deadline == 0.0
    stage.active.texture_progress = Progress("texture", 0.25)
    stage.take("shape_export", EXPORTED)
    job = stage.job
    assert (job.status, job.shape_md5) == (Status.TEXTURE_PROCESSING, "b" * 32)
    assert job.progress == Progress("texture", 0.25)
    assert job.shape_glb == Artifact(job.uid, "shape.glb", 4)
    assert stage.active.shape_done.result() is job
    assert stage.shelf.deferred[SHAPE_SNAPSHOT] == (("snapshot_shape", SHAPE), True)
    assert stage.steps[4:] == []
    stage.take("texture", FIELD)
    assert stage.job.warnings == ("dark", "coarse", "a seam")
    assert stage.active.data.cutout is None
    assert stage.queued[4:] == [("texture_export", ("export_model", "geometry", FIELD))]
    stage.take("texture_export", b"textured")
    job = stage.job
    assert (job.status, job.textured_glb) == (
        Status.COMPLETED, Artifact(job.uid, "textured.glb", 8),
    )  # fmt: skip
    assert stage.shelf.deferred[FIELD_SNAPSHOT] == (("snapshot_field", FIELD), True)
    assert stage.shelf.files == {"shape.glb": b"glTF", "textured.glb": b"textured"}
    assert stage.active.texture_done is not None
    assert stage.active.texture_done.result() is job
    assert job.uid not in stage.parts.active_jobs


@in_a_loop
async def test_a_texture_that_is_ready_first_is_exported_after_the_shape() -> None:
    stage = shaped()
    stage.take("texture", SimpleNamespace(warnings=(), details={}))
    assert stage.job.warnings == ("dark", "coarse")
    assert stage.steps[-1] == "texture"
    stage.take("shape_export", EXPORTED)
    assert stage.queued[-1][0] == "texture_export"
    assert stage.queued[-1][1][1] == "geometry"


@in_a_loop
async def test_a_mesh_is_read_instead_of_making_a_shape_and_is_textured() -> None:
    stage = Stage(mesh=b"mesh!")
    stage.results.start_job(stage.active, b"picture")
    assert stage.active.upload_bytes == 12
    stage.take("cutout", CUTOUT)
    assert (stage.active.upload_bytes, stage.active.mesh) == (5, None)
    assert stage.queued[1:] == [("shape_export", ("read_mesh", b"mesh!"))]
    snapshot, is_evictable = stage.shelf.deferred[SHAPE_SNAPSHOT]
    assert (snapshot.args, is_evictable) == ((b"mesh!",), True)
    stage.take("shape_export", EXPORTED)
    assert stage.active.upload_bytes == 0
    assert stage.shelf.deferred[SHAPE_SNAPSHOT][0] is snapshot
    assert stage.queued[2:] == [("texture", ("make_texture", "geometry", CUTOUT))]
    assert stage.job.status is Status.TEXTURE_PROCESSING


@in_a_loop
async def test_a_texture_that_is_requested_later_is_made_then() -> None:
    stage = shaped(wants_texture=False)
    assert stage.steps[-1] == "shape_export"
    stage.take("shape_export", EXPORTED)
    assert stage.job.status is Status.COMPLETED
    assert stage.steps[-1] == "shape_export"
    assert stage.active.shape_done.result() is stage.job
    stage.parts.clock.now = 9.0
    stage.results.request_texture(stage.job)
    assert stage.job.status is Status.TEXTURE_PROCESSING
    assert stage.queued[-1] == ("texture", ("make_texture", SHAPE, CUTOUT))
    assert stage.active.texture_deadline == 9.0 + TEXTURE_PATIENCE_S
    count = len(stage.queued)
    stage.results.request_texture(stage.job)
    assert len(stage.queued) == count
    stage.parts.active_jobs.discard(stage.active.uid)
    stage.results.request_texture(stage.job)
    assert len(stage.queued) == count


@in_a_loop
async def test_a_texture_that_is_requested_while_the_shape_is_exported_follows_it() -> None:
    stage = shaped(wants_texture=False)
    stage.results.request_texture(stage.job)
    assert stage.steps[-1] == "shape_export"
    stage.take("shape_export", EXPORTED)
    assert (stage.job.status, stage.steps[-1]) == (Status.TEXTURE_PROCESSING, "texture")
    assert stage.job.progress is None


@in_a_loop
async def test_no_texture_is_begun_while_the_server_closes() -> None:
    for is_made_before in (False, True):
        stage = shaped(wants_texture=False)
        if is_made_before:
            stage.take("shape_export", EXPORTED)
            stage.parts.availability.is_closing = True
            with pytest.raises(ShuttingDownError):
                stage.results.request_texture(stage.job)
        else:
            stage.active.wants_texture = True
            stage.parts.availability.is_closing = True
            stage.take("shape_export", EXPORTED)
        assert stage.job.status is Status.COMPLETED
        assert "texture" not in stage.steps
    stage = Stage()
    stage.results.start_job(stage.active, b"picture")
    stage.take("cutout", CUTOUT)
    stage.parts.availability.is_closing = True
    stage.take("shape", SHAPE)
    assert stage.steps == ["cutout", "shape", "shape_export"]


@in_a_loop
async def test_a_texture_without_a_shape_is_a_mistake() -> None:
    for lost in ("shape", "cutout"):
        stage = shaped(wants_texture=False)
        stage.take("shape_export", EXPORTED)
        stage.active.data.geometry = None
        setattr(stage.active.data, lost, None)
        with pytest.raises(RuntimeError, match="a texture without a shape"):
            stage.results.request_texture(stage.job)
