"""Which requests get a job that exists."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.engines import GatedEngine
from tests.support.managers import (
    Clock,
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
)
from trellis2_server.jobs.job import Status

if TYPE_CHECKING:
    from trellis2_server.jobs.job import Job


@in_a_loop
async def test_however_many_ask_at_once_it_is_computed_once(engine: GatedEngine) -> None:
    async with working(engine) as service:

        async def ask() -> Job:
            return await service.wait_for_shape(await submit(service, 1))

        shapes = await asyncio.gather(*(ask() for _ in range(30)))
        models = await asyncio.gather(*(service.wait_for_texture(shapes[0]) for _ in range(30)))
        again = await service.wait_for_texture(await submit(service, 1))
    assert len({job.uid for job in (*shapes, *models, again)}) == 1
    assert {job.shape_glb for job in shapes} == {again.shape_glb}
    assert {job.textured_glb for job in models} == {again.textured_glb}
    assert engine.calls == [("load", -1), ("shape", 1), ("texture", 1)]


@in_a_loop
async def test_another_encoding_of_the_picture_is_merged_into_the_job(engine: GatedEngine) -> None:
    held = engine.hold("shape", 1)
    async with working(engine) as service:
        png = await submit(service, 1, texture=False)
        await begin(engine, "shape")
        webp = await service.submit(picture(0, file_format="WEBP"), options(), texture=None)
        assert webp.uid != png.uid
        waiting = asyncio.ensure_future(service.wait_for_texture(webp))
        await until(lambda: service.job(webp.uid).uid == png.uid)
        assert service.queue_length == 1
        held.set()
        done = await waiting
        assert done.uid == (await service.wait_for_shape(webp)).uid == png.uid
        once_more = await service.submit(picture(0, file_format="WEBP"), options(), texture=None)
        assert once_more.uid == png.uid
        assert once_more.image_hash == done.image_hash
    assert engine.calls.count(("shape", 1)) == 1


@in_a_loop
async def test_requests_of_a_merged_job_get_its_failure_too(engine: GatedEngine) -> None:
    engine.failures["shape"] = EngineError("no shape")
    held = engine.hold("shape", 1)
    async with working(engine) as service:
        first = await submit(service, 1)
        await begin(engine, "shape")
        second = await service.submit(picture(0, file_format="WEBP"), options(), texture=None)
        waiting = [asyncio.ensure_future(service.wait_for_shape(job)) for job in (first, second)]
        await until(lambda: service.job(second.uid).uid == first.uid)
        held.set()
        for task in waiting:
            with pytest.raises(EngineError, match=r"^no shape$"):
                await task


@in_a_loop
async def test_a_job_merged_into_a_finished_one_is_answered_at_once(engine: GatedEngine) -> None:
    async with working(engine) as service:
        first = await service.wait_for_texture(await submit(service, 1))
        second = await service.submit(picture(0, file_format="WEBP"), options(), texture=True)
        assert (await service.wait_for_texture(second)).textured_glb is first.textured_glb


@in_a_loop
async def test_a_random_seed_matches_nothing(engine: GatedEngine) -> None:
    async with working(engine) as service:
        jobs = [await submit(service, -1) for _ in range(3)]
        done = [await service.wait_for_shape(job) for job in jobs]
        assert len({job.uid for job in done}) == 3
        assert service.job(done[0].image_hash or "").uid == jobs[-1].uid


@in_a_loop
async def test_other_parameters_make_another_job_that_the_hash_refers_to(
    engine: GatedEngine,
) -> None:
    async with working(engine) as service:
        first = await service.wait_for_shape(await submit(service, 1))
        other = await service.wait_for_shape(await submit(service, 2))
        assert first.image_hash == other.image_hash
        assert first.uid != other.uid
        assert service.job(other.image_hash or "").uid == other.uid
        assert service.job(first.uid).uid == first.uid
        await submit(service, 1)
        assert service.job(other.image_hash or "").uid == first.uid


@in_a_loop
async def test_a_failed_or_cancelled_job_is_not_matched(engine: GatedEngine) -> None:
    engine.failures["shape"] = EngineError("no")
    async with working(engine) as service:
        failed = await submit(service, 1)
        with pytest.raises(EngineError):
            await service.wait_for_shape(failed)
        held = engine.hold("shape", 1)
        cancelled = await submit(service, 1)
        await begin(engine, "shape")
        await begin(engine, "shape")
        service.cancel(cancelled)
        with pytest.raises(JobCancelledError):
            await service.wait_for_shape(cancelled)
        assert service.job(cancelled.uid).status is Status.CANCELLED
        held.set()
        done = await service.wait_for_shape(await submit(service, 1))
        assert len({done.uid, failed.uid, cancelled.uid}) == 3
        assert service.job(done.image_hash or "").uid == done.uid


@pytest.mark.parametrize("ask", ["submit", "merge", "status", "view", "file", "mesh"])
@in_a_loop
async def test_a_finished_job_that_is_asked_for_ages_from_then_on(ask: str) -> None:
    clock, engine = Clock(), GatedEngine()
    async with working(engine, clock=clock, job_max_age_seconds=100) as service:
        job = await service.wait_for_texture(await submit(service, 1))
        await until(lambda: service.manager.is_idle)
        clock.now = 99.0
        if ask == "submit":
            assert (await submit(service, 1)).uid == job.uid
        elif ask == "merge":
            webp = picture(0, file_format="WEBP")
            await service.wait_for_texture(await service.submit(webp, options(), texture=None))
        elif ask == "status":
            await service.get_job(job.uid)
        elif ask == "view":
            await service.get_view(str(job.image_hash))
        elif ask == "file":
            await service.get_file(job.uid, "shape.glb")
        else:
            assert await service.find_by_shape(job.shape_md5)
        clock.now = 198.0
        service.manager.clean_up()
        assert job.uid in service.manager.registry
        await service.list_jobs(limit=10)  # names no job
        clock.now = 200.0
        service.manager.clean_up()
        assert job.uid not in service.manager.registry
