"""Which thread runs a step, and what a time limit does."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.engines import PATIENCE_S
from tests.support.managers import Leap, in_a_loop, until
from trellis2_server.errors import EngineBrokenError, ServerError, StepTimeoutError
from trellis2_server.jobs.threads import StepCancelled, ThreadPools
from trellis2_server.jobs.time_limits import STOP_GRACE_S

if TYPE_CHECKING:
    from trellis2_server.jobs.steps import Step

TIMEOUT_S = 10.0


async def names(threads: ThreadPools) -> list[str]:
    def name() -> str:
        return threading.current_thread().name

    return [await threads.start_step(step, name) for step in ("texture_export", "shape_export")]


def test_a_step_runs_where_it_is_told_to() -> None:
    threads = ThreadPools(1, frozenset({"texture_export"}), 2)
    try:
        device, cpu = asyncio.run(names(threads))
    finally:
        threads.close()
    assert device.startswith("device")
    assert cpu.startswith("cpu")


@in_a_loop
async def test_the_device_takes_no_step_while_it_does_something_else() -> None:
    gate = threading.Event()
    threads = ThreadPools(1, frozenset({"shape"}), 2, device_slots=2)
    for what in ("load", "unload"):
        call = threads.run_on_device(what, lambda: gate.wait(PATIENCE_S))
        assert threads.device_is_busy
        assert not threads.device_has_room
        gate.set()
        assert await call
        gate.clear()
        assert threads.device_has_room
    threads.close()


@in_a_loop
async def test_the_threads_end_when_they_are_closed() -> None:
    def thread() -> threading.Thread:
        return threading.current_thread()

    pools = ThreadPools(1, frozenset({"shape"}), 2)
    used = [
        await pools.run_on_device("load", thread),
        await pools.start_step("shape_export", thread),
        await pools.look_up(thread),
    ]
    assert len(set(used)) == 3
    pools.close()
    for each in used:
        await asyncio.to_thread(each.join, PATIENCE_S)
        assert not each.is_alive()


@pytest.mark.parametrize(
    ("step", "kind"), [("shape", EngineBrokenError), ("shape_export", StepTimeoutError)]
)
@in_a_loop
async def test_only_a_step_on_the_device_that_takes_too_long_breaks_the_engine(
    step: Step, kind: type[ServerError]
) -> None:
    leap, gate, freed = Leap(), threading.Event(), asyncio.Event()
    threads = ThreadPools(1, frozenset({"shape"}), 2, TIMEOUT_S)
    threads.on_free = freed.set
    threads.device_is_reserved = False

    def hang() -> None:
        assert gate.wait(PATIENCE_S)
        raise ValueError("late")  # nobody hears of it

    future = threads.start_step(step, hang)
    await asyncio.sleep(0)
    leap(TIMEOUT_S)
    with pytest.raises(ServerError, match=f"^{step}: did not end within 10 s$") as caught:
        await future
    assert type(caught.value) is kind
    assert (threads.steps_running, threads.hung) == (0, 1)
    assert threads.device_has_room == (step != "shape")
    assert threads.cpu_has_room  # at the spare place
    assert threads.cpu_running == (step != "shape")
    gate.set()
    await freed.wait()
    assert threads.device_has_room
    assert threads.cpu_has_room
    assert threads.hung == 0
    threads.close()


@in_a_loop
async def test_a_step_on_the_device_that_stops_when_it_is_told_fails_alone() -> None:
    leap, stopped = Leap(), threading.Event()
    threads = ThreadPools(1, frozenset({"shape"}), 2, TIMEOUT_S)
    threads.device_is_reserved = False

    def work() -> None:
        assert stopped.wait(PATIENCE_S)
        raise StepCancelled

    future = threads.start_step("shape", work, stop=stopped.set)
    await asyncio.sleep(0)
    leap(TIMEOUT_S)
    with pytest.raises(StepTimeoutError, match=r"^shape: did not end within 10 s$"):
        await future
    assert (threads.steps_running, threads.hung) == (0, 0)
    assert threads.device_has_room
    threads.close()


@in_a_loop
async def test_a_step_on_the_device_that_does_not_stop_breaks_the_engine() -> None:
    leap, told, gate = Leap(), asyncio.Event(), threading.Event()
    threads = ThreadPools(1, frozenset({"shape"}), 2, TIMEOUT_S)
    threads.device_is_reserved = False
    future = threads.start_step("shape", lambda: gate.wait(PATIENCE_S), stop=told.set)
    await asyncio.sleep(0)
    leap(TIMEOUT_S)
    await told.wait()
    assert not future.done()
    leap(STOP_GRACE_S)
    with pytest.raises(EngineBrokenError, match=r"^shape: did not end within 10 s$"):
        await future
    gate.set()
    threads.close()


@in_a_loop
async def test_a_call_that_ends_at_the_moment_of_its_time_limit_is_counted_once() -> None:
    leap, gate = Leap(), asyncio.get_running_loop().create_future()
    threads = ThreadPools(2, frozenset(), 2, TIMEOUT_S)

    async def call() -> None:
        await gate

    future = threads.start_step("shape_export", call)
    await asyncio.sleep(0)
    gate.set_result(None)  # the call ends when the loop runs next, and so does its timer
    leap(TIMEOUT_S)
    with pytest.raises(StepTimeoutError):
        await future
    await asyncio.sleep(0)
    assert (threads.cpu_running, threads.steps_running, threads.hung) == (0, 0, 0)
    threads.close()


@in_a_loop
async def test_lookups_leave_room_for_steps_until_their_own_thread_hangs() -> None:
    leap, gates = Leap(), [threading.Event() for _ in range(4)]
    threads = ThreadPools(2, frozenset(), 2, TIMEOUT_S)
    started: list[str] = []

    def look_up(gate: threading.Event) -> None:
        started.append(threading.current_thread().name)
        assert gate.wait(PATIENCE_S)

    first, second = (threads.look_up(lambda gate=gate: look_up(gate)) for gate in gates[:2])
    await until(lambda: len(started) == 2)
    assert sorted(name[:3] for name in started) == ["cpu", "loo"]
    assert (threads.cpu_running, threads.lookups) == (1, 2)
    assert threads.cpu_has_room
    assert not threads.lookup_has_room
    gates[1].set()
    await second
    leap(TIMEOUT_S)
    with pytest.raises(StepTimeoutError):
        await first
    threads.look_up(lambda: look_up(gates[2]))
    assert threads.lookup_has_room  # the last thread of the pool, as for any step
    third = threads.look_up(lambda: look_up(gates[3]))
    assert not threads.lookup_has_room
    for gate in gates:
        gate.set()
    await third
    await until(lambda: threads.lookups == threads.hung == 0)
    threads.close()


@in_a_loop
async def test_one_place_of_the_pool_is_for_a_client_of_which_nothing_runs() -> None:
    threads, gate = ThreadPools(2, frozenset(), 9), threading.Event()

    def start(*clients: str) -> asyncio.Future[None]:
        return threads.start_step("cutout", lambda: assert_opened(gate), clients=frozenset(clients))

    running = [start("greedy"), start("greedy")]
    assert not threads.cpu_has_room_for({"greedy"})
    assert threads.cpu_has_room_for({"another"})
    assert threads.cpu_has_room_for({"greedy", "another"})  # who waits for the same call
    running.append(start("greedy", "another"))  # which takes the place of the one with fewer
    assert not threads.cpu_has_room
    assert not threads.cpu_has_room_for({"a third"})
    gate.set()
    await asyncio.gather(*running)
    assert threads.cpu_running == 0
    assert threads.is_any_idle({"greedy"})
    threads.close()


@in_a_loop
async def test_a_call_that_hangs_holds_no_place_of_its_client() -> None:
    leap, gate = Leap(), threading.Event()
    threads = ThreadPools(1, frozenset(), 9, TIMEOUT_S)

    def start() -> asyncio.Future[None]:
        return threads.start_step("cutout", lambda: assert_opened(gate), clients={"only"})

    hanging = start()
    assert not threads.cpu_has_room_for({"only"})
    await asyncio.sleep(0)
    leap(TIMEOUT_S)
    with pytest.raises(StepTimeoutError):
        await hanging
    assert threads.cpu_has_room_for({"only"})
    further = start()
    assert not threads.cpu_has_room
    gate.set()
    await further
    await until(lambda: threads.hung == 0)
    threads.close()


def assert_opened(gate: threading.Event) -> None:
    assert gate.wait(PATIENCE_S)
