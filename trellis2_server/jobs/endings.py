"""`JobEndings`: every way in which a job ends, except that its files are removed.

Does not know: threads, which step starts next.
"""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Any

from trellis2_server import request_ids
from trellis2_server.errors import (
    EngineError,
    JobCancelledError,
    OutboundError,
    ShuttingDownError,
)
from trellis2_server.jobs.availability import unhealthy
from trellis2_server.jobs.job import Status
from trellis2_server.jobs.steps import TEXTURE_STEPS

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.errors import ServerError
    from trellis2_server.jobs.active_jobs import ActiveJobs
    from trellis2_server.jobs.availability import Availability
    from trellis2_server.jobs.job import Job
    from trellis2_server.jobs.model_lifecycle import ModelLifecycle
    from trellis2_server.jobs.observers import JobObserver
    from trellis2_server.jobs.queue import ActiveJob, StepQueue
    from trellis2_server.jobs.steps import Step

logger = logging.getLogger(__name__)


class JobEndings:
    """Ends jobs, and answers all requests that wait for them.

    Args:
        active_jobs: the jobs in progress.
        queue: left by jobs that end.
        lifecycle: counts the jobs of the engine.
        availability: whether the process accepts work.
        observer: notified of each end.
        abandoned_after_s: age of the last request after which a waiting job is cancelled,
            seconds.

    Attributes:
        on_failure: called after a job has failed or was cancelled, and after a fatal error.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - six collaborators
        self,
        active_jobs: ActiveJobs,
        queue: StepQueue,
        lifecycle: ModelLifecycle,
        availability: Availability,
        observer: JobObserver,
        abandoned_after_s: float,
    ) -> None:
        self.on_failure: Callable[[], None] = lambda: None
        self._active_jobs = active_jobs
        self._queue = queue
        self._lifecycle = lifecycle
        self._availability = availability
        self._observer = observer
        self._abandoned_after_s = abandoned_after_s

    # ---- success -------------------------------------------------------------------------

    def complete_shape(self, active: ActiveJob, **changes: Any) -> None:
        """Finish a job without a texture; its texture may still be requested."""
        self._active_jobs.change(active, status=Status.COMPLETED, **changes)
        self._note_end(active)

    def complete(self, active: ActiveJob, **changes: Any) -> None:
        """Finish a job that has all of its results."""
        self._active_jobs.change(active, status=Status.COMPLETED, **changes)
        self._note_end(active)
        self._release(active)

    # ---- failure -------------------------------------------------------------------------

    def fail(self, active: ActiveJob, error: ServerError, **changes: Any) -> None:
        """End a job without all of its results; requests that wait for it get the error."""
        is_cancelled = isinstance(error, JobCancelledError | ShuttingDownError)
        active.is_stopped = True
        self._queue.remove(*active.steps.values())
        status = Status.CANCELLED if is_cancelled else Status.ERROR
        self._active_jobs.change(active, status=status, error=bare(error), **changes)
        self._note_end(active)
        self._release(active)
        self.on_failure()

    def fail_step(self, active: ActiveJob, step: Step, error: ServerError) -> None:
        """Note that a step failed, or cannot start; its job ends.

        But if the texture fails first, the job ends only when its shape is exported: clients that
        wait for the untextured GLB get it.
        """
        if step in TEXTURE_STEPS and "shape_export" in active.steps:
            self._drop_texture(active)
            active.texture_error = bare(error)
        else:
            self.fail(active, error)

    def _drop_texture(self, active: ActiveJob) -> None:
        """Remove the texture step of a job whose shape is being exported."""
        step = active.steps.pop("texture", None)
        if step is not None:
            self._queue.remove(step)

    def cancel(self, active: ActiveJob) -> None:
        """Cancel a job: at once if it waits, otherwise at the running step's next report."""
        if not self._active_jobs.is_finished(active):
            self.fail(active, JobCancelledError("cancelled"))

    def cancel_if_abandoned(self, active: ActiveJob) -> bool:
        """Cancel a job that has not started and that no client asks for; return whether."""
        age_s = self._active_jobs.clock() - active.last_requested_at
        has_started = not active.waits_for("cutout")
        if has_started or active.waiters or age_s <= self._abandoned_after_s:
            return False
        self.fail(active, JobCancelledError("cancelled: no client asked for the job any more"))
        return True

    def fail_all(self, error: ServerError, *, running: bool = True) -> None:
        """End all unfinished jobs, or only those of which no step runs.

        In the latter case, the textures of the others do not start; without its texture, such a
        job is complete when its shape is exported.
        """
        for active in self._active_jobs:
            if self._active_jobs.is_finished(active):
                continue
            if running or not active.running:
                self.fail(active, error)
            elif active.waits_for("texture"):
                self._drop_texture(active)
                active.texture_done = None

    def fail_permanently(self, reason: str) -> None:
        """Record a fatal error, and end the jobs that still need the engine."""
        if not self._availability.fail(reason):
            return
        needing_device = set(self._queue.waiting_for_device())
        for active in self._active_jobs:
            for name, step in list(active.steps.items()):
                if step in needing_device or active.waits_for("cutout"):
                    self.fail_step(active, name, unhealthy(reason))
        self._note_settled()
        self.on_failure()

    # ---- both ----------------------------------------------------------------------------

    def _release(self, active: ActiveJob) -> None:
        """Drop what only an unfinished job needs, and wake the requests that wait for it."""
        self._active_jobs.discard(active.uid)
        active.release()
        for future in (active.shape_done, active.texture_done):
            if future is not None and not future.done():
                future.set_result(self._active_jobs.record(active))

    def _note_end(self, active: ActiveJob) -> None:
        job = self._active_jobs.record(active)
        if active.has_used_engine and not active.is_counted:
            active.is_counted = True
            self._lifecycle.note_job()
        self._log(active, job)
        self._observer.note_end(job.engine, job.status)
        self._note_settled()

    def _note_settled(self) -> None:
        if self._availability.fatal_error is not None and all(
            map(self._active_jobs.is_finished, self._active_jobs)
        ):
            self._availability.is_settled.set()

    def _log(self, active: ActiveJob, job: Job) -> None:
        memory = self._lifecycle.memory
        # The job may end in the context of another request.
        request_id = active.context.get(request_ids.current, "")
        logger.log(
            logging.WARNING if isinstance(job.error, EngineError | OutboundError) else logging.INFO,
            "Job %s",
            job.status.value,
            extra={
                "uid": job.uid,
                "image_hash": job.image_hash,
                "seconds": round(self._active_jobs.clock() - job.created_at, 3),
                **({"error": str(job.error)} if job.error else {}),
                **({"request_id": request_id} if request_id else {}),
                **{f"device_{kind}_mb": size // 1_000_000 for kind, size in memory.items()},
            },
        )


def bare(error: ServerError) -> ServerError:
    """Return a copy without its traceback, whose frames would hold the step's arrays."""
    return copy.copy(error)
