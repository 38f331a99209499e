"""Waiting for results, without threads."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.managers import in_a_loop
from tests.support.requests_alone import SHAPE, TEXTURED, Requests
from trellis2_server.errors import (
    EngineError,
    JobNotFoundError,
    ShuttingDownError,
    TextureTimeoutError,
)
from trellis2_server.jobs.job import Status


@in_a_loop
async def test_a_waiter_that_leaves_leaves_the_job_to_the_others() -> None:
    front = Requests()
    job = await front.submit()
    active = front.active(job)
    for wait, result in (
        (front.waiter.wait_for_shape, {"shape_glb": SHAPE}),
        (front.waiter.wait_for_texture, {"textured_glb": TEXTURED}),
    ):
        leaving, patient = (asyncio.ensure_future(wait(job)) for _ in range(2))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert active.waiters == 2
        front.parts.clock.now += 5.0
        leaving.cancel()
        await asyncio.wait([leaving])
        assert (active.waiters, active.last_requested_at) == (1, front.parts.clock.now)
        done = front.change(job, **result)
        future = active.shape_done if "shape_glb" in result else active.texture_done
        assert future is not None
        assert not future.done()
        future.set_result(done)
        assert await patient is done
        assert active.waiters == 0
        assert await wait(done) is done


@in_a_loop
async def test_a_texture_is_waited_for_as_long_as_it_is_told() -> None:
    front = Requests()
    job = await front.submit()
    active = front.active(job)
    active.shape_done.set_result(job)
    with pytest.raises(TextureTimeoutError):
        await front.waiter.wait_for_texture(job, 0.001)
    assert (front.textures, active.waiters) == ([job.uid], 0)
    assert active.texture_done is not None
    assert not active.texture_done.done()
    active.texture_done.set_result(front.change(job, textured_glb=TEXTURED))
    assert (await front.waiter.wait_for_texture(job, 60.0)).textured_glb is TEXTURED


@in_a_loop
async def test_a_job_that_ended_without_a_result_says_why() -> None:
    front = Requests()
    failed, cut, old, closing = [await front.submit(name) for name in (b"a", b"b", b"c", b"d")]
    error, no_shape = EngineError("no"), EngineError("no shape")
    front.parts.endings.fail(front.active(failed), error)
    front.change(cut, shape_error=no_shape)
    front.active(cut).shape_done.set_result(front.registry[cut.uid])
    for job, kind, message in ((failed, EngineError, "no"), (cut, EngineError, "no shape")):
        raised: list[BaseException] = []
        for _ in range(2):
            with pytest.raises(kind, match=f"^{message}$") as caught:
                await front.waiter.wait_for_shape(job)
            raised.append(caught.value)
        assert raised[0] is not raised[1]  # each its own
    front.change(old, status=Status.COMPLETED, shape_glb=SHAPE)
    front.parts.active_jobs.discard(old.uid)
    with pytest.raises(JobNotFoundError, match="cannot be made any more"):
        await front.waiter.wait_for_texture(old)
    front.parts.active_jobs.discard(closing.uid)
    with pytest.raises(ShuttingDownError):
        await front.waiter.wait_for_shape(closing)
    front.parts.availability.is_closing = True
    with pytest.raises(ShuttingDownError):
        await front.waiter.wait_for_texture(old)
