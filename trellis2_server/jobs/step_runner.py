"""`StepRunner`: starts one step on its thread, and passes on its outcome.

Does not know: which step starts next, what its result means.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from trellis2_server.errors import EngineBrokenError, EngineError, JobCancelledError, ServerError
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
    from trellis2_server.jobs.queue import ActiveJob
    from trellis2_server.jobs.steps import Step
    from trellis2_server.jobs.threads import ThreadPools

logger = logging.getLogger(__name__)


class ResultHandler(Protocol):
    """Takes what steps return."""

    def take(self, active: ActiveJob, step: Step, result: Any) -> None:
        """Record the result of a step, and queue the next one."""
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

    def start(self, active: ActiveJob) -> None:
        """Start the step that the job waits for, unless the job is abandoned."""
        if self._endings.cancel_if_abandoned(active):
            return
        step, call = active.start(self._active_jobs.clock())
        work = call
        if step in self._threads.device_steps:
            active.has_used_engine = True
            work = self._lifecycle.watched(step, call)
        future = self._threads.start_step(step, work, active.context)
        future.add_done_callback(partial(self._ended, active, step, call), context=active.context)

    def _ended(
        self, active: ActiveJob, step: Step, call: Callable[[], Any], future: asyncio.Future[Any]
    ) -> None:
        active.running = None
        error = None if future.cancelled() else future.exception()
        if isinstance(error, EngineBrokenError):
            if not active.is_stopped:
                self._endings.fail(active, error)
            self._endings.fail_permanently(str(error))
        if not active.is_stopped and not future.cancelled():
            seconds = self._active_jobs.clock() - active.step_started_at
            logger.debug(
                "Step ended",
                extra={"uid": active.uid, "step": step, "seconds": round(seconds, 3)},
            )
            if error is None:
                self._succeeded(active, step, seconds, future.result())
            elif isinstance(error, ServerError):
                self._endings.fail(active, error)
            elif isinstance(error, ModelPending):
                self.results.retry_cutout(active, call, error)
            else:  # `StepCancelled`: `ThreadPools` translates all other errors
                self._endings.fail(active, JobCancelledError("cancelled"))
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
                self._endings.fail(active, EngineError(f"{step} failed: {describe_error(error)}"))
