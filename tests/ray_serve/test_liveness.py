"""Calls that wait for another process, which may stop to answer; nothing is deployed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("ray", reason="needs ray")

from trellis2_server.ray_serve.liveness import Liveness, NoAnswerError

_PATIENCE_S = 30.0


class Process:
    """Answers probes when it is told to.

    Attributes:
        answers: set while it answers.
        probed: number of probes.
    """

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.answers.set()
        self.probed = 0
        self.changed = asyncio.Event()

    async def probe(self) -> None:
        self.probed += 1
        self.changed.set()
        await self.answers.wait()

    async def probes(self, number: int) -> None:
        """Wait until it has been probed so often from now on."""
        wanted = self.probed + number
        while self.probed < wanted:
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), _PATIENCE_S)


async def never() -> None:
    await asyncio.get_running_loop().create_future()


def run(scenario: Any) -> None:
    async def main() -> None:
        process = Process()
        liveness = Liveness(process.probe, 0.01, 0.001)
        running = asyncio.ensure_future(liveness.run())
        try:
            await scenario(process, liveness)
        finally:
            running.cancel()

    asyncio.run(main())


def test_a_wait_lasts_as_long_as_the_other_process_answers() -> None:
    async def scenario(process: Process, liveness: Liveness) -> None:
        answer = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(liveness.wait_for(answer))
        await process.probes(5)
        assert not waiting.done()
        answer.set_result("a job")
        assert await waiting == "a job"

    run(scenario)


def test_a_wait_ends_when_the_other_process_does_not_answer_any_more() -> None:
    async def scenario(process: Process, liveness: Liveness) -> None:
        call = asyncio.ensure_future(never())
        waiting = asyncio.ensure_future(liveness.wait_for(call))
        process.answers.clear()
        with pytest.raises(NoAnswerError):
            await asyncio.wait_for(waiting, _PATIENCE_S)
        with pytest.raises(asyncio.CancelledError):
            await call
        # It is asked further.
        await process.probes(2)
        process.answers.set()
        await process.probes(2)
        waiting = asyncio.ensure_future(liveness.wait_for(never()))
        await process.probes(2)
        assert not waiting.done()
        waiting.cancel()

    run(scenario)


def test_a_probe_that_fails_is_no_answer() -> None:
    async def scenario() -> None:
        async def fail() -> None:
            raise RuntimeError("the process has ended")

        liveness = Liveness(fail, _PATIENCE_S, 0.001)
        running = asyncio.ensure_future(liveness.run())
        with pytest.raises(NoAnswerError):
            await asyncio.wait_for(liveness.wait_for(never()), _PATIENCE_S)
        running.cancel()

    asyncio.run(scenario())


def test_an_error_of_the_call_and_a_cancelled_wait_are_passed_on() -> None:
    async def scenario(process: Process, liveness: Liveness) -> None:
        del process

        async def fail() -> None:
            raise ValueError("no such job")

        with pytest.raises(ValueError, match="no such job"):
            await liveness.wait_for(fail())
        call = asyncio.ensure_future(never())
        waiting = asyncio.ensure_future(liveness.wait_for(call))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(asyncio.CancelledError):
            await call

    run(scenario)
