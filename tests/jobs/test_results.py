"""Room for results: what is deleted, and that the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

from tests.support.engines import GatedEngine
from tests.support.managers import in_a_loop, options, until, working
from trellis2_server.jobs import results
from trellis2_server.jobs.job import Job, Status
from trellis2_server.storage.store import StoreContents

if TYPE_CHECKING:
    from tests.support.managers import JobsUnderTest

SIZE = 1000


def store_jobs(service: JobsUnderTest, count: int, finished_at: float = 0.0) -> list[str]:
    """Store finished jobs with one file each; return their uids, oldest first."""
    uids = [str(uuid.uuid4()) for _ in range(count)]
    for at, uid in enumerate(uids):
        job = Job(
            uid, options(at), "gated", 0.0, status=Status.COMPLETED, finished_at=finished_at + at
        )
        service.manager.registry.put(job)
        service.manager.archive.store_file(uid, "shape.glb", bytes(SIZE))
    return uids


@in_a_loop
async def test_many_jobs_are_deleted_in_turns_between_which_the_loop_runs() -> None:
    async with working(GatedEngine()) as service:
        manager = service.manager
        count = 3 * results.JOBS_PER_TURN + 5
        uids = store_jobs(service, count + 2)
        manager.results._max_bytes = 3 * SIZE
        lengths: list[int] = []
        [latest] = store_jobs(service, 1, 1e6)
        while len(manager.registry) > 3:
            lengths.append(len(manager.registry))
            await asyncio.sleep(0)
        assert lengths == [count + 3 - at * results.JOBS_PER_TURN for at in (1, 2, 3)]
        assert [job.uid for job in manager.registry] == [*uids[-2:], latest]
        assert manager.archive.size == 3 * SIZE


@in_a_loop
async def test_the_job_of_the_latest_file_stays_though_it_is_old_and_too_large() -> None:
    async with working(GatedEngine()) as service:
        manager = service.manager
        store_jobs(service, results.JOBS_PER_TURN + 1)
        manager.results._max_bytes = SIZE // 2
        [latest] = store_jobs(service, 1)
        await until(lambda: manager.archive.size == SIZE)
        await asyncio.sleep(0)
        assert [job.uid for job in manager.registry] == [latest]


@in_a_loop
async def test_a_lower_limit_holds_from_the_start_on_and_not_after_the_end() -> None:
    async with working(GatedEngine()) as service:
        manager = service.manager
        uids = store_jobs(service, 3 * results.JOBS_PER_TURN)
        manager.results._max_bytes = 0
        manager.results.restore(manager._records, StoreContents())
        assert len(manager.registry) == 2 * results.JOBS_PER_TURN
        manager.results.close()
        for _ in range(5):
            await asyncio.sleep(0)
        assert [job.uid for job in manager.registry] == uids[results.JOBS_PER_TURN :]
