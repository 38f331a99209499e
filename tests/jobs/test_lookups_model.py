"""Lookups beside jobs in every state: shared, cancelled, hung, refused; each is answered once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from tests.jobs.test_manager_model import JOBS, Faults
from tests.support.server import picture
from trellis2_server.digests import md5
from trellis2_server.errors import (
    EngineBrokenError,
    QueueFullError,
    ServerError,
    UnavailableError,
)
from trellis2_server.inputs.images import Cutter
from trellis2_server.jobs.executor import LocalExecutor
from trellis2_server.jobs.uploads import Upload

if TYPE_CHECKING:
    from tests.support.gates import Gates
    from trellis2_server import pipeline
    from trellis2_server.inputs.images import Cutout
    from trellis2_server.jobs.executor import Executor
    from trellis2_server.reports import Report
    from trellis2_server.settings import Settings

#: More pictures than there are jobs: some are only ever looked up.
PICTURES = JOBS + 3
QUEUE_LENGTH = 3


class GatedExecutor(LocalExecutor):
    """Its cut-outs stand at gates, and listen to their report before and after."""

    def __init__(self, engine: pipeline.Engine, gates: Gates, configured: Settings) -> None:
        super().__init__(engine, Cutter(background="none"), configured)
        self._gates = gates
        self._seeds = {picture(seed): seed for seed in range(PICTURES)}

    def cut_out(self, picture: bytes, *, remove_background: bool, report: Report) -> Cutout:
        self._gates.stand("cutout", self._seeds[picture], report)
        return super().cut_out(picture, remove_background=remove_background, report=report)


class LookupFaults(Faults):
    """All that can happen to jobs and to lookups."""

    def __init__(self) -> None:
        super().__init__()
        self.looked_up: list[tuple[int, asyncio.Task[str]]] = []

    def executor(self, configured: Settings) -> Executor:
        engine = cast("pipeline.Engine", self.engine)
        return GatedExecutor(engine, self.gates, configured)

    @rule(seed=st.integers(0, PICTURES - 1))
    def look_up(self, seed: int) -> None:
        async def ask() -> None:
            manager, lookups = self.manager, self.manager.lookups
            is_open = self.closing is None and manager.availability.fatal_error is None
            upload = upload_of(seed)
            needs_place = lookups.known_name(upload) is None and not lookups.is_active(upload)
            is_full = manager.scheduler.waiting + lookups.waiting >= QUEUE_LENGTH
            before = lookups.requests_of("")
            task = asyncio.ensure_future(
                self.service.identify(picture(seed), remove_background=True)
            )
            await self.until(lambda: task.done() or lookups.requests_of("") > before)
            refused = task.exception() if task.done() else None
            assert isinstance(refused, QueueFullError) == (is_open and needs_place and is_full)
            assert is_open or isinstance(refused, UnavailableError)
            self.looked_up.append((seed, task))

        self.run(ask())

    @precondition(lambda self: any(not task.done() for _, task in self.looked_up))
    @rule(at=st.integers(0, 9))
    def leave_lookup(self, at: int) -> None:
        async def leave() -> None:
            waiting = [each for each in self.looked_up if not each[1].done()]
            seed, task = waiting[at % len(waiting)]
            task.cancel()
            await asyncio.wait([task])
            others = any(other == seed for other, each in waiting if each is not task)
            assert self.manager.lookups.is_active(upload_of(seed)) == others
            self.looked_up.remove((seed, task))

        self.run(leave())

    @invariant()
    def no_lookup_waits_that_could_run(self) -> None:
        manager = getattr(self, "manager", None)
        if manager is not None:
            assert not manager.lookups._queue or not manager.threads.lookup_has_room

    @invariant()
    def each_lookup_counts_while_its_requests_wait(self) -> None:
        manager = getattr(self, "manager", None)
        if manager is None:
            return
        waiting = [seed for seed, task in self.looked_up if not task.done()]
        assert manager.lookups.held_bytes == sum(len(picture(seed)) for seed in waiting)
        assert manager.lookups.requests_of("") == len(waiting)
        assert {upload_of(seed) for seed in waiting} == set(manager.lookups._by_upload)

    @invariant()
    def lookups_leave_a_thread_to_the_steps(self) -> None:
        manager = getattr(self, "manager", None)
        if manager is not None and not manager.threads.hung:
            on_the_pool = manager.threads.lookups - 1
            assert on_the_pool <= max(manager.threads.cpu_workers - 1, 0)

    def check_answers(self) -> None:
        super().check_answers()
        lookups = self.manager.lookups
        assert (lookups.waiting, lookups.held_bytes, len(lookups._by_upload)) == (0, 0, 0)
        for seed, task in self.looked_up:
            assert task.done(), f"the lookup of {seed} was not answered"
            error = task.exception()
            assert error is None or isinstance(error, ServerError)
            is_broken = self.manager.availability.fatal_error is not None
            assert is_broken or not isinstance(error, EngineBrokenError)


def upload_of(seed: int) -> Upload:
    return Upload("", md5(picture(seed)), remove_background=True)


TestLookupFaults = LookupFaults.TestCase
TestLookupFaults.settings = hypothesis_settings(
    max_examples=40, stateful_step_count=25, deadline=None
)
