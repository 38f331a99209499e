"""Parts of the job system by themselves, without threads or an engine."""

from __future__ import annotations

import uuid
from typing import Any

from tests.support.managers import Clock, options
from trellis2_server.jobs.active_jobs import ActiveJobs
from trellis2_server.jobs.availability import Availability
from trellis2_server.jobs.endings import JobEndings
from trellis2_server.jobs.job import Job
from trellis2_server.jobs.observers import NullObserver
from trellis2_server.jobs.queue import ActiveJob, JobQueue, job_future
from trellis2_server.jobs.registry import JobRegistry
from trellis2_server.jobs.subscriptions import Subscriptions
from trellis2_server.jobs.uploads import Upload

ABANDONED_AFTER_S = 100.0


class Lifecycle:
    """Counts the jobs of an engine that needs no device."""

    def __init__(self) -> None:
        self.jobs = 0
        self.memory: dict[str, int] = {}

    def note_job(self) -> None:
        self.jobs += 1


class Parts:
    """What ends jobs, and the jobs."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.registry = JobRegistry()
        self.active_jobs = ActiveJobs(self.registry, Subscriptions(), self.clock)
        self.moved: list[str] = []
        self.queue = JobQueue(frozenset({"shape", "texture"}), self.moved.append)
        self.availability = Availability()
        self.lifecycle: Any = Lifecycle()
        self.endings = JobEndings(
            self.active_jobs,
            self.queue,
            self.lifecycle,
            self.availability,
            NullObserver(),
            ABANDONED_AFTER_S,
        )
        self.ends = 0
        self.endings.on_failure = self._count

    def _count(self) -> None:
        self.ends += 1

    def add(self, *, deadline: float = 0.0, **state: Any) -> ActiveJob:
        """A job in progress; one that waits for a step is queued."""
        job = self.registry.put(Job(str(uuid.uuid4()), options(), "none", self.clock()))
        active = ActiveJob(
            uid=job.uid,
            upload=Upload("", "", remove_background=True),
            wants_texture=True,
            shape_done=job_future(),
            deadline=deadline,
            last_requested_at=self.clock(),
            **state,
        )
        self.active_jobs.add(active)
        if active.waiting_for:
            self.queue.add(active)
        return active

    def status(self, active: ActiveJob) -> str:
        return self.active_jobs.record(active).status.value
