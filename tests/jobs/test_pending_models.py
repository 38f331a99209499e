"""When those who wait for a background model are called."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

from tests.support.managers import Leap, in_a_loop
from trellis2_server.inputs.background import ModelPending
from trellis2_server.jobs.pending_models import ModelWait


@in_a_loop
async def test_a_model_that_does_not_load_is_waited_for_until_its_time_limit() -> None:
    leap, called = Leap(), asyncio.Event()
    ModelWait(ModelPending(Future(), timeout_s=10), called.set)
    leap(9)
    await asyncio.sleep(0)
    assert not called.is_set()
    leap(1.1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert called.is_set()


@in_a_loop
async def test_a_model_that_loads_on_another_thread_is_noticed_at_once() -> None:
    called, loaded = asyncio.Event(), Future[None]()
    ModelWait(ModelPending(loaded, timeout_s=1000), called.set)
    await asyncio.to_thread(loaded.set_result, None)
    await called.wait()


def test_a_model_that_loads_after_the_loop_is_closed_calls_nobody() -> None:
    loaded, calls = Future[None](), list[str]()

    async def wait() -> None:
        ModelWait(ModelPending(loaded, timeout_s=1000), lambda: calls.append("called"))

    asyncio.run(wait())
    loaded.set_result(None)
    assert not calls


def pending_timers(loop: Any) -> int:
    return sum(not timer.cancelled() for timer in loop._scheduled)


@in_a_loop
async def test_who_does_not_wait_any_more_is_not_called_and_leaves_no_timer() -> None:
    loop, calls, loaded = asyncio.get_running_loop(), list[str](), Future[None]()
    wait = ModelWait(ModelPending(loaded, timeout_s=10), lambda: calls.append("called"))
    before = pending_timers(loop)
    wait.cancel()
    assert pending_timers(loop) == before - 1
    loaded.set_result(None)
    await asyncio.sleep(0)
    assert not calls


@in_a_loop
async def test_a_model_that_loads_at_its_time_limit_is_told_once() -> None:
    leap, calls, loaded = Leap(), list[str](), Future[None]()
    ModelWait(ModelPending(loaded, timeout_s=10), lambda: calls.append("called"))
    leap(11)
    loaded.set_result(None)
    for _ in range(3):
        await asyncio.sleep(0)
    assert calls == ["called"]
