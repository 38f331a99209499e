"""When those who wait for a background model are called."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

from tests.support.managers import Leap, in_a_loop
from trellis2_server.inputs.background import ModelPending
from trellis2_server.jobs.pending_models import call_when_loaded


@in_a_loop
async def test_a_model_that_does_not_load_is_waited_for_until_its_time_limit() -> None:
    leap, called = Leap(), asyncio.Event()
    call_when_loaded(ModelPending(Future(), timeout_s=10), called.set)
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
    call_when_loaded(ModelPending(loaded, timeout_s=1000), called.set)
    await asyncio.to_thread(loaded.set_result, None)
    await called.wait()


def test_a_model_that_loads_after_the_loop_is_closed_calls_nobody() -> None:
    loaded, calls = Future[None](), list[str]()

    async def wait() -> None:
        call_when_loaded(ModelPending(loaded, timeout_s=1000), lambda: calls.append("called"))

    asyncio.run(wait())
    loaded.set_result(None)
    assert not calls
