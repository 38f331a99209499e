"""The order of steps, and how many run at one time."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.managers import (
    Clock,
    HeldCutter,
    begin,
    in_a_loop,
    options,
    submit,
    until,
    working,
)
from tests.support.meshes import as_bytes, egg
from tests.support.server import picture
from trellis2_server.digests import md5
from trellis2_server.jobs.export_calls import ExportWork
from trellis2_server.jobs.job import Caller, Status

if TYPE_CHECKING:
    from tests.support.managers import JobsUnderTest
    from trellis2_server.jobs.job import Job
    from trellis2_server.reports import Report


@in_a_loop
async def test_the_earliest_deadline_goes_first_and_no_texture_starves(engine: GatedEngine) -> None:
    clock = Clock()
    first, second = engine.hold("shape", 1), engine.hold("shape", 2)
    async with working(engine, clock=clock) as service:
        jobs = [await submit(service, 1)]
        assert await begin(engine, "shape") == 1
        jobs.append(await submit(service, 2))
        await until(lambda: service.job(jobs[1].uid).image_hash is not None)
        first.set()
        assert await begin(engine, "shape") == 2
        await until(lambda: service.job(jobs[0].uid).status is Status.TEXTURE_PROCESSING)
        for seed, clock.now in ((3, 10.0), (4, 70.0)):
            jobs.append(await submit(service, seed))
            await until(lambda: service.job(jobs[-1].uid).image_hash is not None)
        assert [service.queue_position(job) for job in jobs] == [2, None, 1, 3]
        second.set()
        await asyncio.gather(*(service.wait_for_texture(job) for job in jobs))
    # The texture of 1 was due at 60: after what came at 10, before what came at 70.
    assert engine.calls[1:6] == [
        ("shape", 1), ("shape", 2), ("shape", 3), ("texture", 1), ("shape", 4),
    ]  # fmt: skip


@pytest.mark.parametrize("spacing_s", [0.0, 1.0, 12.0, 24.0])
@in_a_loop
async def test_the_order_is_fair_and_the_device_is_never_idle_while_work_waits(
    spacing_s: float,
) -> None:
    """No job waits longer than 1.5 times the duration of the jobs ahead of it at its arrival."""
    engine, clock, duration_s = GatedEngine(), Clock(), {"shape": 10.0, "texture": 15.0}
    gates = {(stage, seed): engine.hold(stage, seed) for stage in duration_s for seed in range(10)}
    arrivals = [(seed * spacing_s, seed) for seed in range(10)]
    ahead: dict[int, int] = {}
    began: dict[int, float] = {}
    left: dict[int, set[str]] = {}

    async with working(engine, clock=clock, abandoned_job_seconds=86_400) as service:
        await begin(engine, "load")

        async def arrive(until_s: float) -> None:
            while arrivals and arrivals[0][0] <= until_s:
                at_s, seed = arrivals.pop(0)
                clock.now = max(clock.now, at_s)
                ahead[seed], left[seed] = len(left), set(duration_s)
                await submit(service, seed)
                await until(lambda: service.manager.threads.cpu_running == 0)

        await arrive(0.0)
        while left:
            assert service.queue_length  # there is work, so the device starts a step
            stage, seed = await asyncio.to_thread(engine.begun.get, timeout=PATIENCE_S)
            began.setdefault(seed, clock.now)
            end_s = clock.now + duration_s[stage]
            await arrive(end_s)
            clock.now = end_s
            left[seed].remove(stage)
            if not left[seed]:
                del left[seed]
            gates[stage, seed].set()
            if not left and arrivals:
                await arrive(arrivals[0][0])
    mean_s = sum(duration_s.values())
    waits = {seed: began[seed] - seed * spacing_s for seed in began}
    assert len(waits) == 10
    assert all(waits[seed] <= 1.5 * ahead[seed] * mean_s for seed in waits)


@pytest.mark.parametrize("limit", [1, 2])
@in_a_loop
async def test_no_more_steps_run_than_the_limit(limit: int) -> None:
    engine, cutter = GatedEngine(), HeldCutter()
    held = engine.hold("shape", 1)
    async with working(engine, cutter=cutter, limit_model_concurrency=limit) as service:
        jobs = [await submit(service, 1)]
        await begin(engine, "shape")
        cutter.gate.clear()
        jobs += [await submit(service, seed) for seed in (2, 3, 4)]
        await until(lambda: len(cutter.calls) == limit)
        await asyncio.sleep(0.02)
        assert len(cutter.calls) == limit
        assert service.queue_length == 4
        cutter.gate.set()
        held.set()
        await asyncio.gather(*(service.wait_for_texture(job) for job in jobs))
    assert service.queue_length == 0


@in_a_loop
async def test_progress_never_goes_back(engine: GatedEngine) -> None:
    async with working(engine) as service:
        job = await submit(service, 1)
        seen: list[tuple[Status, float]] = []
        while not (now := service.job(job.uid)).status.is_finished:
            if now.progress:
                seen.append((now.status, now.progress.fraction))
            await asyncio.sleep(0)
        for status in (Status.SHAPE_PROCESSING, Status.TEXTURE_PROCESSING):
            fractions = [fraction for at, fraction in seen if at is status]
            assert fractions == sorted(fractions)
            assert all(0 <= fraction <= 1 for fraction in fractions)


# ---- slow files of one client ------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 5])
@in_a_loop
async def test_slow_pictures_of_one_client_do_not_keep_another_one_waiting(limit: int) -> None:
    cutter = HeldCutter()
    slow = cutter.gate = threading.Event()
    async with working(GatedEngine(), cutter=cutter, limit_model_concurrency=limit) as service:
        workers = service.manager.threads.cpu_workers
        jobs = [await send(service, seed, "greedy") for seed in range(1, workers + 3)]
        await until(lambda: len(cutter.calls) == workers)
        cutter.gate = opened()
        other = await send(service, 99, "other")
        assert (await service.wait_for_texture(other)).textured_glb
        assert len(cutter.calls) == workers + 1
        slow.set()
        await asyncio.gather(*(service.wait_for_texture(job) for job in jobs))


@pytest.mark.parametrize("limit", [1, 2])
@in_a_loop
async def test_slow_meshes_of_one_client_do_not_keep_another_one_waiting(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, mesh = threading.Event(), as_bytes(egg(), "stl")
    reading: list[bytes] = []
    async with working(GatedEngine(), limit_model_concurrency=limit) as service:
        workers = service.manager.threads.cpu_workers
        read_mesh: Any = service.manager.executor.read_mesh

        def read_slowly(content: bytes, *more: Any) -> object:
            reading.append(content)
            assert gate.wait(PATIENCE_S)
            return read_mesh(content, *more)

        monkeypatch.setattr(service.manager.executor, "read_mesh", read_slowly)
        jobs = [await send(service, seed, "greedy", mesh) for seed in range(1, workers + 2)]
        await until(lambda: len(reading) == workers)
        other = await send(service, 99, "other")
        assert (await service.wait_for_texture(other)).textured_glb
        assert len(reading) == workers
        gate.set()
        await asyncio.gather(*(service.wait_for_texture(job) for job in jobs))


@pytest.mark.parametrize("limit", [1, 2])
@in_a_loop
async def test_slow_exports_of_one_client_do_not_keep_another_one_waiting(limit: int) -> None:
    gate = threading.Event()
    started: list[int] = []
    async with working(GatedEngine(), limit_model_concurrency=limit) as service:
        calls, workers = service.manager.export_calls, service.manager.threads.cpu_workers

        def export(number: int, report: Report) -> bytes:
            del report
            started.append(number)
            assert gate.wait(PATIENCE_S)
            return b""

        waiting = [
            asyncio.ensure_future(calls.run(ExportWork(partial(export, number)), "greedy"))
            for number in range(workers + 2)
        ]
        await until(lambda: len(started) == workers)
        other = await send(service, 99, "other")
        assert (await service.wait_for_texture(other)).textured_glb
        assert len(started) == workers
        assert await calls.run(ExportWork(lambda _: b"done"), "other")
        gate.set()
        await asyncio.gather(*waiting)


@in_a_loop
async def test_who_waits_for_a_job_of_a_client_with_slow_pictures_gets_it_served() -> None:
    cutter = HeldCutter()
    slow = cutter.gate = threading.Event()
    async with working(GatedEngine(), cutter=cutter, limit_model_concurrency=1) as service:
        first = await send(service, 1, "greedy")
        await until(lambda: len(cutter.calls) == 1)
        waiting = await send(service, 2, "greedy")
        cutter.gate = opened()
        assert (await send(service, 2, "other")).uid == waiting.uid
        assert (await service.wait_for_texture(waiting)).textured_glb
        slow.set()
        await service.wait_for_texture(first)


def opened() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


async def send(service: JobsUnderTest, seed: int, client: str, mesh: bytes | None = None) -> Job:
    chosen = replace(options(seed), mesh=mesh and md5(mesh))
    return await service.submit(picture(), chosen, Caller(client=client), texture=None, mesh=mesh)
