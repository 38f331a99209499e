"""Listing, cancelling and deleting jobs, and their owners."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import PATIENCE_S
from tests.support.glb_files import opened
from tests.support.managers import begin, in_a_loop, options, submit, until, working
from tests.support.server import picture
from trellis2_server.errors import (
    JobCancelledError,
    JobNotFoundError,
)
from trellis2_server.jobs import executor
from trellis2_server.jobs.job import Caller, Job, Status

if TYPE_CHECKING:
    from tests.support.engines import GatedEngine
    from tests.support.managers import JobsUnderTest

ALICE, BOB = Caller("alice", "alice"), Caller("bob", "bob")
HERE, THERE = Caller("", "10.0.0.1"), Caller("", "10.0.0.2")


async def submit_as(caller: Caller, service: JobsUnderTest, seed: int, **more: Any) -> Job:
    return await service.submit(picture(), options(seed), caller, texture=None, **more)


@in_a_loop
async def test_a_job_is_cancelled_by_the_first_delete_and_removed_by_the_second(
    engine: GatedEngine,
) -> None:
    held = engine.hold("shape", 1)
    async with working(engine, limit_model_concurrency=1) as service:
        running, waiting = await submit(service, 1), await submit(service, 2)
        await begin(engine, "shape")
        asking = [asyncio.ensure_future(service.wait_for_shape(job)) for job in (running, waiting)]
        await asyncio.sleep(0)
        next_one = await submit(service, 3)
        for job in (waiting, running):
            await service.delete(job.uid)
        for waiter in asking:
            with pytest.raises(JobCancelledError):
                await waiter
        assert service.queue_position(waiting) is None
        assert service.queue_position(next_one) == 1
        held.set()
        assert (await service.wait_for_texture(next_one)).textured_glb
        assert ("shape", 2) not in engine.calls
        assert ("texture", 1) not in engine.calls
        for job in (running, waiting, next_one):
            await service.delete(job.uid)
            with pytest.raises(JobNotFoundError):
                service.job(job.uid)
        with pytest.raises(JobNotFoundError):
            service.job(next_one.image_hash or "0" * 32)
        assert not len(service.manager.registry)
        assert not service.manager.active_jobs


@in_a_loop
async def test_a_job_whose_texture_is_cancelled_keeps_its_shape(engine: GatedEngine) -> None:
    held = engine.hold("texture", 1)
    async with working(engine) as service:
        job = await service.wait_for_shape(await submit(service, 1))
        await begin(engine, "texture")
        await service.delete(job.uid)
        with pytest.raises(JobCancelledError):
            await service.wait_for_texture(job)
        assert service.job(job.uid).status is Status.CANCELLED
        assert (await service.wait_for_shape(job)).shape_glb == job.shape_glb
        held.set()


@in_a_loop
async def test_a_job_that_other_clients_requested_stays_theirs(engine: GatedEngine) -> None:
    held = engine.hold("shape", 1)
    async with working(engine) as service:
        job = await submit_as(HERE, service, 1)
        await begin(engine, "shape")
        webp = picture(0, file_format="WEBP")
        joined = await service.submit(webp, options(), THERE, texture=None)
        await until(lambda: service.job(joined.uid).uid == job.uid)
        waiting = asyncio.ensure_future(service.wait_for_shape(joined))
        await service.delete(job.uid, HERE)
        held.set()
        done = await waiting
        assert done.shape_glb
        await service.wait_for_texture(done)
        await service.delete(joined.uid, THERE)
        with pytest.raises(JobNotFoundError):
            service.job(job.uid)


@in_a_loop
async def test_a_client_that_never_requested_a_job_cancels_it_for_all(engine: GatedEngine) -> None:
    held = engine.hold("shape", 1)
    async with working(engine) as service:
        job = await submit_as(HERE, service, 1)
        await submit_as(THERE, service, 1)
        await begin(engine, "shape")
        await service.delete(job.uid, Caller("", "the operator's"))
        assert service.job(job.uid).status is Status.CANCELLED
        held.set()


@in_a_loop
async def test_a_key_neither_sees_nor_shares_the_jobs_of_another(engine: GatedEngine) -> None:
    async with working(engine) as service:
        hers = await service.wait_for_texture(await submit_as(ALICE, service, 1))
        his = await service.wait_for_texture(await submit_as(BOB, service, 1))
        assert hers.uid != his.uid
        assert engine.calls.count(("shape", 1)) == 2
        assert hers.image_hash == his.image_hash
        webp = await service.submit(picture(0, file_format="WEBP"), options(), BOB, texture=None)
        assert (await service.wait_for_texture(webp)).uid == his.uid
        for caller, own, others in ((ALICE, hers, his), (BOB, his, hers)):
            assert service.job(own.image_hash or "", caller).uid == own.uid
            assert await service.find_by_shape(own.shape_md5, caller) is own
            page, _ = await service.list_jobs(caller, limit=9)
            assert [view.job.uid for view in page] == [own.uid]
            for call in (service.get_job, service.delete):
                with pytest.raises(JobNotFoundError):
                    await call(others.uid, caller)
            with pytest.raises(JobNotFoundError):
                await service.list_jobs(caller, limit=9, before=others.uid)
        for nobodys in (hers.uid, hers.image_hash or ""):
            with pytest.raises(JobNotFoundError):
                service.job(nobodys)


@in_a_loop
async def test_the_mesh_of_another_keys_job_is_an_ordinary_mesh(engine: GatedEngine) -> None:
    async with working(engine) as service:
        hers = await service.wait_for_shape(await submit_as(ALICE, service, 1))
        mesh = (await service.read_file(hers.shape_glb)).load()
        wanted = replace(options(2), mesh=hers.shape_md5)
        same = await service.submit(picture(), wanted, ALICE, texture=None, mesh=mesh)
        assert same.uid == hers.uid
        other = await service.submit(picture(), wanted, BOB, texture=None, mesh=mesh)
        assert (await service.wait_for_texture(other)).uid != hers.uid
        assert engine.calls.count(("texture_mesh", 2)) == 1


@in_a_loop
async def test_jobs_are_listed_by_pages_newest_first(engine: GatedEngine) -> None:
    async with working(engine) as service:
        made = [(await submit(service, seed)).uid for seed in range(5)]
        page, has_more = await service.list_jobs(limit=2)
        assert ([view.job.uid for view in page], has_more) == (made[:2:-1], True)
        page, has_more = await service.list_jobs(limit=3, before=page[-1].job.uid)
        assert ([view.job.uid for view in page], has_more) == (made[2::-1], False)
        assert await service.list_jobs(limit=1, before=made[0]) == ([], False)


# ---- exporting again -------------------------------------------------------------------------


@pytest.mark.parametrize("texture", [None, False])
@in_a_loop
async def test_a_job_can_be_exported_from_its_last_event_on(
    engine: GatedEngine, monkeypatch: pytest.MonkeyPatch, *, texture: bool | None
) -> None:
    gate = threading.Event()

    def held(make: Any) -> Any:
        def snapshot(value: Any) -> bytes:
            assert gate.wait(PATIENCE_S)
            return make(value)

        return snapshot

    for make in (executor.shape_snapshot, executor.field_snapshot):
        monkeypatch.setattr(executor, make.__name__, held(make))
    async with working(engine) as service:
        job = await submit(service, 1, texture=texture)
        async with aclosing(service.watch(job, heartbeat_s=60)) as views:
            seen = [view async for view in views if view]
        assert seen[-1].job.status is Status.COMPLETED
        assert seen[-1].can_export
        asking = asyncio.ensure_future(service.export(job, job.options, texture=None))
        await asyncio.sleep(0.01)
        assert not asking.done()
        gate.set()
        exported, _ = opened((await asking).content.load())
        assert bool(exported.get("images")) is (texture is None)
