"""`Cleanup`: what is checked at intervals: aged and abandoned jobs, hung threads, failed writes.

Does not know: HTTP, how a job is worked on.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from trellis2_server.jobs.active_jobs import ActiveJobs
    from trellis2_server.jobs.endings import JobEndings
    from trellis2_server.jobs.lookups import Lookups
    from trellis2_server.jobs.scheduler import Scheduler
    from trellis2_server.settings import WorkerSettings
    from trellis2_server.storage.archive import Archive

logger = logging.getLogger(__name__)

#: Fatal error when no thread is left for work on the CPU.
ALL_THREADS_HANG: Final = (
    "every thread for cut-outs and exports is in a call that exceeded its time limit"
)


class Cleanup:
    """Regular checks. Belongs to the event loop's thread.

    Args:
        limits: ages and intervals.
        active_jobs: the jobs in progress, and the registry of all.
        archive: retries failed writes.
        endings: cancels abandoned jobs; for fatal errors.
        scheduler: whether steps wait for threads that hang.
        lookups: the same for lookups.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - six collaborators
        self,
        limits: WorkerSettings,
        active_jobs: ActiveJobs,
        archive: Archive,
        endings: JobEndings,
        scheduler: Scheduler,
        lookups: Lookups,
    ) -> None:
        self._limits = limits
        self._active_jobs = active_jobs
        self._archive = archive
        self._endings = endings
        self._scheduler = scheduler
        self._lookups = lookups

    async def run_regularly(self) -> None:
        """Run for ever, at the interval of the settings; after a failure, too."""
        while True:
            await asyncio.sleep(
                min(self._limits.job_cleanup_interval_seconds, self._limits.abandoned_job_seconds)
            )
            try:
                self.run()
            except Exception:
                logger.exception("The cleanup failed")

    def run(self) -> None:
        """Delete finished jobs that have aged out, cancel abandoned ones, check the threads."""
        registry = self._active_jobs.registry
        oldest = self._active_jobs.clock() - self._limits.job_max_age_seconds
        for job in registry.remove_aged(oldest):
            self._active_jobs.discard(job.uid)
        for active in self._active_jobs:
            self._endings.cancel_if_abandoned(active)
        if self._scheduler.is_stuck or self._lookups.is_stuck:
            self._endings.fail_permanently(ALL_THREADS_HANG)
        self._archive.retry_failed_writes()
