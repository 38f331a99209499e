"""Exports that a request waits for."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.engines import PATIENCE_S
from tests.support.managers import in_a_loop, until
from tests.support.parts import Parts
from trellis2_server.errors import (
    EngineBrokenError,
    EngineError,
    ExportError,
    ShuttingDownError,
    UnhealthyError,
)
from trellis2_server.jobs.export_calls import ExportCalls
from trellis2_server.jobs.threads import StepCancelled, ThreadPools

if TYPE_CHECKING:
    from trellis2_server.reports import Report


class Calls:
    """Export calls that start as soon as they are queued."""

    def __init__(self) -> None:
        self.parts = Parts()
        self.threads = ThreadPools(1, frozenset(), 1)
        self.calls = ExportCalls(
            self.threads, self.parts.availability, self.parts.endings, self.parts.clock
        )
        self.calls.on_change = self.start

    def start(self) -> None:
        if self.calls.waiting and self.threads.steps_running < self.threads.max_steps:
            self.calls.start_next()


@in_a_loop
async def test_a_call_returns_its_file_and_is_counted_until_then() -> None:
    calls, gate = Calls(), threading.Event()

    def export(report: Report) -> bytes:
        report("clean", 0, 1)
        assert gate.wait(PATIENCE_S)
        return b"glb"

    first, second = (asyncio.ensure_future(calls.calls.run(export)) for _ in range(2))
    await asyncio.sleep(0)
    assert (calls.calls.waiting, calls.calls.unfinished) == (1, 2)
    assert calls.calls.next_deadline == 0.0
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

    running, waiting = (asyncio.ensure_future(calls.calls.run(export)) for _ in range(2))
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
        await calls.calls.run(export)
    assert caught.value is not failure
    assert calls.parts.availability.fatal_error is None


@in_a_loop
async def test_a_fatal_error_refuses_further_calls() -> None:
    calls = Calls()

    def export(_: Report) -> bytes:
        raise EngineBrokenError("hangs")

    with pytest.raises(EngineBrokenError):
        await calls.calls.run(export)
    with pytest.raises(UnhealthyError, match="hangs"):
        await calls.calls.run(export)


@in_a_loop
async def test_at_shutdown_all_requests_are_answered() -> None:
    calls, gate = Calls(), threading.Event()

    def export(_: Report) -> bytes:
        assert gate.wait(PATIENCE_S)
        return b"glb"

    running, waiting = (asyncio.ensure_future(calls.calls.run(export)) for _ in range(2))
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
