"""Decoders are killed at random, while pictures and meshes are worked on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.managers import NoMetrics, options, until
from tests.support.meshes import as_bytes, egg
from tests.support.server import picture, settings
from trellis2_server import pipeline
from trellis2_server.errors import InputError
from trellis2_server.jobs.executor import LocalExecutor
from trellis2_server.jobs.job import Status
from trellis2_server.jobs.local_service import LocalJobService
from trellis2_server.jobs.manager import JobManager

if TYPE_CHECKING:
    from trellis2_server.decoders import DecoderPool
    from trellis2_server.jobs.job import Job

#: How many processes are killed.
KILLS = int(os.environ.get("TRELLIS2_TEST_KILLS", "6"))
#: Jobs that are in progress at one time.
AT_ONCE = 6


class Killer(threading.Thread):
    """Kills a decoder now and then: between two kills, one file at least is decoded."""

    def __init__(self, pool: DecoderPool) -> None:
        super().__init__(daemon=True)
        self.pool = pool
        self.has_decoded = threading.Event()
        pool.observer = self
        self.kills = 0
        self.chance = random.Random(1)  # noqa: S311 - no secret

    def run(self) -> None:
        pause = threading.Event()
        while self.kills < KILLS:
            assert self.has_decoded.wait(PATIENCE_S)
            pause.wait(self.chance.uniform(0.0, 0.3))
            pids = self.pool.pids
            if pids:
                self.has_decoded.clear()
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.chance.choice(pids), signal.SIGKILL)
                    self.kills += 1

    def note_decoding(self, task: str, seconds: float) -> None:
        del task, seconds
        self.has_decoded.set()

    def note_decoder_end(self, reason: str) -> None: ...

    def note_decoders(self, count: int) -> None: ...


@pytest.mark.costly
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_no_job_is_lost_but_those_whose_decoders_were_killed_twice() -> None:
    asyncio.run(asyncio.wait_for(kill_decoders(), PATIENCE_S + 3 * KILLS))


async def kill_decoders() -> None:
    configured = settings(worker={"limit_model_concurrency": 4, "max_queue_length": 100})
    pool = pipeline.make_decoders(configured)
    engine = GatedEngine()
    cutter = pipeline.make_cutter(engine, configured, pool)
    manager = JobManager(LocalExecutor(engine, cutter, configured, pool), configured)
    manager.start()
    await until(lambda: manager.lifecycle.status == "ok")
    service = LocalJobService(manager, NoMetrics())
    killer = Killer(pool)
    killer.start()
    outcomes: list[Job] = []

    async def work(lane: int) -> None:
        seed = lane
        while killer.is_alive() or seed == lane:
            mesh = as_bytes(egg(), "stl") if seed % 3 == 0 else None
            wanted = replace(options(seed), mesh=mesh and f"{seed:032x}")
            job = await service.submit(picture(seed, 1200), wanted, texture=False, mesh=mesh)
            with contextlib.suppress(InputError):
                await service.wait_for_shape(job)
            outcomes.append(await ended(job.uid))
            seed += AT_ONCE

    async def ended(uid: str) -> Job:
        await until(lambda: manager.registry[uid].status.is_finished)
        return manager.registry[uid]

    await asyncio.gather(*(work(lane) for lane in range(AT_ONCE)))
    failed = [job for job in outcomes if job.status is not Status.COMPLETED]
    for job in failed:
        assert isinstance(job.error, InputError)
        assert "(SIGKILL), also when it was tried again" in str(job.error)
    assert 2 * len(failed) <= KILLS
    assert len(outcomes) > len(failed)
    assert manager.availability.fatal_error is None
    assert set(pool.counts) <= {"started", "crash"}
    assert pool.counts["crash"] >= 2 * len(failed)
    await manager.close()
    assert pool.running == 0
