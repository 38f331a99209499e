"""`ResultWaiter`: waits until a job has its untextured or its textured GLB.

A waiting request holds no thread. When it is cancelled, the job and other requests go on.

Does not know: HTTP, how a job is worked on.
"""

from __future__ import annotations

import asyncio
import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING

from trellis2_server.errors import JobNotFoundError, ServerError, TextureTimeoutError
from trellis2_server.jobs.availability import shutting_down
from trellis2_server.jobs.job import Status

if TYPE_CHECKING:
    from collections.abc import Generator

    from trellis2_server.jobs.active_jobs import ActiveJobs
    from trellis2_server.jobs.availability import Availability
    from trellis2_server.jobs.job import Job
    from trellis2_server.jobs.queue import ActiveJob
    from trellis2_server.jobs.step_results import StepResults


class ResultWaiter:
    """Waits for results. Belongs to the event loop's thread.

    Args:
        active_jobs: the jobs in progress.
        results: starts textures that are requested.
        availability: whether the process is shutting down.
    """

    def __init__(
        self, active_jobs: ActiveJobs, results: StepResults, availability: Availability
    ) -> None:
        self._active_jobs = active_jobs
        self._registry = active_jobs.registry
        self._results = results
        self._availability = availability

    async def wait_for_shape(self, job: Job) -> Job:
        """Return the job with its untextured GLB, once that exists.

        Raises:
            ServerError: the job ended without one.
        """
        if job.shape_glb is None:
            job = self._registry.get(job.uid, job.owner)  # it may have changed since
        active = self._active_jobs.get(job.uid)
        if active and job.shape_glb is None:
            with self._waiting(active):
                job = await asyncio.shield(active.shape_done)
        if job.shape_glb is None:
            raise copy.copy(job.shape_error) if job.shape_error else self._reason(job)
        return job

    async def wait_for_texture(self, job: Job, timeout_s: float | None = None) -> Job:
        """Return the job with its textured GLB, once that exists; request it where needed.

        Args:
            job: the job.
            timeout_s: maximum time to wait, seconds; None: no limit.

        Raises:
            TextureTimeoutError: the texture was not ready in time; the job goes on.
            ServerError: the job ended without a texture.
        """
        if job.textured_glb is not None:
            return job
        job = self._registry.get(job.uid, job.owner)  # it may have changed since
        self._results.request_texture(job)
        try:
            job = await asyncio.wait_for(self._textured(job), timeout_s)
        except asyncio.TimeoutError:
            raise TextureTimeoutError("Texture generation timed out") from None
        if job.textured_glb is None:
            raise self._reason(job)
        return job

    async def _textured(self, job: Job) -> Job:
        active = self._active_jobs.get(job.uid)
        if active is None:  # the job has ended in the meantime
            return self._registry.get(job.uid, job.owner)
        with self._waiting(active):
            job = await asyncio.shield(active.shape_done)  # another job's, if it was merged
        active = self._active_jobs.get(job.uid)
        if active is None or active.texture_done is None:
            return self._registry.get(job.uid, job.owner)
        with self._waiting(active):
            return await asyncio.shield(active.texture_done)

    def _reason(self, job: Job) -> ServerError:
        """Return why a job lacks a result: a new exception for each request."""
        if job.error is not None:
            return copy.copy(job.error)
        if self._availability.is_closing or job.status is not Status.COMPLETED:
            return shutting_down()
        return JobNotFoundError(
            "the texture of this job cannot be made any more, the server was restarted since; "
            "send the picture again"
        )

    @contextmanager
    def _waiting(self, active: ActiveJob) -> Generator[None]:
        active.waiters += 1
        try:
            yield
        finally:
            active.waiters -= 1
            active.last_requested_at = self._active_jobs.clock()
