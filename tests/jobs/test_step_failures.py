"""What becomes of a job that is known, waits for a model, or of which a step fails."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest

from tests.support.managers import in_a_loop, until
from tests.support.steps_alone import CUTOUT, EXPORTED, FIELD, SHAPE, Stage, shaped
from trellis2_server.errors import (
    EngineBrokenError,
    EngineError,
    ServerError,
    StepTimeoutError,
)
from trellis2_server.inputs.background import ModelPending
from trellis2_server.jobs.job import Progress, Status
from trellis2_server.jobs.queue import job_future
from trellis2_server.storage.snapshots import FIELD_SNAPSHOT, SHAPE_SNAPSHOT

# ---- known jobs --------------------------------------------------------------------------------


@pytest.mark.parametrize("wants_texture", [False, True])
@pytest.mark.parametrize("is_open", [False, True])
@in_a_loop
async def test_a_job_that_turns_out_to_be_known_is_merged(
    *, wants_texture: bool, is_open: bool
) -> None:
    stage = Stage(wants_texture=wants_texture)
    other = stage.parts.add()
    other.wants_texture = False
    other.data.shape, other.data.cutout = SHAPE, CUTOUT
    stage.matcher.known = stage.parts.active_jobs.change(other, status=Status.COMPLETED)
    stage.results.start_job(stage.active, b"picture")
    stage.parts.availability.is_closing = not is_open
    stage.take("cutout", CUTOUT)
    assert stage.matcher.heard == ["merge", "follow"]
    is_begun = wants_texture and is_open
    assert stage.steps == ["cutout", *(["texture"] if is_begun else [])]
    assert other.wants_texture is is_begun
    assert stage.shelf.deferred == {}


# ---- background models ---------------------------------------------------------------------------


@in_a_loop
async def test_a_cutout_waits_for_its_model_in_no_queue() -> None:
    stage, loaded = Stage(), Future[None]()
    calls: list[str] = []
    stage.results.retry_cutout(
        stage.active, lambda: calls.append("call"), ModelPending(loaded, 60.0)
    )
    assert stage.job.progress == Progress("background model", 0.0)
    assert stage.active.waits_for("cutout")
    assert stage.queued == []
    loaded.set_result(None)
    await until(lambda: bool(stage.queued))
    [(step, call)] = stage.queued
    call()
    assert (step, calls) == ("cutout", ["call"])


@in_a_loop
async def test_a_job_that_ended_while_its_model_was_loaded_is_not_queued_again() -> None:
    stage, loaded = Stage(), Future[None]()
    stage.results.retry_cutout(stage.active, lambda: None, ModelPending(loaded, 60.0))
    stage.active.steps.clear()
    loaded.set_result(None)
    for _ in range(3):
        await asyncio.sleep(0)
    assert stage.queued == []


@in_a_loop
async def test_no_model_is_waited_for_while_the_server_closes() -> None:
    stage = Stage()
    stage.parts.availability.is_closing = True
    stage.results.retry_cutout(stage.active, lambda: None, ModelPending(Future(), 60.0))
    assert stage.job.status is Status.CANCELLED
    assert not stage.active.waits_for("cutout")


# ---- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [EngineError("no"), StepTimeoutError("late")])
@in_a_loop
async def test_a_texture_goes_on_without_the_untextured_model(error: ServerError) -> None:
    stage = shaped()
    stage.fail("shape_export", error)
    job = stage.job
    assert job.status is Status.SHAPE_PROCESSING
    assert str(job.shape_error) == str(error)
    assert job.warnings[2:] == (f"the untextured model could not be exported: {error}",)
    assert stage.active.shape_done.result() is job
    assert stage.shelf.deferred[SHAPE_SNAPSHOT] == (("snapshot_shape", SHAPE), True)
    stage.take("texture", FIELD)
    assert stage.queued[-1] == ("texture_export", ("export_model", SHAPE, FIELD))
    stage.take("texture_export", b"textured")
    assert stage.job.status is Status.COMPLETED


@in_a_loop
async def test_a_material_that_waited_for_a_failed_export_is_exported_at_once() -> None:
    stage = shaped()
    stage.take("texture", FIELD)
    stage.fail("shape_export", EngineError("no"))
    assert stage.queued[-1] == ("texture_export", ("export_model", SHAPE, FIELD))


@pytest.mark.parametrize(
    ("wants_texture", "error"),
    [(False, EngineError("no")), (True, EngineBrokenError("no device"))],
)
@in_a_loop
async def test_a_job_ends_without_its_untextured_model_if_nothing_is_left_to_do(
    error: ServerError, *, wants_texture: bool
) -> None:
    stage = shaped(wants_texture=wants_texture)
    stage.fail("shape_export", error)
    assert (stage.job.status, str(stage.job.error)) == (Status.ERROR, str(error))
    assert SHAPE_SNAPSHOT in stage.shelf.deferred


@in_a_loop
async def test_a_job_whose_texture_failed_ends_after_its_untextured_model() -> None:
    stage = shaped()
    stage.fail("texture", EngineError("no texture"))
    assert stage.job.status is Status.SHAPE_PROCESSING
    stage.take("shape_export", EXPORTED)
    assert (stage.job.status, str(stage.job.error)) == (Status.ERROR, "no texture")
    assert stage.job.shape_glb is not None
    assert stage.active.shape_done.result().shape_glb is not None
    both = shaped()
    both.fail("texture", EngineError("no texture"))
    both.fail("shape_export", EngineError("no shape"))
    job = both.job
    assert (str(job.error), str(job.shape_error)) == ("no texture", "no shape")
    assert both.active.shape_done.result() is job


@in_a_loop
async def test_the_material_of_a_failed_export_is_kept_for_exporting_again() -> None:
    stage = shaped()
    stage.take("shape_export", EXPORTED)
    stage.take("texture", FIELD)
    stage.fail("texture_export", EngineError("no"))
    assert stage.job.status is Status.ERROR
    assert stage.shelf.deferred[FIELD_SNAPSHOT] == (("snapshot_field", FIELD), True)
    other = shaped()
    other.take("shape_export", EXPORTED)
    other.fail("texture", EngineError("no"))
    assert FIELD_SNAPSHOT not in other.shelf.deferred


@in_a_loop
async def test_a_future_that_somebody_else_answered_is_left_alone() -> None:
    stage = shaped()
    stage.active.shape_done.set_result(stage.job)
    stage.take("shape_export", EXPORTED)
    assert stage.job.status is Status.TEXTURE_PROCESSING
    assert job_future().done() is False
