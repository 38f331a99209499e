"""`ActiveJobs`: the jobs in progress, and the one way to change their records.

Does not know: threads, how a job is worked on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trellis2_server.jobs.job import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trellis2_server.jobs.job import Job
    from trellis2_server.jobs.queue import ActiveJob
    from trellis2_server.jobs.registry import JobRegistry
    from trellis2_server.jobs.subscriptions import Subscriptions


class ActiveJobs:
    """The jobs that are not finished, or whose texture may still be requested.

    Of the latter, the status is already "completed".

    Args:
        registry: all jobs, finished ones too.
        subscriptions: get each change.
        clock: monotonic seconds.
    """

    def __init__(
        self, registry: JobRegistry, subscriptions: Subscriptions, clock: Callable[[], float]
    ) -> None:
        self.registry = registry
        self.subscriptions = subscriptions
        self.clock = clock
        self._by_uid: dict[str, ActiveJob] = {}

    def __iter__(self) -> Iterator[ActiveJob]:
        return iter(list(self._by_uid.values()))

    def __len__(self) -> int:
        return len(self._by_uid)

    def __contains__(self, uid: str) -> bool:
        return uid in self._by_uid

    def get(self, uid: str) -> ActiveJob | None:
        """Return the working state of a job; None: it is not active."""
        return self._by_uid.get(uid)

    def add(self, active: ActiveJob) -> None:
        """Add a job, whose record is in the registry."""
        self._by_uid[active.uid] = active

    def discard(self, uid: str) -> None:
        """Remove a job, if it is active; its record stays."""
        self._by_uid.pop(uid, None)

    # ---- records -------------------------------------------------------------------------

    def record(self, active: ActiveJob) -> Job:
        """Return the job's record."""
        return self.registry[active.uid]

    def change(self, active: ActiveJob, **changes: Any) -> Job:
        """Change the job's record and publish it; return the new one."""
        job = self.registry.put(self.record(active).changed(self.clock(), **changes))
        self.subscriptions.publish(job)
        return job

    def note_loading(self, active: ActiveJob) -> None:
        """Show as the job's progress that it waits for the engine to load."""
        known = self.record(active).progress
        self.change(active, progress=Progress("loading", known.fraction if known else 0.0))

    def is_finished(self, active: ActiveJob) -> bool:
        """Return whether nothing is being done, or waits to be done, for the job."""
        return self.record(active).status.is_finished

    # ---- counts --------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Number of jobs that wait for a step to start, or for a background model."""
        return sum(1 for active in self if active.waiting_for)

    @property
    def unfinished(self) -> int:
        """Number of jobs that run or wait."""
        return sum(1 for active in self if active.running or active.waiting_for)

    @property
    def upload_bytes(self) -> int:
        """Bytes of the clients' files that are held until they are read."""
        return sum(active.upload_bytes for active in self)
