"""Following, listing, cancelling and deleting jobs, and whose they are, without HTTP."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.support.managers import begin, in_a_loop, options, submit, until, working
from tests.support.server import picture
from trellis2_server.errors import (
    ShuttingDownError,
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
async def test_a_subscription_gets_the_job_from_its_present_state_to_its_end(
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
async def test_a_slow_reader_gets_the_latest_state_and_no_backlog(engine: GatedEngine) -> None:
    async with working(engine) as service:
        job = await submit(service, 1)
        states = service.states(job, heartbeat_s=60)
        await anext(states)
        done = await service.wait_for_texture(job)
        assert [state async for state in states] == [done]


@in_a_loop
async def test_a_subscription_of_a_merged_job_follows_the_known_job(
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
async def test_a_subscription_is_notified_of_the_queue_position(engine: GatedEngine) -> None:
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
async def test_a_quiet_stream_has_heartbeats_and_ends_at_shutdown(engine: GatedEngine) -> None:
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
async def test_a_closed_subscription_leaves_nothing(engine: GatedEngine) -> None:
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
async def test_a_pause_ends_with_the_job(engine: GatedEngine) -> None:
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
