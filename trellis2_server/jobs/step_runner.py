"""`StepRunner`: starts one step on its thread, and passes on its outcome.

Does not know: which step starts next, what its result means.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from trellis2_server.errors import (
    EngineBrokenError,
    EngineError,
    JobCancelledError,
    ServerError,
)
from trellis2_server.inputs.background import ModelPending
from trellis2_server.jobs.threads import describe_error

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from trellis2_server.jobs.active_jobs import ActiveJobs
    from trellis2_server.jobs.endings import JobEndings
    from trellis2_server.jobs.estimates import StepDurations
    from trellis2_server.jobs.model_lifecycle import ModelLifecycle
    from trellis2_server.jobs.observers import JobObserver
    from trellis2_server.jobs.queue import ActiveJob, JobStep
    from trellis2_server.jobs.steps import Step
    from trellis2_server.jobs.threads import ThreadPools

logger = logging.getLogger(__name__)


class ResultHandler(Protocol):
    """Takes what steps return."""

    def take(self, active: ActiveJob, step: Step, result: Any) -> None:
        """Record the result of a step, and queue the steps that follow."""
        ...

    def fail(self, active: ActiveJob, step: Step, error: ServerError) -> None:
        """Note that a step failed; the job ends, or goes on without that step."""
        ...

    def retry_cutout(
        self, active: ActiveJob, call: Callable[[], Any], pending: ModelPending
    ) -> None:
        """Queue the cut-out again when its background model is loaded."""
        ...


class StepRunner:
    """Runs steps. Belongs to the event loop's thread.

    Args:
        active_jobs: the jobs in progress.
        threads: where steps run.
        lifecycle: watches the device's memory.
        endings: ends jobs whose step failed.
        durations: learns from the steps that end.
        observer: notified of each step that succeeded.

    Attributes:
        results: takes what steps return.
        on_end: called after each step.
    """

    results: ResultHandler

    def __init__(  # noqa: PLR0913, PLR0917 - six collaborators
        self,
        active_jobs: ActiveJobs,
        threads: ThreadPools,
        lifecycle: ModelLifecycle,
        endings: JobEndings,
        durations: StepDurations,
        observer: JobObserver,
    ) -> None:
        self.on_end: Callable[[], None] = lambda: None
        self._active_jobs = active_jobs
        self._threads = threads
        self._lifecycle = lifecycle
        self._endings = endings
        self._durations = durations
        self._observer = observer

    def start(self, step: JobStep) -> None:
        """Start a step that waits, unless its job is abandoned."""
        active = step.active
        if self._endings.cancel_if_abandoned(active):
            return
        step.started_at = self._active_jobs.clock()
        work = step.call
        if step.name in self._threads.device_steps:
            active.has_used_engine = True
            work = self._lifecycle.watched(step.name, step.call)
        stop = partial(active.timed_out.add, step.name)
        clients = self._active_jobs.registry.clients(active.uid)
        future = self._threads.start_step(step.name, work, active.context, stop, clients)
        future.add_done_callback(partial(self._ended, step), context=active.context)

    def _ended(self, step: JobStep, future: asyncio.Future[Any]) -> None:
        active = step.active
        active.steps.pop(step.name, None)
        error = None if future.cancelled() else future.exception()
        if not active.is_stopped and not future.cancelled():
            seconds = self._active_jobs.clock() - (step.started_at or 0.0)
            logger.debug(
                "Step ended",
                extra={"uid": active.uid, "step": step.name, "seconds": round(seconds, 3)},
            )
            if error is None:
                self._succeeded(active, step.name, seconds, future.result())
            elif isinstance(error, ServerError):
                self.results.fail(active, step.name, error)
            elif isinstance(error, ModelPending):
                self.results.retry_cutout(active, step.call, error)
            else:  # `StepCancelled`: `ThreadPools` translates all other errors
                self._endings.fail(active, JobCancelledError("cancelled"))
        if isinstance(error, EngineBrokenError):
            self._endings.fail_permanently(str(error))
        self.on_end()

    def _succeeded(self, active: ActiveJob, step: Step, seconds: float, result: Any) -> None:
        job = self._active_jobs.record(active)
        self._durations.note(step, job.options, seconds)
        self._observer.note_step(step, seconds)
        self._active_jobs.change(active, timings={**job.timings, step: round(seconds, 3)})
        try:
            self.results.take(active, step, result)
        except Exception as error:  # an engine that breaks its protocol ends one job only
            logger.exception("Result not understood", extra={"uid": active.uid, "step": step})
            if active.uid in self._active_jobs:
                self.results.fail(
                    active, step, EngineError(f"{step} failed: {describe_error(error)}")
                )
