"""Limits on new jobs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import GatedEngine
from tests.support.managers import (
    begin,
    in_a_loop,
    options,
    submit,
    working,
)
from tests.support.server import picture
from trellis2_server.errors import (
    QueueFullError,
    TooManyRequestsError,
)
from trellis2_server.jobs.job import Caller, Job

if TYPE_CHECKING:
    from tests.support.engines import GatedEngine
    from tests.support.managers import JobsUnderTest

ALICE, BOB = Caller("alice", "alice"), Caller("bob", "bob")
HERE, THERE = Caller("", "10.0.0.1"), Caller("", "10.0.0.2")


@in_a_loop
async def test_a_full_queue_refuses_with_retry_after(engine: GatedEngine) -> None:
    held = engine.hold("shape", 1)
    limits = {"limit_model_concurrency": 1, "max_queue_length": 1}
    async with working(engine, **limits) as service:
        first = await submit(service, 1)
        await begin(engine, "shape")
        second = await submit(service, 2)
        with pytest.raises(QueueFullError, match="the queue is full: 1 jobs wait") as caught:
            await submit(service, 3)
        assert caught.value.retry_after_s > 0
        assert (await submit(service, 2)).uid == second.uid  # known ones are answered
        held.set()
        await asyncio.gather(service.wait_for_texture(first), service.wait_for_texture(second))
        await service.wait_for_shape(await submit(service, 3))


async def submit_as(caller: Caller, service: JobsUnderTest, seed: int, **more: Any) -> Job:
    return await service.submit(picture(), options(seed), caller, texture=None, **more)


@in_a_loop
async def test_unfinished_jobs_of_one_client_are_bounded(engine: GatedEngine) -> None:
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
async def test_bytes_of_waiting_uploads_are_bounded(engine: GatedEngine) -> None:
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
