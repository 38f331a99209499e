"""`Admission`: the limits on new jobs: queue length, bytes of uploads, jobs of one client.

Does not know: HTTP, what a job is made of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trellis2_server.errors import QueueFullError, TooManyRequestsError

if TYPE_CHECKING:
    from trellis2_server.jobs.active_jobs import ActiveJobs
    from trellis2_server.jobs.availability import Availability
    from trellis2_server.jobs.job import Caller
    from trellis2_server.jobs.lookups import Lookups
    from trellis2_server.jobs.model_lifecycle import ModelLifecycle
    from trellis2_server.jobs.scheduler import Scheduler
    from trellis2_server.settings import WorkerSettings

#: `Retry-After` when the queue is full, seconds.
QUEUE_FULL_RETRY_AFTER_S: Final = 10


class Admission:
    """Decides whether a request may create a job or an export call.

    Args:
        limits: queue length, bytes, jobs a client.
        availability: whether new work is accepted.
        lifecycle: whether the engine is loaded.
        scheduler: how much waits.
        active_jobs: the jobs in progress.
        lookups: the lookups that wait and run.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - six collaborators
        self,
        limits: WorkerSettings,
        availability: Availability,
        lifecycle: ModelLifecycle,
        scheduler: Scheduler,
        active_jobs: ActiveJobs,
        lookups: Lookups,
    ) -> None:
        self._limits = limits
        self._availability = availability
        self._lifecycle = lifecycle
        self._scheduler = scheduler
        self._active_jobs = active_jobs
        self._lookups = lookups

    def check_open(self) -> None:
        """Return if requests are served.

        Raises:
            UnavailableError: loading, shutting down, or unhealthy.
        """
        self._availability.check()
        self._lifecycle.check()

    def check_queue(self) -> None:
        """Return if another job, lookup or export call may wait.

        Raises:
            QueueFullError: `worker.max_queue_length` of them wait.
        """
        waiting = self._scheduler.waiting + self._lookups.waiting
        if waiting >= self._limits.max_queue_length:
            raise QueueFullError(
                f"the queue is full: {waiting} jobs wait", retry_after_s=QUEUE_FULL_RETRY_AFTER_S
            )

    def check_new_job(self, upload_bytes: int, caller: Caller) -> None:
        """Return if the caller may create a job.

        Args:
            upload_bytes: size of its files, bytes.
            caller: the client.

        Raises:
            QueueFullError: too many jobs, or bytes of uploads, wait.
            TooManyRequestsError: the client has too many unfinished jobs.
        """
        self.check_queue()
        self.check_upload(upload_bytes, caller)

    def check_upload(self, upload_bytes: int, caller: Caller) -> None:
        """Return if the caller's files may be held until they are read.

        Args:
            upload_bytes: size of the files, bytes.
            caller: the client.

        Raises:
            QueueFullError: too many bytes of uploads wait.
            TooManyRequestsError: the client has `worker.max_jobs_per_client` unfinished jobs and
                lookups.
        """
        held = self._active_jobs.upload_bytes + self._lookups.held_bytes
        if held and held + upload_bytes > self._limits.max_waiting_bytes:
            raise QueueFullError(
                f"the queue is full: {held} bytes of uploads wait",
                retry_after_s=QUEUE_FULL_RETRY_AFTER_S,
            )
        limit = self._limits.max_jobs_per_client
        if limit is None:
            return
        own = self._lookups.requests_of(caller.client) + sum(
            1
            for active in self._active_jobs
            if caller.client in self._active_jobs.registry.clients(active.uid)
            and not self._active_jobs.is_finished(active)
        )
        if own >= limit:
            raise TooManyRequestsError(
                f"{own} of your jobs are not finished yet, and this server takes {limit} at a time",
                retry_after_s=QUEUE_FULL_RETRY_AFTER_S,
            )
