"""What a world may leave behind: nothing; and what it may log.

Does not know: what has happened in it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from tests.support.job_model.world import World


class Complaints(logging.Handler):
    """Takes note of results that were not understood, and of callbacks that failed.

    Attributes:
        all: what was noted, up to the end of the world.
        late: what was noted after the end of any world, by a collection of garbage.
        are_allowed: whether nothing is noted.
    """

    late: ClassVar[list[Any]] = []

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Any] = []
        self.are_allowed = False
        self._is_over = False

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.getMessage() in {
            "Result not understood",
            "The cleanup failed",
        }:
            self.note(record.getMessage(), record.exc_info)
        record.exc_info = None  # pytest keeps records, and so the frames of what has failed

    def note(self, *what: object) -> None:
        """Note something that must not happen."""
        if not self.are_allowed:
            (self.late if self._is_over else self.all).append(what)

    def note_later(self) -> None:
        """From now on, note what collections find in `late`, which all worlds share."""
        self._is_over = True


def check_nothing_is_left(world: World) -> None:
    """Check that a closed manager has left nothing behind."""
    loop, manager = world.loop, world.manager
    threads = manager.threads
    assert not world.gates.at
    assert not loop.fibers
    assert not loop.timers(), loop.timers()
    assert not asyncio.all_tasks(loop)
    pools = (threads._device, threads._cpu, threads._lookup)
    assert (threads.steps_running, threads.lookups, threads.hung) == (0, 0, 0)
    assert [(pool.running, pool.held) for pool in pools] == [(0, Counter())] * len(pools)
    archive = manager.archive
    executors = [pool.executor for pool in pools]
    executors += [part._executor for part in (archive._writes, archive._reads, archive._deferred)]
    assert all(executor._shutdown for executor in executors)
    assert not world.store.is_open
    assert not manager.subscriptions._by_uid
    assert not manager.export_calls.unfinished
    assert not manager.export_calls._last_turns
    lookups = manager.lookups
    assert (lookups.waiting, lookups.held_bytes, len(lookups._by_upload)) == (0, 0, 0)
    assert not manager.active_jobs.upload_bytes
    assert not sum(active.waiters for active in manager.active_jobs)
    decoders = world.executor.decoders
    assert not decoders.alive
    assert not decoders.processes
    _check_memory(world)
    assert not world.complaints.all, world.complaints.all


def _check_memory(world: World) -> None:
    """Check that only jobs whose texture may still be requested hold what was made."""
    for model in world.executor.models:
        model.cancel()
    world.executor.models.clear()
    gc.collect()
    manager = world.manager
    holding = {manager.registry[active.uid].options.seed for active in manager.active_jobs}
    assert {made.seed for made in world.executor.made} <= holding
