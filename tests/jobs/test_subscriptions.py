"""Following, listing, cancelling and deleting jobs, and whose they are, without HTTP."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.managers import begin, in_a_loop, options, submit, until, working
from tests.support.server import picture
from trellis2_server.errors import (
    JobCancelledError,
    JobNotFoundError,
    QueueFullError,
    ShuttingDownError,
    TooManyRequestsError,
)
from trellis2_server.jobs.job import Caller, Job, Status
from trellis2_server.jobs.subscriptions import Subscription

if TYPE_CHECKING:
    from tests.support.engines import GatedEngine
    from tests.support.managers import JobsUnderTest

ALICE, BOB = Caller("alice", "alice"), Caller("bob", "bob")
HERE, THERE = Caller("", "10.0.0.1"), Caller("", "10.0.0.2")


async def submit_as(caller: Caller, service: JobsUnderTest, seed: int, **more: Any) -> Job:
    return await service.submit(picture(), options(seed), caller, texture=None, **more)


async def collect(service: JobsUnderTest, job: Job) -> list[Job]:
    return [state async for state in service.states(job, heartbeat_s=60) if state]


# ---- following -------------------------------------------------------------------------------


@in_a_loop
async def test_a_listener_hears_the_job_from_its_present_state_to_its_end(
    engine: GatedEngine,
) -> None:
    shape, texture = engine.hold("shape", 1), engine.hold("texture", 1)
    async with working(engine) as service:
        job = await submit(service, 1)
        await begin(engine, "shape")
        states = service.states(job, heartbeat_s=60)
        first = await anext(states)
        assert first
        assert first.status is Status.SHAPE_PROCESSING
        shape.set()
        await begin(engine, "texture")
        heard = [first]
        while heard[-1].status is Status.SHAPE_PROCESSING:
            state = await anext(states)
            assert state
            heard.append(state)
        assert heard[-1].status is Status.TEXTURE_PROCESSING
        assert heard[-1].shape_glb
        late = asyncio.ensure_future(collect(service, job))
        texture.set()
        rest = [state async for state in states if state]
        assert [state.status for state in rest[-1:]] == [Status.COMPLETED]
        assert set(rest[-1].timings) == {
            "cutout", "shape", "shape_export", "texture", "texture_export",
        }  # fmt: skip
        assert (await late)[-1].status is Status.COMPLETED
        assert [state.status for state in await collect(service, rest[-1])] == [Status.COMPLETED]
        assert not len(service.manager.subscriptions)


@in_a_loop
async def test_a_slow_listener_gets_the_latest_and_no_backlog(engine: GatedEngine) -> None:
    async with working(engine) as service:
        job = await submit(service, 1)
        states = service.states(job, heartbeat_s=60)
        await anext(states)
        done = await service.wait_for_texture(job)
        assert [state async for state in states] == [done]


@in_a_loop
async def test_who_listens_to_a_picture_that_is_known_hears_the_job_it_joined(
    engine: GatedEngine,
) -> None:
    held = engine.hold("shape", 1)
    async with working(engine) as service:
        known = await submit(service, 1)
        await begin(engine, "shape")
        other = await service.submit(picture(0, file_format="WEBP"), options(), texture=None)
        subscribe = asyncio.ensure_future(collect(service, other))
        await until(lambda: service.job(other.uid).uid == known.uid)
        held.set()
        heard = await subscribe
        assert heard[0].uid == other.uid
        assert heard[-1].uid == known.uid
        assert heard[-1].status is Status.COMPLETED
        assert not service.manager.subscriptions._by_uid


@in_a_loop
async def test_a_waiting_job_hears_that_it_moved_up(engine: GatedEngine) -> None:
    held = {seed: engine.hold("shape", seed) for seed in (1, 2)}
    async with working(engine) as service:
        await submit(service, 1, texture=False)
        await begin(engine, "shape")  # before another's cut-out can overtake it
        jobs = [await submit(service, seed, texture=False) for seed in (2, 3)]
        await until(lambda: all(service.job(job.uid).image_hash for job in jobs))
        assert service.queue_position(jobs[1]) == 2
        states = service.states(jobs[1], heartbeat_s=60)
        await anext(states)
        held[1].set()
        while service.queue_position(jobs[1]) != 1:
            assert await anext(states)
        held[2].set()
        await states.aclose()


@in_a_loop
async def test_a_quiet_stream_says_that_it_is_there_and_ends_at_a_stop(engine: GatedEngine) -> None:
    engine.hold("shape", 1)
    async with working(engine, grace=0.01) as service:
        job = await submit(service, 1)
        await begin(engine, "shape")
        states = service.states(job, heartbeat_s=0.2)
        heard = [await anext(states)]
        while heard[-1] is not None:
            heard.append(await anext(states))
        closing = asyncio.ensure_future(service.manager.close())
        *_, last = [state async for state in states if state]
        assert last.status is Status.CANCELLED
        assert isinstance(last.error, ShuttingDownError)
        await closing


@in_a_loop
async def test_who_stops_listening_leaves_nothing(engine: GatedEngine) -> None:
    held = engine.hold("shape", 1)
    async with working(engine) as service:
        job = await submit(service, 1)
        await begin(engine, "shape")
        before = len(asyncio.all_tasks())
        subscribe = [asyncio.ensure_future(collect(service, job)) for _ in range(100)]
        await until(lambda: len(service.manager.subscriptions) == 100)
        assert len(asyncio.all_tasks()) <= before + 100  # the callers' own
        for subscription in subscribe:
            subscription.cancel()
        await asyncio.wait(subscribe)
        assert not service.manager.subscriptions._by_uid
        held.set()


@in_a_loop
async def test_a_listener_rests_no_longer_than_its_job_lasts(engine: GatedEngine) -> None:
    async with working(engine) as service:
        done = await service.wait_for_texture(await submit(service, 1))
        running = await submit(service, 2)
        subscription = Subscription(running)
        resting = asyncio.ensure_future(subscription.pause(60))
        await asyncio.sleep(0)
        subscription.publish(running)
        await asyncio.sleep(0)
        assert not resting.done()
        subscription.publish(done)
        await resting
        assert await subscription.wait(60)
        assert not await subscription.wait(0.001)


# ---- giving up -------------------------------------------------------------------------------


@in_a_loop
async def test_a_deleted_job_is_cancelled_first_and_gone_then(engine: GatedEngine) -> None:
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
async def test_a_job_that_others_asked_for_too_stays_theirs(engine: GatedEngine) -> None:
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
async def test_who_never_asked_for_a_job_gives_it_up_for_all(engine: GatedEngine) -> None:
    held = engine.hold("shape", 1)
    async with working(engine) as service:
        job = await submit_as(HERE, service, 1)
        await submit_as(THERE, service, 1)
        await begin(engine, "shape")
        await service.delete(job.uid, Caller("", "the operator's"))
        assert service.job(job.uid).status is Status.CANCELLED
        held.set()


# ---- whose they are ----------------------------------------------------------------------------


@in_a_loop
async def test_one_key_neither_sees_nor_shares_anothers_jobs(engine: GatedEngine) -> None:
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
async def test_a_mesh_that_was_served_to_another_key_is_just_a_mesh(engine: GatedEngine) -> None:
    async with working(engine) as service:
        hers = await service.wait_for_shape(await submit_as(ALICE, service, 1))
        mesh = await service.manager.results.read(hers.shape_glb)
        wanted = replace(options(2), mesh=hers.shape_md5)
        same = await service.submit(picture(), wanted, ALICE, texture=None, mesh=mesh)
        assert same.uid == hers.uid
        other = await service.submit(picture(), wanted, BOB, texture=None, mesh=mesh)
        assert (await service.wait_for_texture(other)).uid != hers.uid
        assert engine.calls.count(("texture_mesh", 2)) == 1


@in_a_loop
async def test_jobs_are_listed_page_by_page_the_latest_first(engine: GatedEngine) -> None:
    async with working(engine) as service:
        made = [(await submit(service, seed)).uid for seed in range(5)]
        page, has_more = await service.list_jobs(limit=2)
        assert ([view.job.uid for view in page], has_more) == (made[:2:-1], True)
        page, has_more = await service.list_jobs(limit=3, before=page[-1].job.uid)
        assert ([view.job.uid for view in page], has_more) == (made[2::-1], False)
        assert await service.list_jobs(limit=1, before=made[0]) == ([], False)


# ---- limits --------------------------------------------------------------------------------


@in_a_loop
async def test_a_client_has_no_more_unfinished_jobs_than_it_may(engine: GatedEngine) -> None:
    engine.gates["shape"].clear()
    async with working(engine, max_jobs_per_client=2) as service:
        jobs = [await submit_as(HERE, service, seed) for seed in (1, 2)]
        with pytest.raises(TooManyRequestsError, match="2 of your jobs") as caught:
            await submit_as(HERE, service, 3)
        assert caught.value.retry_after_s > 0
        assert (await submit_as(HERE, service, 1)).uid == jobs[0].uid  # a known one is no new one
        await submit_as(THERE, service, 3)
        await service.delete(jobs[1].uid, HERE)
        jobs[1] = await submit_as(HERE, service, 4)
        engine.open_all()
        await asyncio.gather(*map(service.wait_for_texture, jobs))
        await submit_as(HERE, service, 5)


@in_a_loop
async def test_uploads_that_wait_are_bounded_together(engine: GatedEngine) -> None:
    engine.gates["shape"].clear()
    large = picture() + bytes(40_000)
    async with working(engine, limit_model_concurrency=1, max_waiting_bytes=65_536) as service:
        await submit(service, 1)
        await begin(engine, "shape")
        waiting = await service.submit(large, options(2), texture=None)
        with pytest.raises(QueueFullError, match="bytes of uploads wait"):
            await service.submit(large, options(3), texture=None)
        small = await submit(service, 3)
        engine.open_all()
        await asyncio.gather(service.wait_for_shape(waiting), service.wait_for_shape(small))
        assert service.manager.active_jobs.upload_bytes == 0
        alone = await service.submit(picture() + bytes(70_000), options(4), texture=None)
        assert (await service.wait_for_shape(alone)).shape_glb
