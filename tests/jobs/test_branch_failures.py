"""What becomes of a job when its texture or the export of its shape ends early."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.exports import both_run, has_ended, shape_export_waits, texture_waits
from tests.support.glb_files import opened
from tests.support.managers import Leap, in_a_loop, submit, until, working
from trellis2_server.errors import (
    EngineBrokenError,
    EngineError,
    ExportError,
    JobCancelledError,
    OutOfMemoryError,
    ServerError,
    ShuttingDownError,
    StepTimeoutError,
    UnhealthyError,
)
from trellis2_server.jobs.job import Status

if TYPE_CHECKING:
    from tests.support.engines import GatedEngine
    from tests.support.managers import JobsUnderTest
    from trellis2_server.jobs.job import Job

WARNING = "the untextured model could not be exported: no faces are left"


class Asking:
    """Requests that wait for both models of a job."""

    def __init__(self, service: JobsUnderTest, job: Job) -> None:
        self.shape = asyncio.ensure_future(service.wait_for_shape(job))
        self.texture = asyncio.ensure_future(service.wait_for_texture(job))


async def fail(engine: GatedEngine, stage: str, error: BaseException) -> None:
    """Have the held stage of the first job fail."""
    engine.failures[stage] = error
    engine.hold(stage, 1).set()
    await until(lambda: stage not in engine.failures)


# ---- the export of the shape fails -----------------------------------------------------------


@pytest.mark.parametrize("texture", ["waits", "runs", "is made"])
@in_a_loop
async def test_a_failed_export_of_the_shape_does_not_lose_the_texture(
    gated: GatedEngine, texture: str
) -> None:
    async with working(gated) as service:
        job = await (texture_waits if texture == "waits" else both_run)(service, gated)
        asking = Asking(service, job)
        if texture == "is made":
            gated.hold("texture", 1).set()
            await has_ended(service, job, "texture")
        await fail(gated, "shape_export", ExportError("no faces are left"))
        with pytest.raises(ExportError, match=r"^no faces are left$"):
            await asking.shape
        going_on = service.job(job.uid)
        assert going_on.status in {Status.SHAPE_PROCESSING, Status.COMPLETED}
        assert going_on.warnings == (WARNING,)
        gated.open_all()
        done = await asking.texture
        assert (done.status, done.shape_glb, done.error) == (Status.COMPLETED, None, None)
        opened((await service.read_file(done.textured_glb)).load())
        with pytest.raises(ExportError, match="no faces are left"):
            await service.wait_for_shape(done)
        for is_textured in (False, True):
            opened((await service.export(done, done.options, texture=is_textured)).content.load())


@in_a_loop
async def test_progress_goes_on_without_the_untextured_model(gated: GatedEngine) -> None:
    async with working(gated) as service:
        job = await both_run(service, gated)
        await fail(gated, "shape_export", ExportError("no"))
        await until(lambda: service.job(job.uid).shape_error is not None)
        before = service.job(job.uid).progress
        held = gated.hold("texture_export", 1)
        gated.hold("texture", 1).set()
        await until(lambda: ("texture_export", 1) in gated.calls)
        await until(lambda: service.job(job.uid).progress != before)
        after = service.job(job.uid)
        assert (after.status, after.shape_glb) == (Status.SHAPE_PROCESSING, None)
        assert before is not None
        assert after.progress is not None
        assert before.fraction < after.progress.fraction < 1
        assert service.queue_position(after) is None
        held.set()
        await service.wait_for_texture(job)


@in_a_loop
async def test_a_shape_that_cannot_be_exported_twice_ends_its_job_and_can_be_exported_again(
    gated: GatedEngine,
) -> None:
    async with working(gated) as service:
        job = await both_run(service, gated)
        asking = Asking(service, job)
        await fail(gated, "shape_export", ExportError("no faces are left"))
        gated.failures["texture_export"] = ExportError("no faces are left, again")
        gated.hold("texture", 1).set()
        with pytest.raises(ExportError, match=r"no faces are left$"):
            await asking.shape
        with pytest.raises(ExportError, match="again"):
            await asking.texture
        failed = service.job(job.uid)
        assert (failed.status, failed.textured_glb) == (Status.ERROR, None)
        assert str(failed.error) == "no faces are left, again"
        for is_textured in (False, True):
            opened(
                (await service.export(failed, failed.options, texture=is_textured)).content.load()
            )


@in_a_loop
async def test_the_field_of_a_texture_that_cannot_be_exported_is_stored(
    gated: GatedEngine,
) -> None:
    gated.failures["texture_export"] = ExportError("no charts")
    async with working(gated) as service:
        job = await submit(service, 1)
        with pytest.raises(ExportError):
            await service.wait_for_texture(job)
        failed = service.job(job.uid)
        assert failed.shape_glb
        opened((await service.export(failed, failed.options, texture=True)).content.load())


@in_a_loop
async def test_a_request_after_a_failed_export_of_the_shape_gets_a_new_job(
    gated: GatedEngine,
) -> None:
    async with working(gated) as service:
        job = await both_run(service, gated)
        await fail(gated, "shape_export", ExportError("no"))
        await until(lambda: service.job(job.uid).shape_error is not None)
        again = await submit(service, 1)
        assert again.uid != job.uid
        gated.open_all()
        assert (await service.wait_for_shape(again)).uid == again.uid
        assert (await service.wait_for_texture(job)).uid == job.uid
        assert (await submit(service, 1)).uid == again.uid


@in_a_loop
async def test_an_export_of_the_shape_that_takes_too_long_does_not_lose_the_texture(
    gated: GatedEngine,
) -> None:
    leap = Leap()
    async with working(gated, stage_timeout_seconds=15.0) as service:
        job = await both_run(service, gated)
        leap(5.0)
        gated.hold("texture", 1).set()
        await has_ended(service, job, "texture")  # within the limit
        asking = Asking(service, job)
        await asyncio.sleep(0)
        leap(10.0)
        with pytest.raises(StepTimeoutError, match=r"^shape_export: did not end within 15 s$"):
            await asking.shape
        done = await asking.texture
        assert (done.status, done.shape_glb, done.error) == (Status.COMPLETED, None, None)
        assert service.manager.availability.fatal_error is None
        assert service.manager.threads.hung == service.manager.threads.cpu_running == 1
        gated.hold("shape_export", 1).set()  # it stops at its next report
        await until(lambda: service.manager.is_idle)
        assert service.job(job.uid).shape_glb is None
        assert (await service.wait_for_texture(await submit(service, 2))).textured_glb


@in_a_loop
async def test_an_export_of_the_texture_that_takes_too_long_ends_only_its_job(
    gated: GatedEngine,
) -> None:
    leap = Leap()
    async with working(gated, stage_timeout_seconds=15.0) as service:
        held = gated.hold("texture_export", 1)
        job = await submit(service, 1)
        await until(lambda: ("texture_export", 1) in gated.calls)
        asking = asyncio.ensure_future(service.wait_for_texture(job))
        await asyncio.sleep(0)
        leap(15.0)
        with pytest.raises(StepTimeoutError, match=r"^texture_export: did not end within 15 s$"):
            await asking
        failed = service.job(job.uid)
        assert (failed.status, failed.shape_glb is None) == (Status.ERROR, False)
        assert (await service.wait_for_texture(await submit(service, 2))).textured_glb
        held.set()
        await until(lambda: service.manager.is_idle)
        opened((await service.export(failed, failed.options, texture=True)).content.load())
        assert service.manager.availability.fatal_error is None


# ---- the texture fails -----------------------------------------------------------------------


@pytest.mark.parametrize("export", ["waits", "runs"])
@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (EngineError("no voxels"), EngineError),
        (MemoryError(), OutOfMemoryError),
        (EngineBrokenError("CUDA: device-side assert"), EngineBrokenError),
    ],
    ids=["fails", "out of memory", "breaks"],
)
@in_a_loop
async def test_a_failed_texture_does_not_lose_the_untextured_model(
    gated: GatedEngine, export: str, failure: BaseException, kind: type[ServerError]
) -> None:
    async with working(gated) as service:
        job = await (shape_export_waits if export == "waits" else both_run)(service, gated)
        asking = Asking(service, job)
        await fail(gated, "texture", failure)
        await until(lambda: service.manager.threads.steps_running == 1 + (export == "waits"))
        going_on = service.job(job.uid)
        assert (going_on.status, going_on.error) == (Status.SHAPE_PROCESSING, None)
        assert not asking.texture.done()
        gated.open_all()
        assert (await asking.shape).shape_glb
        with pytest.raises(kind):
            await asking.texture
        failed = service.job(job.uid)
        assert failed.status is Status.ERROR
        assert failed.shape_glb
        assert isinstance(failed.error, kind)
        assert "texture" not in failed.timings
        opened((await service.read_file(failed.shape_glb)).load())


@in_a_loop
async def test_a_request_after_a_failed_texture_gets_a_new_job_if_it_wants_a_texture(
    gated: GatedEngine,
) -> None:
    async with working(gated) as service:
        job = await both_run(service, gated)
        await fail(gated, "texture", EngineError("no"))
        await until(lambda: service.manager.threads.steps_running == 1)
        assert (await submit(service, 1, texture=False)).uid == job.uid
        again = await submit(service, 1)
        assert again.uid != job.uid
        gated.open_all()
        assert (await service.wait_for_texture(again)).textured_glb
        assert service.job(job.uid).status is Status.ERROR


@pytest.mark.parametrize("first", ["shape_export", "texture"])
@in_a_loop
async def test_when_both_fail_each_request_gets_its_own_reason(
    gated: GatedEngine, first: str
) -> None:
    errors = {"shape_export": ExportError("no faces"), "texture": OutOfMemoryError("no memory")}
    async with working(gated) as service:
        job = await both_run(service, gated)
        asking = Asking(service, job)
        for stage in sorted(errors, key=lambda stage: stage != first):
            await fail(gated, stage, errors[stage])
            running = gated.hold("texture", 1)
            await until(lambda: service.manager.threads.steps_running < 2)
            del running
        with pytest.raises(ExportError, match="no faces"):
            await asking.shape
        with pytest.raises(OutOfMemoryError, match="no memory"):
            await asking.texture
        failed = service.job(job.uid)
        assert (failed.status, str(failed.error)) == (Status.ERROR, "no memory")
        assert (await submit(service, 1)).uid != job.uid


@in_a_loop
async def test_a_texture_that_waits_when_the_engine_breaks_leaves_the_untextured_model(
    gated: GatedEngine,
) -> None:
    async with working(gated) as service:
        job = await texture_waits(service, gated)
        asking = Asking(service, job)
        gated.failures["shape"] = EngineBrokenError("CUDA: device-side assert")
        gated.hold("shape", 2).set()
        await service.manager.availability.has_failed.wait()
        assert service.job(job.uid).status is Status.SHAPE_PROCESSING
        gated.hold("shape_export", 1).set()
        assert (await asking.shape).shape_glb
        with pytest.raises(UnhealthyError, match="device-side assert"):
            await asking.texture
        await service.manager.is_drained.wait()
        assert ("texture", 1) not in gated.calls


# ---- cancelling and shutting down ------------------------------------------------------------


@in_a_loop
async def test_cancelling_stops_both_steps(gated: GatedEngine) -> None:
    async with working(gated) as service:
        job = await both_run(service, gated)
        asking = Asking(service, job)
        await asyncio.sleep(0)
        service.cancel(job)
        for request in (asking.shape, asking.texture):
            with pytest.raises(JobCancelledError):
                await request
        # A step that went on beyond its next report would fail.
        gated.failures |= {"shape_export": SystemExit(), "texture": SystemExit()}
        gated.open_all()
        await until(lambda: service.manager.is_idle)
        assert set(gated.failures) == {"shape_export", "texture"}
        cancelled = service.job(job.uid)
        assert (cancelled.status, cancelled.shape_glb) == (Status.CANCELLED, None)
        assert not list(service.manager.active_jobs)


@in_a_loop
async def test_at_shutdown_both_running_steps_end_and_the_textured_model_is_exported(
    gated: GatedEngine,
) -> None:
    async with working(gated) as service:
        job = await both_run(service, gated)
        asking = Asking(service, job)
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(service.manager.close())
        await asyncio.sleep(0.01)
        gated.hold("texture", 1).set()
        await has_ended(service, job, "texture")
        gated.hold("shape_export", 1).set()
        assert (await asking.shape).shape_glb
        assert (await asking.texture).textured_glb
        await closing


@in_a_loop
async def test_at_shutdown_the_export_of_a_shape_whose_texture_runs_still_starts(
    gated: GatedEngine,
) -> None:
    async with working(gated) as service:
        job = await shape_export_waits(service, gated)
        asking = Asking(service, job)
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(service.manager.close())
        await asyncio.sleep(0.01)
        gated.open_all()
        assert (await asking.shape).shape_glb
        assert (await asking.texture).textured_glb
        await closing


@in_a_loop
async def test_at_shutdown_no_texture_starts_and_its_job_is_complete_without(
    gated: GatedEngine,
) -> None:
    async with working(gated) as service:
        job = await texture_waits(service, gated)
        asking = Asking(service, job)
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(service.manager.close())
        await asyncio.sleep(0.01)
        gated.open_all()
        done = await asking.shape
        assert (done.status, done.error) == (Status.COMPLETED, None)
        with pytest.raises(ShuttingDownError):
            await asking.texture
        await closing
        assert ("texture", 1) not in gated.calls


@in_a_loop
async def test_steps_that_exceed_the_grace_end_their_job(gated: GatedEngine) -> None:
    async with working(gated, grace=0.05) as service:
        job = await both_run(service, gated)
        asking = Asking(service, job)
        await asyncio.sleep(0)
        await service.manager.close()
        for request in (asking.shape, asking.texture):
            with pytest.raises(ShuttingDownError):
                await request
        assert service.job(job.uid).status is Status.CANCELLED
