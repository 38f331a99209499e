"""A job's texture beside the export of its shape: the order of events, progress, estimates."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import PATIENCE_S
from tests.support.exports import both_run, has_ended, shape_export_waits, texture_waits
from tests.support.managers import Clock, begin, in_a_loop, options, submit, until, working
from tests.support.parts import Parts
from trellis2_server.jobs import progress
from trellis2_server.jobs.export_calls import ExportWork
from trellis2_server.jobs.job import Job, Status
from trellis2_server.jobs.progress import status_fraction
from trellis2_server.jobs.scheduler import Scheduler
from trellis2_server.jobs.threads import ThreadPools

if TYPE_CHECKING:
    from tests.support.engines import GatedEngine
    from trellis2_server.jobs.steps import Step

DURATIONS_S: dict[Step, float] = {
    "cutout": 1.0, "shape": 10.0, "shape_export": 4.0, "texture": 7.0, "texture_export": 5.0,
}  # fmt: skip


# ---- the order of events ---------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 5])
@in_a_loop
async def test_the_texture_begins_while_the_shape_is_exported(
    gated: GatedEngine, limit: int
) -> None:
    async with working(gated, limit_model_concurrency=limit) as service:
        job = await both_run(service, gated)
        gated.hold("texture", 1).set()
        await has_ended(service, job, "texture")
        await asyncio.sleep(0.01)
        assert service.job(job.uid).status is Status.SHAPE_PROCESSING  # nothing to fetch yet
        assert ("texture_export", 1) not in gated.calls
        gated.hold("shape_export", 1).set()
        done = await service.wait_for_texture(job)
        assert done.status is Status.COMPLETED
        assert done.shape_glb
        assert list(done.timings) == [
            "cutout", "shape", "texture", "shape_export", "texture_export",
        ]  # fmt: skip


@in_a_loop
async def test_the_untextured_model_does_not_wait_for_the_texture(gated: GatedEngine) -> None:
    async with working(gated) as service:
        job = await both_run(service, gated)
        asking = asyncio.ensure_future(service.wait_for_shape(job))
        gated.hold("shape_export", 1).set()
        assert (await asking).status is Status.TEXTURE_PROCESSING
        gated.hold("texture", 1).set()
        assert (await service.wait_for_texture(job)).textured_glb


@in_a_loop
async def test_a_texture_requested_during_the_export_follows_it(gated: GatedEngine) -> None:
    held = gated.hold("shape_export", 1)
    async with working(gated) as service:
        job = await submit(service, 1, texture=False)
        await begin(gated, "shape_export")
        asking = asyncio.ensure_future(service.wait_for_texture(job))
        await asyncio.sleep(0.01)
        assert ("texture", 1) not in gated.calls
        held.set()
        assert (await asking).textured_glb


@in_a_loop
async def test_the_shapes_of_others_go_before_a_texture_that_is_ready(gated: GatedEngine) -> None:
    async with working(gated) as service:
        jobs = [await texture_waits(service, gated)]
        jobs.append(await submit(service, 3))
        await has_ended(service, jobs[-1], "cutout")
        for stage, seed in (("shape", 2), ("shape_export", 1)):
            gated.hold(stage, seed).set()
        await asyncio.gather(*(service.wait_for_texture(job) for job in jobs))
    device = [call for call in gated.calls if call[0] in {"shape", "texture"}]
    assert device[:4] == [("shape", 1), ("shape", 2), ("shape", 3), ("texture", 1)]


@in_a_loop
async def test_a_shape_without_a_place_keeps_its_turn_before_a_texture_whose_job_has_one(
    gated: GatedEngine,
) -> None:
    first, export = gated.hold("shape", 1), gated.hold("shape_export", 1)
    async with working(gated, limit_model_concurrency=2) as service:
        jobs = [await submit(service, 1)]
        await begin(gated, "shape")
        jobs.append(await submit(service, 2))
        await has_ended(service, jobs[1], "cutout")
        gate = threading.Event()

        def wait(_: object) -> bytes:
            assert gate.wait(PATIENCE_S)
            return b"glb"

        calling = asyncio.ensure_future(service.manager.export_calls.run(ExportWork(wait)))
        await until(lambda: service.manager.threads.steps_running == 2)
        first.set()
        await begin(gated, "shape_export")
        await asyncio.sleep(0.01)
        assert gated.calls[-1] == ("shape_export", 1)
        export.set()
        assert await begin(gated, "shape") == 2
        gate.set()
        await asyncio.gather(calling, *(service.wait_for_texture(job) for job in jobs))


@in_a_loop
async def test_no_shape_and_no_texture_starts_while_many_results_wait() -> None:
    parts, threads = Parts(), ThreadPools(2, frozenset({"shape", "texture"}), 3)
    threads.device_is_reserved = False
    maintenance: Any = SimpleNamespace(is_engine_ready=True)
    unused: Any = SimpleNamespace()
    scheduler = Scheduler(parts.queue, parts.active_jobs, threads, unused, unused, maintenance)
    exported = [parts.add(running="shape_export") for _ in range(2)]
    parts.add(waiting_for=("shape_export", "texture"))
    exported[0].data.field = "a field"  # two results: the shape that waits, and this one
    assert {"shape", "texture"} <= scheduler._startable_steps()
    exported[1].data.field = "a field"
    assert not {"shape", "texture"} & scheduler._startable_steps()
    assert {"shape_export", "texture_export"} <= scheduler._startable_steps()
    threads.close()


# ---- progress and estimates ------------------------------------------------------------------


@in_a_loop
async def test_the_progress_of_the_texture_starts_from_where_it_is(
    gated: GatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PROGRESS_INTERVAL_S", 0.0)
    async with working(gated) as service:
        job = await both_run(service, gated)
        gated.hold("texture", 1).set()
        await has_ended(service, job, "texture")
        shown = service.job(job.uid).progress
        assert shown is not None
        assert shown.stage == "shape_export"  # not that of the texture
        states: list[Job] = []
        put = service.manager.registry.put

        def note(job: Job) -> Job:
            states.append(job)
            return put(job)

        monkeypatch.setattr(service.manager.registry, "put", note)
        gated.hold("shape_export", 1).set()
        await service.wait_for_texture(job)
        textured = [each for each in states if each.status is Status.TEXTURE_PROCESSING]
        fractions = [each.progress.fraction for each in textured if each.progress]
        assert len(fractions) == len(textured)
        assert fractions[0] == status_fraction("texture", "texture", 1, 2)
        assert fractions == sorted(fractions)


@in_a_loop
async def test_an_estimate_knows_that_two_steps_of_a_job_run_side_by_side(
    gated: GatedEngine,
) -> None:
    clock = Clock()
    async with working(gated, clock=clock) as service:
        for step, duration_s in DURATIONS_S.items():
            service.manager.estimator.durations.note(step, options(), duration_s)
        job = await both_run(service, gated)
        await until(lambda: service.job(job.uid).progress is not None)
        active = service.manager.active_jobs.get(job.uid)
        assert active is not None
        for running in active.steps.values():
            running.fraction = running.progress_after_s = 0.0
        assert service.eta_s(job) == pytest.approx(4)  # the untextured model needs its export only
        other = await submit(service, 2)
        await has_ended(service, other, "cutout")
        # Ahead are 7 s on the device and, at the same time, 4 + 5 s on two other threads.
        shape_s = service.manager.estimator.durations.expected_s("shape", options())
        assert shape_s is not None
        assert service.eta_s(other) == pytest.approx(shape_s + 4 + 7)
        clock.now = 4.0
        gated.hold("shape_export", 1).set()
        await service.wait_for_shape(job)
        # The export of its texture shares two threads with that of the other's shape.
        assert service.eta_s(job) == pytest.approx(7 - 4 + 5 + 4 / 2)
        gated.hold("texture", 1).set()
        await asyncio.gather(*(service.wait_for_texture(each) for each in (job, other)))


@in_a_loop
async def test_a_job_whose_texture_runs_shows_that_its_shape_waits_to_be_exported(
    gated: GatedEngine,
) -> None:
    async with working(gated) as service:
        job = await shape_export_waits(service, gated)
        assert service.queue_position(job) == 1
        assert service.manager.active_jobs.waiting == 0  # for the limits, it runs
        gated.open_all()
        assert (await service.wait_for_texture(job)).textured_glb
