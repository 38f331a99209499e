"""`ActiveJobs`: the jobs in progress, and the one way to change their records.

Does not know: threads, how a job is worked on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trellis2_server.jobs.job import Progress, Status
from trellis2_server.jobs.steps import SHAPE_STEPS, TEXTURE_STEPS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trellis2_server.jobs.job import Job
    from trellis2_server.jobs.queue import ActiveJob, JobStep
    from trellis2_server.jobs.registry import JobRegistry
    from trellis2_server.jobs.steps import Step
    from trellis2_server.jobs.subscriptions import Subscriptions
    from trellis2_server.jobs.uploads import Upload


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

    def find_by_upload(self, upload: Upload) -> str | None:
        """Return the uid of the newest active job of that upload; None: there is none.

        A job with a mesh is not the picture's own.
        """
        newest_first = reversed(self._by_uid.values())
        return next(
            (
                active.uid
                for active in newest_first
                if active.upload == upload and self.record(active).options.mesh is None
            ),
            None,
        )

    def note_request(self, uid: str) -> None:
        """Note that a client has asked for a job: it is not abandoned, and ages from now on."""
        self.registry.note_request(uid, self.clock())
        active = self._by_uid.get(uid)
        if active:
            active.last_requested_at = self.clock()

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

    def is_finished(self, active: ActiveJob) -> bool:
        """Return whether nothing is being done, or waits to be done, for the job."""
        return self.record(active).status.is_finished

    # ---- progress ------------------------------------------------------------------------

    def present_steps(self, active: ActiveJob) -> tuple[Step, ...]:
        """Return the steps that the job's status waits for.

        They are the texture's if the job goes on without its untextured GLB.
        """
        job = self.record(active)
        is_textures_turn = job.status is Status.TEXTURE_PROCESSING or job.shape_error is not None
        return TEXTURE_STEPS if is_textures_turn else SHAPE_STEPS

    def present_step(self, active: ActiveJob) -> JobStep | None:
        """Return the step that the job's status waits for; None: the job is finished."""
        steps = map(active.steps.get, self.present_steps(active))
        return next((step for step in steps if step), None)

    def note_progress(self, active: ActiveJob, step: Step, progress: Progress) -> None:
        """Record the progress of a step, which never goes back.

        While the shape is being exported, that of the texture is only remembered: the job's
        progress is that of its status.
        """
        if step not in self.present_steps(active):
            active.texture_progress = _forward(active.texture_progress, progress)
            return
        known = self.record(active).progress
        progress = _forward(known, progress)
        if progress != known:
            self.change(active, progress=progress)

    def note_loading(self, step: JobStep) -> None:
        """Show as the progress of a step that it waits for the engine to load."""
        self.note_progress(step.active, step.name, Progress("loading", 0.0))

    # ---- counts --------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Number of jobs that wait for a step to start, or for a background model."""
        return sum(1 for active in self if active.is_waiting)

    @property
    def unfinished(self) -> int:
        """Number of jobs that run or wait."""
        return sum(1 for active in self if active.steps)

    @property
    def second_steps(self) -> int:
        """Number of steps that run beside another step of the same job."""
        return sum(max(len(active.running) - 1, 0) for active in self)

    @property
    def held_fields(self) -> int:
        """Number of materials that wait until the shape of their job is exported."""
        return sum(
            active.data.field is not None and "shape_export" in active.steps for active in self
        )

    @property
    def upload_bytes(self) -> int:
        """Bytes of the clients' files that are held until they are read."""
        return sum(active.upload_bytes for active in self)


def _forward(known: Progress | None, progress: Progress) -> Progress:
    """Return the progress with the fraction that was reached before, if that is larger."""
    if known is None or known.fraction <= progress.fraction:
        return progress
    return replace(progress, fraction=known.fraction)  # a stage started over
