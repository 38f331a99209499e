"""Exports that a request waits for."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import PATIENCE_S
from tests.support.managers import in_a_loop, until
from tests.support.parts import Parts
from trellis2_server.errors import (
    EngineBrokenError,
    EngineError,
    ExportError,
    ShuttingDownError,
    TooManyRequestsError,
    UnhealthyError,
)
from trellis2_server.jobs.export_calls import NEXT_TURN_S, ExportCalls, ExportWork
from trellis2_server.jobs.scheduler import TEXTURE_PATIENCE_S
from trellis2_server.jobs.threads import StepCancelled, ThreadPools
from trellis2_server.settings import WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.reports import Report


class Calls:
    """Export calls that start as soon as they are queued, one at a time."""

    def __init__(self, max_per_client: int | None = None) -> None:
        self.parts = Parts()
        self.threads = ThreadPools(1, frozenset(), 1)
        self.calls = ExportCalls(
            self.threads,
            self.parts.availability,
            self.parts.endings,
            self.parts.clock,
            WorkerSettings(max_exports_per_client=max_per_client),
        )
        self.calls.on_change = self.start

    def start(self) -> None:
        if self.calls.waiting and self.threads.steps_running < self.threads.max_steps:
            self.calls.start_next()

    async def run(self, call: Callable[[Report], bytes], client: str = "", **more: Any) -> bytes:
        work = ExportWork(call, more.pop("key", None))
        return (await self.calls.run(work, client, **more)).load()

    def begin(
        self, call: Callable[[Report], bytes], client: str = "", **more: Any
    ) -> asyncio.Task[bytes]:
        return asyncio.get_running_loop().create_task(self.run(call, client, **more))


class Held:
    """Calls that wait at one gate, and record their names in the order in which they start."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.started: list[str] = []
        self.stopped: list[str] = []

    def call(self, name: str) -> Callable[[Report], bytes]:
        def run(report: Report) -> bytes:
            self.started.append(name)
            try:
                while not self.gate.wait(0.005):
                    report("held", 0, 1)
            except StepCancelled:
                self.stopped.append(name)
                raise
            return name.encode()

        return run


@in_a_loop
async def test_a_call_returns_its_file_and_is_counted_until_then() -> None:
    calls, gate = Calls(), threading.Event()

    def export(report: Report) -> bytes:
        report("clean", 0, 1)
        assert gate.wait(PATIENCE_S)
        return b"glb"

    first, second = (calls.begin(export) for _ in range(2))
    await asyncio.sleep(0)
    assert (calls.calls.waiting, calls.calls.unfinished) == (1, 2)
    assert calls.calls.next_deadline == NEXT_TURN_S
    gate.set()
    assert await first == await second == b"glb"
    assert (calls.calls.waiting, calls.calls.unfinished) == (0, 0)
    assert calls.calls.next_deadline is None


@in_a_loop
async def test_a_call_whose_request_is_cancelled_stops_at_its_next_report() -> None:
    calls, started, gate = Calls(), threading.Event(), threading.Event()
    stopped: list[bool] = []

    def export(report: Report) -> bytes:
        started.set()
        assert gate.wait(PATIENCE_S)
        try:
            report("clean", 0, 1)
        except StepCancelled:
            stopped.append(True)
            raise
        return b"glb"

    running, waiting = (calls.begin(export) for _ in range(2))
    assert await asyncio.to_thread(started.wait, PATIENCE_S)
    for request in (waiting, running):
        request.cancel()
    await asyncio.wait({waiting, running})
    assert calls.calls.unfinished == 1  # the thread works still
    gate.set()
    await until(lambda: calls.calls.unfinished == 0)
    assert stopped == [True]


@pytest.mark.parametrize(
    ("failure", "kind"),
    [(ExportError("no faces are left"), ExportError), (ValueError("x"), EngineError)],
)
@in_a_loop
async def test_a_failure_is_raised_without_its_traceback(
    failure: Exception, kind: type[EngineError]
) -> None:
    calls = Calls()

    def export(_: Report) -> bytes:
        raise failure

    with pytest.raises(kind) as caught:
        await calls.run(export)
    assert caught.value is not failure
    assert calls.parts.availability.fatal_error is None


@in_a_loop
async def test_a_fatal_error_refuses_further_calls() -> None:
    calls = Calls()

    def export(_: Report) -> bytes:
        raise EngineBrokenError("hangs")

    with pytest.raises(EngineBrokenError):
        await calls.run(export)
    with pytest.raises(UnhealthyError, match="hangs"):
        await calls.run(export)


@in_a_loop
async def test_at_shutdown_all_requests_are_answered() -> None:
    calls, gate = Calls(), threading.Event()

    def export(_: Report) -> bytes:
        assert gate.wait(PATIENCE_S)
        return b"glb"

    running, waiting = (calls.begin(export) for _ in range(2))
    await asyncio.sleep(0)
    calls.calls.fail_all(ShuttingDownError("bye"), running=False)
    with pytest.raises(ShuttingDownError):
        await waiting
    assert not running.done()
    calls.calls.fail_all(ShuttingDownError("bye"), running=True)
    with pytest.raises(ShuttingDownError):
        await running
    gate.set()
    await until(lambda: calls.calls.unfinished == 0)


# ---- sharing ---------------------------------------------------------------------------------


@in_a_loop
async def test_requests_for_the_same_file_share_a_call_until_the_last_one_goes() -> None:
    calls, held = Calls(), Held()
    requests = [calls.begin(held.call("a"), client, key="a") for client in "xyx"]
    await until(lambda: held.started == ["a"])
    assert calls.calls.unfinished == 1
    for request in requests[:2]:
        request.cancel()
    await asyncio.wait(requests[:2])
    held.gate.set()
    assert await requests[2] == b"a"
    assert (held.started, held.stopped) == (["a"], [])


@in_a_loop
async def test_a_shared_call_that_no_request_waits_for_is_stopped_and_not_joined() -> None:
    calls, held = Calls(), Held()
    requests = [calls.begin(held.call("a"), client, key="a") for client in "xy"]
    await until(lambda: held.started == ["a"])
    for request in requests:
        request.cancel()
    await asyncio.wait(requests)
    again = calls.begin(held.call("b"), "x", key="a")
    await until(lambda: held.stopped == ["a"])
    held.gate.set()
    assert await again == b"b"


@in_a_loop
async def test_each_request_of_a_shared_call_that_fails_raises_an_error_of_its_own() -> None:
    calls = Calls()

    def fail(_: Report) -> bytes:
        raise ExportError("no faces are left")

    requests = [calls.begin(fail, client, key="a") for client in "xy"]
    first, second = await asyncio.gather(*requests, return_exceptions=True)
    assert (type(first), str(first)) == (type(second), str(second))
    assert isinstance(first, ExportError)
    assert first is not second


# ---- clients ---------------------------------------------------------------------------------


@in_a_loop
async def test_a_client_over_its_limit_is_refused_while_others_are_not() -> None:
    calls, held = Calls(max_per_client=2), Held()
    own = [calls.begin(held.call(name), "x", key=name) for name in "ab"]
    await until(lambda: held.started == ["a"])
    with pytest.raises(TooManyRequestsError, match="2 of your exports") as caught:
        await calls.run(held.call("c"), "x", key="c")
    assert caught.value.retry_after_s
    own.append(calls.begin(held.call("a"), "x", key="a"))  # it has that call already
    others = calls.begin(held.call("c"), "y", key="c")
    with pytest.raises(TooManyRequestsError):
        await calls.run(held.call("c"), "x", key="c")  # another client's
    held.gate.set()
    assert await asyncio.gather(*own, others) == [b"a", b"b", b"a", b"c"]
    assert await calls.run(held.call("c"), "x") == b"c"


@in_a_loop
async def test_a_call_that_may_not_be_refused_waits_and_fills_no_queue_of_others() -> None:
    calls, held = Calls(max_per_client=2), Held()
    own = [calls.begin(held.call(name), "x", may_refuse=False) for name in "abcdef"]
    await until(lambda: held.started == ["a"])
    assert (calls.calls.waiting, calls.calls.unfinished) == (2, 6)
    held.gate.set()
    assert await asyncio.gather(*own) == [name.encode() for name in "abcdef"]


@in_a_loop
async def test_clients_take_turns() -> None:
    calls, held = Calls(), Held()
    requests = [calls.begin(held.call(f"x{at}"), "x") for at in range(4)]
    await until(lambda: held.started == ["x0"])
    calls.parts.clock.now = 1.0
    requests += [calls.begin(held.call(f"y{at}"), "y") for at in range(2)]
    await asyncio.sleep(0)
    calls.parts.clock.now = 2.0
    requests.append(calls.begin(held.call("z0"), "z"))
    await asyncio.sleep(0)
    # A client that came later gets its first turn before another one gets its second.
    assert calls.calls.next_deadline == 1.0
    held.gate.set()
    await asyncio.wait(requests)
    assert held.started[:3] == ["x0", "y0", "z0"]
    assert held.started[3:] == ["x1", "x2", "x3", "y1"]  # all are due at the same time


@in_a_loop
async def test_a_further_call_is_due_after_textures_that_waited_during_the_turn_before() -> None:
    calls, held = Calls(), Held()
    requests = [calls.begin(held.call(name), "x") for name in "abc"]
    await until(lambda: held.started == ["a"])
    calls.parts.clock.now = texture_requested_at = 5.0
    requests.append(calls.begin(held.call("d"), "x"))  # it came after the turn had started
    await asyncio.sleep(0)
    assert calls.calls.next_deadline == NEXT_TURN_S >= TEXTURE_PATIENCE_S
    calls.parts.clock.now = 6.0
    calls.calls.on_change = lambda: None
    held.gate.set()
    assert await requests[0] == b"a"
    assert calls.calls.next_deadline == 6.0 + NEXT_TURN_S
    assert calls.calls.next_deadline > texture_requested_at + TEXTURE_PATIENCE_S
    calls.calls.on_change = calls.start
    calls.start()
    assert await asyncio.gather(*requests[1:]) == [b"b", b"c", b"d"]
    assert not calls.calls._last_turns  # nothing is remembered of a client without calls


@in_a_loop
async def test_a_client_that_joins_a_call_brings_it_forward_to_its_own_turn() -> None:
    calls, held = Calls(), Held()
    requests = [calls.begin(held.call(name), "x", key=name) for name in "abc"]
    await until(lambda: held.started == ["a"])
    calls.parts.clock.now = 3.0
    joined = calls.begin(held.call("c"), "y", key="c")
    await asyncio.sleep(0)
    assert calls.calls.next_deadline == 3.0
    held.gate.set()
    assert await joined == b"c"
    await asyncio.wait(requests)
    assert held.started == ["a", "c", "b"]
