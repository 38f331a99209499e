"""Parts of the job system by themselves, without threads or an engine."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from tests.support.managers import Clock, options
from trellis2_server.jobs.active_jobs import ActiveJobs
from trellis2_server.jobs.availability import Availability
from trellis2_server.jobs.endings import JobEndings
from trellis2_server.jobs.job import Job
from trellis2_server.jobs.observers import NullObserver
from trellis2_server.jobs.queue import ActiveJob, JobStep, StepQueue, job_future
from trellis2_server.jobs.registry import JobRegistry
from trellis2_server.jobs.subscriptions import Subscriptions
from trellis2_server.jobs.uploads import Upload

if TYPE_CHECKING:
    from trellis2_server.jobs.steps import Step

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
        self.queue = StepQueue(frozenset({"shape", "texture"}), self.moved.append)
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

    def add(
        self,
        *,
        waiting_for: Step | tuple[Step, ...] = (),
        running: Step | tuple[Step, ...] = (),
        deadline: float = 0.0,
        **state: Any,
    ) -> ActiveJob:
        """A job in progress with these steps; those that wait are queued."""
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
        for step in (running,) if isinstance(running, str) else running:
            active.add_step(step, lambda: None).started_at = self.clock()
        for step in (waiting_for,) if isinstance(waiting_for, str) else waiting_for:
            self.queue.add(active.add_step(step, lambda: None))
        return active

    def waiting(self, active: ActiveJob) -> JobStep:
        """The step that the job's status waits for."""
        step = self.active_jobs.present_step(active)
        assert step is not None
        return step

    def status(self, active: ActiveJob) -> str:
        return self.active_jobs.record(active).status.value
