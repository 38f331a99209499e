"""Looking pictures up, without threads."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

import pytest

from tests.support.managers import in_a_loop, until
from tests.support.requests_alone import ME, Requests, cutout
from trellis2_server.digests import md5
from trellis2_server.errors import (
    EngineBrokenError,
    InputError,
    JobCancelledError,
    ShuttingDownError,
)
from trellis2_server.inputs.background import ModelPending
from trellis2_server.jobs.job import Caller
from trellis2_server.jobs.threads import StepCancelled
from trellis2_server.jobs.uploads import Upload


async def identify(front: Requests, picture: bytes, caller: Caller = ME) -> asyncio.Task[str]:
    """Begin to ask for the name of a picture; return when it waits, or has its answer."""
    task = asyncio.ensure_future(
        front.submissions.identify(picture, caller, remove_background=True)
    )
    held_bytes = front.lookups.held_bytes
    await until(lambda: task.done() or front.lookups.held_bytes > held_bytes)
    return task


@in_a_loop
async def test_a_picture_that_is_known_is_not_looked_up() -> None:
    front = Requests()
    upload = Upload("owner", md5(b"known"), remove_background=True)
    front.uploads.remember(upload, cutout(9))
    assert await (await identify(front, b"known")) == cutout(9).image_hash
    job = await front.submit(b"active")
    assert await (await identify(front, b"active")) == job.uid
    assert not front.threads.running


@in_a_loop
async def test_a_lookup_ends_with_the_hash_and_counts_until_then() -> None:
    front = Requests()
    ends: list[int] = []
    front.lookups.on_end = lambda: ends.append(front.lookups.held_bytes)
    task = await identify(front, b"picture")
    upload = Upload("owner", md5(b"picture"), remove_background=True)
    assert front.checked == [("open",), ("open",), ("queue",), ("upload", 7, "client")]
    assert (front.lookups.requests_of("client"), front.lookups.held_bytes) == (1, 7)
    assert front.lookups.is_active(upload)
    assert front.lookups.waiting == 0
    shared = await identify(front, b"picture", Caller("owner", "second"))
    assert front.checked[4:] == [("open",), ("open",), ("upload", 7, "second")]
    assert (front.lookups.requests_of("second"), front.lookups.held_bytes) == (1, 14)
    [(_, future)] = front.threads.running
    future.set_result(cutout(9))
    assert await task == await shared == cutout(9).image_hash
    assert (front.lookups.held_bytes, front.lookups.requests_of("client")) == (0, 0)
    assert not front.lookups.is_active(upload)
    assert len(ends) == 1


@in_a_loop
async def test_lookups_wait_for_a_thread_in_order() -> None:
    front = Requests()
    front.threads.room = 0
    tasks = [await identify(front, name) for name in (b"a", b"b", b"c")]
    assert (front.lookups.waiting, front.lookups.is_stuck) == (3, True)
    assert front.threads.is_stuck == [True]
    front.threads.room = 1
    front.lookups.wake()
    assert (front.lookups.waiting, len(front.threads.running)) == (2, 1)
    # Meanwhile a job has cut the second picture out, and another one is made of the third.
    upload = Upload("owner", md5(b"b"), remove_background=True)
    front.uploads.remember(upload, cutout(7))
    job = await front.submit(b"c")
    front.lookups.wake()
    assert await tasks[1] == cutout(7).image_hash
    assert front.lookups.waiting == 1
    front.threads.room = 1
    front.lookups.wake()
    assert await tasks[2] == job.uid
    assert len(front.threads.running) == 1
    front.threads.running[0][1].set_result(cutout(9))
    assert await tasks[0] == cutout(9).image_hash
    assert not front.lookups.is_stuck


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (InputError("no picture"), InputError),
        (StepCancelled(), JobCancelledError),
        (EngineBrokenError("no device"), EngineBrokenError),
    ],
)
@in_a_loop
async def test_a_lookup_that_fails_says_why(error: Exception, raised: type[Exception]) -> None:
    front = Requests()
    task = await identify(front, b"picture")
    front.threads.running[0][1].set_exception(error)
    with pytest.raises(raised):
        await task
    is_broken = isinstance(error, EngineBrokenError)
    assert (front.parts.availability.fatal_error is not None) is is_broken
    assert front.lookups.held_bytes == 0


@in_a_loop
async def test_a_lookup_waits_for_its_background_model_on_no_thread() -> None:
    front = Requests()
    loaded: Future[None] = Future()
    task = await identify(front, b"picture")
    front.threads.running[0][1].set_exception(ModelPending(loaded, 1000.0))
    await until(lambda: front.lookups.waiting == 1)
    front.threads.room = 1
    front.lookups.wake()
    assert len(front.threads.running) == 1
    loaded.set_result(None)
    await until(lambda: len(front.threads.running) == 2)
    assert front.lookups.waiting == 0
    front.threads.running[1][1].set_result(cutout(9))
    assert await task == cutout(9).image_hash


@in_a_loop
async def test_a_cutout_that_nobody_waits_for_stops_and_its_picture_is_forgotten() -> None:
    front = Requests()
    task = await identify(front, b"picture")
    call: Any = front.threads.running[0][0]
    report = call.keywords["report"]
    report("cutout", 0, 1)
    task.cancel()
    await asyncio.wait([task])
    with pytest.raises(StepCancelled):
        report("cutout", 0, 1)
    assert (front.lookups.held_bytes, front.lookups.waiting) == (0, 0)
    front.threads.running[0][1].set_exception(ModelPending(Future(), 1000.0))
    await asyncio.sleep(0)
    assert front.lookups.waiting == 0


@pytest.mark.parametrize("running", [False, True])
@in_a_loop
async def test_at_the_end_lookups_that_wait_are_answered_and_then_those_that_run(
    *, running: bool
) -> None:
    front = Requests()
    runs, waits = await identify(front, b"a"), await identify(front, b"b")
    front.lookups.fail_all(ShuttingDownError("bye"), running=running)
    with pytest.raises(ShuttingDownError):
        await waits
    await asyncio.sleep(0)
    assert runs.done() is running
    if running:
        with pytest.raises(ShuttingDownError):
            await runs
    else:
        front.threads.running[0][1].set_result(cutout(9))
        assert await runs
