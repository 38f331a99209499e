from __future__ import annotations

import asyncio

import pytest

from tests.support.engines import GatedEngine
from tests.support.managers import (
    Clock,
    HeldCutter,
    Leap,
    begin,
    in_a_loop,
    options,
    submit,
    until,
    working,
)
from tests.support.server import picture
from trellis2_server.errors import (
    EngineError,
    JobCancelledError,
    JobNotFoundError,
    LoadingError,
    ShuttingDownError,
)
from trellis2_server.jobs.job import Status

# ---- memory and retention ----------------------------------------------------------------------


@in_a_loop
async def test_only_finished_jobs_age_out_and_leave_nothing(engine: GatedEngine) -> None:
    clock = Clock()
    async with working(engine, clock=clock, job_max_age_seconds=100) as service:
        done = await service.wait_for_texture(await submit(service, 1))
        untextured = await service.wait_for_shape(await submit(service, 2, texture=False))
        joined = await service.submit(picture(0, file_format="WEBP"), options(1), texture=None)
        await service.wait_for_shape(joined)
        held = engine.hold("shape", 3)
        running = await submit(service, 3)
        clock.now = 100.0
        service.manager.clean_up()
        assert done.uid in service.manager.registry  # asking for it would prolong it
        clock.now = 101.0
        service.manager.clean_up()
        for gone in (done, untextured, joined):
            with pytest.raises(JobNotFoundError):
                service.job(gone.uid)
        assert service.job(running.uid).uid == running.uid
        assert [active.uid for active in service.manager.active_jobs] == [running.uid]
        assert len(service.manager.registry._by_key) <= 2
        assert not service.manager.registry._merged
        held.set()
        assert (await service.wait_for_texture(running)).textured_glb


@in_a_loop
async def test_only_a_job_that_has_not_started_and_is_not_requested_is_abandoned(
    engine: GatedEngine,
) -> None:
    clock = Clock()
    held = engine.hold("shape", 1)
    async with working(engine, clock=clock, limit_model_concurrency=1) as service:
        begun = await submit(service, 1)
        await begin(engine, "shape")
        left, asked, awaited = [await submit(service, seed) for seed in (2, 3, 4)]
        waiting = asyncio.ensure_future(service.wait_for_shape(awaited))
        clock.now = 119.0
        service.job(asked.uid)
        await submit(service, 3)
        clock.now = 121.0
        service.manager.clean_up()
        assert service.job(left.uid).status is Status.CANCELLED
        with pytest.raises(JobCancelledError, match="no client asked"):
            await service.wait_for_shape(left)
        assert (await submit(service, 2)).uid != left.uid
        held.set()
        assert (await waiting).shape_glb
        assert (await service.wait_for_shape(asked)).shape_glb
        assert (await service.wait_for_texture(begun)).textured_glb


# ---- begin and end -------------------------------------------------------------------------------


@in_a_loop
async def test_nothing_is_accepted_before_the_engine_is_loaded() -> None:
    engine = GatedEngine("load")
    async with working(engine) as service:
        with pytest.raises(LoadingError, match="the model is loading"):
            await submit(service, 1)
        engine.open_all()
        await until(lambda: service.manager.lifecycle.status == "ok")
        assert service.manager.lifecycle.seconds is not None
        assert (await service.wait_for_shape(await submit(service, 1))).shape_glb


@pytest.mark.parametrize("failure", [EngineError("no weights"), SystemExit("no weights")])
@in_a_loop
async def test_a_failed_load_is_the_reason_of_every_refusal(failure: BaseException) -> None:
    engine = GatedEngine()
    engine.failures["load"] = failure
    async with working(engine) as service:
        assert service.manager.lifecycle.status == "error"
        with pytest.raises(LoadingError, match=r"could not be loaded: .*no weights"):
            await submit(service, 1)
        with pytest.raises(LoadingError, match="no weights"):
            await service.identify(picture(), remove_background=True)


@in_a_loop
async def test_at_shutdown_running_steps_end_and_waiting_requests_are_answered(
    engine: GatedEngine,
) -> None:
    held = engine.hold("shape", 1)
    async with working(engine) as service:
        runs = await submit(service, 1, texture=True)
        await begin(engine, "shape")
        waits = await submit(service, 2)
        textured = asyncio.ensure_future(service.wait_for_texture(runs))
        shapes = [asyncio.ensure_future(service.wait_for_shape(job)) for job in (runs, waits)]
        await until(lambda: service.job(waits.uid).image_hash is not None)
        closing = [asyncio.ensure_future(service.manager.close()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(ShuttingDownError):
            await submit(service, 3)
        with pytest.raises(ShuttingDownError):
            await shapes[1]
        held.set()
        assert (await shapes[0]).shape_glb
        with pytest.raises(ShuttingDownError) as caught:
            await textured
        assert caught.value.retry_after_s > 0
        await asyncio.gather(*closing)
        assert service.manager.is_idle
    assert ("texture", 1) not in engine.calls


@in_a_loop
async def test_requests_of_a_step_that_exceeds_the_grace_are_answered(engine: GatedEngine) -> None:
    engine.hold("shape", 1)
    async with working(engine, grace=0.05) as service:
        waiting = asyncio.ensure_future(service.wait_for_shape(await submit(service, 1)))
        await begin(engine, "shape")
        await service.manager.close()
        with pytest.raises(ShuttingDownError):
            await waiting
        assert not service.manager.is_idle


@in_a_loop
async def test_a_job_merged_at_shutdown_is_answered(engine: GatedEngine) -> None:
    cutter = HeldCutter()
    async with working(engine, cutter=cutter) as service:
        await service.wait_for_shape(await submit(service, 1, texture=False))
        cutter.gate.clear()
        webp = await service.submit(picture(0, file_format="WEBP"), options(), texture=None)
        waiting = [
            asyncio.ensure_future(call(webp))
            for call in (service.wait_for_shape, service.wait_for_texture)
        ]
        await until(lambda: len(cutter.calls) == 2)
        closing = asyncio.ensure_future(service.manager.close())
        await asyncio.sleep(0)
        cutter.gate.set()
        assert (await waiting[0]).shape_glb
        with pytest.raises(ShuttingDownError):
            await waiting[1]
        await closing


@in_a_loop
async def test_the_manager_can_be_closed_while_it_loads() -> None:
    engine = GatedEngine("load")
    async with working(engine, grace=0.05) as service:
        await begin(engine, "load")
        await service.manager.close()
        assert not service.manager.is_idle
        engine.open_all()
        service.manager.lifecycle.status = "error"  # no loop is left to record it


@in_a_loop
async def test_the_cleanup_goes_on_after_a_failure() -> None:
    leap, runs = Leap(), 0

    def fail() -> None:
        nonlocal runs
        runs += 1
        raise KeyError("x")

    async with working(GatedEngine(), job_cleanup_interval_seconds=2) as service:
        service.manager._cleanup.run = fail  # type: ignore[method-assign]
        for number in (1, 2):
            await asyncio.sleep(0)
            leap(2)
            await until(lambda number=number: runs == number)
