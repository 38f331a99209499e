"""Steps that hang or break the engine: which jobs end, and how clients are answered."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.support.engines import GatedEngine
from tests.support.exports import has_ended
from tests.support.managers import (
    HeldCutter,
    JobsUnderTest,
    Leap,
    begin,
    in_a_loop,
    options,
    submit,
    until,
    working,
)
from tests.support.server import fields, picture, serving, settings
from trellis2_server.errors import EngineBrokenError, StepTimeoutError, UnhealthyError
from trellis2_server.jobs.cleanup import ALL_THREADS_HANG
from trellis2_server.jobs.job import Caller, Status
from trellis2_server.jobs.threads import SPARE_PLACES

#: Longer than any step here takes that is not held.
TIMEOUT_S = 10.0


# ---- hanging and breaking ----------------------------------------------------------------------


@pytest.mark.costly
@pytest.mark.parametrize("fault", ["hangs", "breaks"])
@pytest.mark.parametrize("stage", ["shape", "texture"])
@in_a_loop
async def test_a_step_that_hangs_or_breaks_the_engine_ends_its_job_and_the_server(
    stage: str, fault: str
) -> None:
    engine, leap = GatedEngine(), Leap()
    held = engine.hold(stage, 1)
    async with working(engine, stage_timeout_seconds=TIMEOUT_S) as service:
        broken = await submit(service, 1)
        await begin(engine, stage)
        waiting = await submit(service, 2)
        await until(lambda: service.job(waiting.uid).image_hash is not None)
        if stage == "texture":  # the export of the shape must not exceed the time limit, too
            await has_ended(service, broken, "shape_export")
        asking = [asyncio.ensure_future(service.wait_for_texture(job)) for job in (broken, waiting)]
        await asyncio.sleep(0)
        if fault == "hangs":
            leap(TIMEOUT_S)
        else:
            engine.failures[stage] = EngineBrokenError("CUDA: device-side assert")
            held.set()
        with pytest.raises(EngineBrokenError) as caught:
            await asking[0]
        said = f"{stage}: did not end within 10 s" if fault == "hangs" else "device-side assert"
        assert said in str(caught.value)
        with pytest.raises(UnhealthyError, match=said) as refused:
            await asking[1]
        assert refused.value.retry_after_s > 0
        assert (
            service.manager.availability.fatal_error
            == str(caught.value)
            == service.manager.unavailable_reason
        )
        with pytest.raises(UnhealthyError, match=said):
            await submit(service, 3)
        with pytest.raises(UnhealthyError):
            await service.identify(picture(), remove_background=True)
        assert service.job(broken.uid).status is Status.ERROR
        assert (service.job(broken.uid).shape_glb is not None) == (stage == "texture")
        await service.manager.is_drained.wait()
        if fault == "hangs":  # its thread is still there
            assert not service.manager.is_idle
        held.set()
        await until(lambda: service.manager.is_idle)
        assert not [call for call in engine.calls if call[1] == 2]


@in_a_loop
async def test_a_cutout_that_takes_too_long_ends_only_its_job(engine: GatedEngine) -> None:
    leap, cutter = Leap(), HeldCutter()
    async with working(engine, cutter=cutter, stage_timeout_seconds=TIMEOUT_S) as service:
        cutter.gate.clear()
        hanging = await submit(service, 2)
        await until(lambda: len(cutter.calls) == 1)
        stuck, cutter.gate = cutter.gate, threading.Event()
        cutter.gate.set()
        asking = asyncio.ensure_future(service.wait_for_shape(hanging))
        await asyncio.sleep(0)
        leap(TIMEOUT_S)
        with pytest.raises(StepTimeoutError, match="cutout: did not end within 10 s"):
            await asking
        threads = service.manager.threads
        assert (threads.hung, threads.cpu_running, threads.steps_running) == (1, 1, 0)
        assert (await service.wait_for_texture(await submit(service, 1))).textured_glb
        assert service.manager.availability.fatal_error is None
        assert not service.manager.is_idle
        stuck.set()
        await until(lambda: service.manager.is_idle)
        assert (threads.hung, threads.cpu_running) == (0, 0)


@in_a_loop
async def test_a_thread_that_returns_late_serves_the_steps_that_wait_for_it(
    engine: GatedEngine,
) -> None:
    leap, cutter = Leap(), HeldCutter()
    limits = {"limit_model_concurrency": 1, "stage_timeout_seconds": TIMEOUT_S}
    async with working(engine, cutter=cutter, **limits) as service:
        held = engine.hold("shape", 1)
        job = await submit(service, 1)
        await begin(engine, "shape")
        cutter.gate.clear()
        waiting = await submit(service, 2)
        held.set()
        await until(lambda: len(cutter.calls) == 2)
        leap(TIMEOUT_S)
        with pytest.raises(StepTimeoutError):
            await service.wait_for_shape(waiting)
        # The thread hangs still: the job's exports run at the spare place.
        assert (await service.wait_for_texture(job)).textured_glb
        cutter.gate.set()


async def all_threads_hang(service: JobsUnderTest, cutter: HeldCutter, leap: Leap) -> None:
    """Have a cut-out of each of several clients exceed its time, where one may run at a time."""
    hanging = [
        await service.submit(picture(), options(number), Caller(client=str(number)), texture=None)
        for number in range(1 + SPARE_PLACES)
    ]
    await until(lambda: len(cutter.calls) == len(hanging))
    leap(TIMEOUT_S)
    for job in hanging:
        with pytest.raises(StepTimeoutError):
            await service.wait_for_shape(job)


@in_a_loop
async def test_when_every_thread_of_the_pool_hangs_for_long_and_work_waits_the_server_ends(
    engine: GatedEngine,
) -> None:
    leap, cutter = Leap(), HeldCutter()
    limits = {"limit_model_concurrency": 1, "stage_timeout_seconds": TIMEOUT_S}
    async with working(engine, cutter=cutter, **limits) as service:
        manager = service.manager
        cutter.gate.clear()
        await all_threads_hang(service, cutter, leap)
        leap(1.1 * TIMEOUT_S)
        manager.clean_up()
        assert manager.availability.fatal_error is None  # nothing waits
        waiting = asyncio.ensure_future(service.wait_for_shape(await submit(service, 9)))
        await asyncio.sleep(0)
        manager.clean_up()
        assert manager.availability.fatal_error == ALL_THREADS_HANG
        with pytest.raises(UnhealthyError, match="every thread for cut-outs and exports"):
            await waiting
        await manager.is_drained.wait()
        cutter.gate.set()


@in_a_loop
async def test_a_thread_that_returns_in_time_does_not_end_the_server(engine: GatedEngine) -> None:
    leap, cutter = Leap(), HeldCutter()
    limits = {"limit_model_concurrency": 1, "stage_timeout_seconds": TIMEOUT_S}
    async with working(engine, cutter=cutter, **limits) as service:
        cutter.gate.clear()
        await all_threads_hang(service, cutter, leap)
        waiting = await submit(service, 9)
        leap(TIMEOUT_S - 1)
        service.manager.clean_up()
        cutter.gate.set()
        assert (await service.wait_for_texture(waiting)).textured_glb
        leap(TIMEOUT_S)
        service.manager.clean_up()
        assert service.manager.availability.fatal_error is None


@in_a_loop
async def test_a_lookup_that_takes_too_long_ends_only_its_requests(engine: GatedEngine) -> None:
    leap, cutter = Leap(), HeldCutter()
    async with working(engine, cutter=cutter, stage_timeout_seconds=TIMEOUT_S) as service:
        cutter.gate.clear()
        names = [
            asyncio.ensure_future(service.identify(picture(), remove_background=True))
            for _ in range(2)
        ]
        both = 2 * len(picture())
        await until(lambda: len(cutter.calls) == 1 and service.manager.lookups.held_bytes == both)
        stuck, cutter.gate = cutter.gate, threading.Event()
        cutter.gate.set()
        leap(TIMEOUT_S)
        for name in names:
            with pytest.raises(StepTimeoutError, match="cutout: did not end"):
                await name
        # The thread for lookups is lost for now; others use the CPU pool.
        assert await service.identify(picture(1), remove_background=True)
        assert service.manager.availability.fatal_error is None
        stuck.set()
        await until(lambda: service.manager.is_idle)


@in_a_loop
async def test_after_a_fatal_error_lookups_that_wait_are_refused(engine: GatedEngine) -> None:
    cutter = HeldCutter()
    async with working(engine, cutter=cutter) as service:
        cutter.gate.clear()
        count = service.manager.threads.cpu_workers + 1
        names = [
            asyncio.ensure_future(service.identify(picture(shade), remove_background=True))
            for shade in range(count)
        ]
        await until(lambda: len(cutter.calls) == count - 1)
        service.manager.endings.fail_permanently("broken")
        with pytest.raises(UnhealthyError, match="broken"):
            await names[-1]
        cutter.gate.set()
        assert all([await name for name in names[:-1]])


@in_a_loop
async def test_without_a_time_limit_no_step_times_out(engine: GatedEngine) -> None:
    leap = Leap()
    held = engine.hold("shape", 1)
    async with working(engine, stage_timeout_seconds=None) as service:
        job = await submit(service, 1)
        await begin(engine, "shape")
        leap(20)
        await asyncio.sleep(0.01)
        held.set()
        assert (await service.wait_for_texture(job)).textured_glb


def test_an_unhealthy_server_reports_it(engine: GatedEngine) -> None:
    engine.failures["shape"] = EngineBrokenError("CUDA: device-side assert")
    with serving(engine, settings(server={"shutdown_grace_seconds": 0})) as server:
        server.wait_until_loaded()
        assert server.generate().status_code == 500
        reply = server.client.get("/healthcheck")
        assert (reply.status_code, reply.json()["status"]) == (503, "error")
        assert reply.json()["error"] == "CUDA: device-side assert"
        assert server.client.get("/health").json()["status"] == "error"
        refused = server.generate(fields(seed=2))
        assert (refused.status_code, refused.json()["error_code"]) == (503, 3)
        assert int(refused.headers["retry-after"]) > 0
        assert "device-side assert" in refused.json()["text"]


# ---- reloading ---------------------------------------------------------------------------------
