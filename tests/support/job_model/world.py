"""A job manager in a world without time and threads, with its disk and its clients.

Does not know: in which order things happen.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.support.job_model.clients import Clients
from tests.support.job_model.disk import Disk, Kept
from tests.support.job_model.executor import GatedExecutor
from tests.support.job_model.gates import Gates
from tests.support.job_model.leftovers import Complaints, check_nothing_is_left
from tests.support.job_model.painter import Painter
from tests.support.job_model.virtual_loop import VirtualLoop
from tests.support.managers import NoMetrics
from trellis2_server.jobs.job import Job, Status
from trellis2_server.jobs.local_service import LocalJobService
from trellis2_server.jobs.manager import ARCHIVE_GRACE_S, JobManager
from trellis2_server.settings import Settings

if TYPE_CHECKING:
    import asyncio

    from trellis2_server.errors import ServerError

TIMEOUT_S, GRACE_S, IDLE_S, ABANDONED_S, MAX_AGE_S = 1000.0, 10.0, 300.0, 120.0, 5000.0
QUEUE_LENGTH = 4


@functools.cache
def settings(limit: int, recycle_after: int | None) -> Settings:
    return Settings.model_validate(
        {
            "worker": {
                "limit_model_concurrency": limit,
                "stage_timeout_seconds": TIMEOUT_S,
                "recycle_after_jobs": recycle_after,
                "max_queue_length": QUEUE_LENGTH,
                "max_exports_per_client": 2,
                "abandoned_job_seconds": ABANDONED_S,
                "job_max_age_seconds": MAX_AGE_S,
                "job_cleanup_interval_seconds": 60,
            },
            "server": {"shutdown_grace_seconds": GRACE_S},
            "model": {"idle_unload_seconds": IDLE_S},
        }
    )


class World(Clients):
    """A job manager, its engine, its disk and its clients.

    Args:
        limit: `worker.limit_model_concurrency`.
        cpu_workers: number of calls on the CPU pool at a time.
        decoders: maximum number of decoders.
        recycle_after: `worker.recycle_after_jobs`.

    Attributes:
        ends: how often each job has come to an end.
        has_failed: whether the disk has failed since the manager was started.
    """

    def __init__(
        self,
        *,
        limit: int = 2,
        cpu_workers: int = 2,
        decoders: int = 4,
        recycle_after: int | None = None,
    ) -> None:
        super().__init__(VirtualLoop())
        self.complaints = Complaints()
        self.loop.set_exception_handler(lambda _, context: self.complaints.note(context))
        logging.getLogger("trellis2_server").addHandler(self.complaints)
        self.settings = settings(limit, recycle_after)
        self.sizes = (cpu_workers, decoders)
        self.disk = Disk()
        self.ends: Counter[str] = Counter()
        self.closing: asyncio.Task[None] | None = None
        self.start()

    # ---- the manager ---------------------------------------------------------------------

    def start(self) -> None:
        """Start a manager on the disk, and load its engine."""
        self.closing = None
        self.gates = Gates(self.loop)
        self.executor = GatedExecutor(self.loop, self.gates, *self.sizes)
        self.store = Kept(self.disk, self.gates)
        self.loop.do(self._start())
        assert self.manager.lifecycle.status == "ok"

    async def _start(self) -> None:
        self.manager = JobManager(
            self.executor, self.settings, store=self.store, clock=self.loop.time
        )
        self.service = LocalJobService(self.manager, NoMetrics())
        painter: Any = Painter()
        self.painter: Painter = painter
        self.manager.text_pictures._ready = lambda: painter  # type: ignore[method-assign]
        writes = self.manager.archive._writes
        set_failed, self.has_failed = writes.set_failed, False

        def note_failure(error: ServerError) -> None:
            self.has_failed = True
            set_failed(error)

        writes.set_failed = note_failure  # type: ignore[method-assign]
        self.manager.start()
        self.ends.update({job.uid: 1 - self.ends[job.uid] for job in self.manager.registry})
        self._check_changes(self.manager)

    def _check_changes(self, manager: JobManager) -> None:
        """Check each change of a job, and count how often it comes to an end."""
        registry, put = manager.registry, manager.registry.put

        def checked(job: Job) -> Job:
            if self.manager is not manager or self.store.is_cut_off:
                return put(job)
            known = registry._jobs.get(job.uid)
            was_finished = known is not None and known.status.is_finished
            if job.status.is_finished and not was_finished and known is not None:
                self.ends[job.uid] += 1
            if known and known.status is Status.COMPLETED and not job.status.is_finished:
                self.ends[job.uid] -= 1  # its texture is made after all
            if known and known.status is job.status and known.progress and job.progress:
                assert known.progress.fraction <= job.progress.fraction <= 1
            if job.status is Status.TEXTURE_PROCESSING:
                assert job.shape_glb
            if job.status is Status.COMPLETED:
                assert job.shape_glb or (job.shape_error and job.textured_glb)
            return put(job)

        registry.put = checked  # type: ignore[method-assign]

    @property
    def is_open(self) -> bool:
        """Whether new work is accepted."""
        return self.closing is None and self.manager.availability.fatal_error is None

    def shut_down(self) -> None:
        """Start to close the manager; jobs that run have `GRACE_S`."""
        if self.closing is None:
            self.closing = self.loop.create_task(self.manager.close())
            self.loop.settle()

    def close(self) -> None:
        """Close the manager, whatever stands where; everybody is answered."""
        self.shut_down()
        self.loop.pass_time(GRACE_S + ARCHIVE_GRACE_S + 1)
        assert self.closing is not None
        assert self.closing.done()
        self.check_answers()
        for job in self.manager.registry:
            assert job.status.is_finished
            assert self.ends[job.uid] == 1, (job, self.ends[job.uid])
        self.gates.open_all()
        self.loop.settle()
        check_nothing_is_left(self)

    def reopen(self) -> None:
        """Close the manager, and start another one on its disk."""
        self.close()
        before = {job.uid: job for job in self.manager.registry}
        is_written = not self.manager.archive.notes
        self.forget_requests()
        self.start()
        if is_written:
            self._check_restored(before)

    def kill(self) -> None:
        """End the process without a warning, and start another one on its disk."""
        # While the disk failed, nobody waited for it.
        told = {} if self.has_failed else self._told()
        self.store.is_cut_off = True
        # What follows only frees what the operating system would: nobody is answered any more.
        self.complaints.are_allowed = True
        for task in self.tasks():
            task.cancel()
        self.gates.open_all()
        self.shut_down()
        self.loop.pass_time(2 * (GRACE_S + ARCHIVE_GRACE_S))
        self.complaints.are_allowed = False
        self.forget_requests()
        self.start()
        registry = self.manager.registry
        for uid, files in told.items():
            assert uid in registry, "a job that a client was told of is lost"
            assert files <= _files(registry[uid]), "a file that a client was told of is lost"
        assert not {uid for uid in self.deleted if uid in registry}

    def _told(self) -> dict[str, set[str]]:
        """What clients know to exist, by the uid of a job."""
        told: dict[str, set[str]] = {}
        for asked in self.asked:
            for waiter in asked.waiters:
                if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                    job = waiter.result()
                    if job.uid in self.manager.registry and job.uid not in self.deleted:
                        told.setdefault(job.uid, set()).update(_files(job))
        lost = {file.uid for file in self.disk.lost}
        return {uid: files for uid, files in told.items() if uid not in lost}

    def _check_restored(self, before: dict[str, Job]) -> None:
        registry = self.manager.registry
        lost = {file.uid for file in self.disk.lost}
        for uid, job in before.items():
            if uid in lost:
                continue
            assert uid in registry
            assert _files(registry[uid]) == _files(job)
            was_stopped = job.status is Status.CANCELLED and "shutting down" in str(job.error)
            assert registry[uid].status is (Status.ERROR if was_stopped else job.status)
        assert {job.uid for job in registry} <= before.keys()

    # ---- what goes on --------------------------------------------------------------------

    def load_models(self) -> None:
        """Finish to load each background model that a job waits for, and to make each picture."""
        self.painter.finish()
        self.loop.settle()
        for model in self.executor.models:
            model.set_result(None)
        self.executor.models.clear()
        self.loop.settle()

    def run_out(self) -> None:
        """Let everything go on to its end, without time: no job is left over, nobody waits."""
        self.gates.open_all()
        self.loop.settle()
        self.load_models()
        self.check_answers()
        for job in self.manager.registry:
            assert job.status.is_finished, job
            assert self.ends[job.uid] == 1, (job, self.ends[job.uid])
        assert not self.manager.queue._entries
        assert not self.loop.fibers

    def let_go(self, seed: int, *steps: str, outcome: object = None) -> None:
        """Let the call of a job go on from the gate of one of the steps."""
        places = self.gates.places(seed, *steps)
        assert places, f"{seed} is not at {steps}, but {self.gates.places()}"
        self.gates.let_go(places[0], outcome)
        self.loop.settle()

    def end(self) -> None:
        """End the world, at the end of an example; everything is answered, nothing is left."""
        try:
            self.disk.is_full = False
            if self.closing is None or not self.closing.done():
                self.gates.open_all()
                self.loop.settle()
            self.close()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """End the world without a look: it has failed."""
        logging.getLogger("trellis2_server").removeHandler(self.complaints)
        if not self.loop.is_closed():
            self.loop.close()
        self.complaints.note_later()


def _files(job: Job) -> set[str]:
    return {file.name for file in (job.shape_glb, job.textured_glb) if file}
