"""`StepResults`: what follows from the end of each step: records, files and the next steps.

    cutout          the picture that the model sees   → shape, or shape_export of an uploaded mesh
    shape           the engine's shape                → shape_export and, where requested, texture
    shape_export    the untextured GLB                → texture, where requested since
    texture         the engine's material             → texture_export, when both are there
    texture_export  the textured GLB                  → completed

What becomes of a job when one of two steps that run side by side fails:

    shape_export    The waiting requests for the untextured GLB get the error, the job a warning.
                    The texture goes on; `texture_export` prepares the shape itself, and if it
                    cannot do so either, the job ends with its error.
    texture         The job goes on until the untextured GLB is there, then ends with the error.
    both            The job ends with the error of the texture.

The snapshots of shape and field are stored in any case, so that the job can be exported again. A
job that is cancelled ends at once, whichever of its steps run. A step that exceeds its time limit
(`StepTimeoutError`) counts as one that failed. A fatal error (`EngineBrokenError`) in the export of
a shape ends the job at once: the process ends soon after.

Does not know: threads, when the next step starts, how a step is done.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from trellis2_server.errors import EngineBrokenError, ServerError
from trellis2_server.jobs.endings import bare
from trellis2_server.jobs.job import (
    INPUT_FILE,
    SHAPE_FILE,
    TEXTURED_FILE,
    Progress,
    Status,
    image_hash_of,
)
from trellis2_server.jobs.pending_models import ModelWait
from trellis2_server.jobs.queue import job_future
from trellis2_server.jobs.scheduler import TEXTURE_PATIENCE_S
from trellis2_server.storage.snapshots import FIELD_SNAPSHOT, SHAPE_SNAPSHOT, mesh_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.inputs.background import ModelPending
    from trellis2_server.inputs.images import Cutout
    from trellis2_server.jobs.active_jobs import ActiveJobs
    from trellis2_server.jobs.availability import Availability
    from trellis2_server.jobs.endings import JobEndings
    from trellis2_server.jobs.executor import FieldSummary, ShapeSummary
    from trellis2_server.jobs.job import Job
    from trellis2_server.jobs.matching import JobMatcher
    from trellis2_server.jobs.queue import ActiveJob
    from trellis2_server.jobs.step_calls import StepCalls
    from trellis2_server.jobs.steps import Step
    from trellis2_server.storage.archive import Archive


class Enqueue(Protocol):
    """Queues a step; see `Scheduler.enqueue`."""

    def __call__(self, active: ActiveJob, step: Step, call: Callable[[], Any]) -> None:
        """Queue a step of a job."""
        ...


class StepResults:
    """Takes the results of steps. Belongs to the event loop's thread.

    Args:
        calls: builds the next step's call.
        active_jobs: the jobs in progress.
        archive: stores files.
        matcher: finds known jobs.
        availability: whether new work is accepted.
        endings: ends jobs.

    Attributes:
        enqueue: queues the next step.
    """

    enqueue: Enqueue

    def __init__(  # noqa: PLR0913, PLR0917 - six collaborators
        self,
        calls: StepCalls,
        active_jobs: ActiveJobs,
        archive: Archive,
        matcher: JobMatcher,
        availability: Availability,
        endings: JobEndings,
    ) -> None:
        self._calls = calls
        self._active_jobs = active_jobs
        self._archive = archive
        self._matcher = matcher
        self._availability = availability
        self._endings = endings

    # ---- before and between the steps ----------------------------------------------------

    def start_job(self, active: ActiveJob, picture: bytes) -> None:
        """Queue the first step of a new job."""
        self._active_jobs.add(active)
        active.upload_bytes = len(picture) + len(active.mesh or b"")
        self.enqueue(active, "cutout", self._calls.cut_out(active, picture))

    def request_texture(self, job: Job) -> None:
        """Have the job's texture made, unless it exists, is being made, or cannot be made.

        Raises:
            UnavailableError: new work is not accepted.
        """
        active = self._active_jobs.get(job.uid)
        if active is None:
            return
        active.wants_texture = True
        if self._active_jobs.record(active).status is Status.COMPLETED:
            self._availability.check()
            self._active_jobs.change(active, status=Status.TEXTURE_PROCESSING)
            self._start_texture(active)

    def retry_cutout(
        self, active: ActiveJob, call: Callable[[], Any], pending: ModelPending
    ) -> None:
        """Queue the cut-out again when its background model is loaded; no thread waits."""
        try:
            self._availability.check()
        except ServerError as error:
            self._endings.fail(active, error)
            return
        waiting = active.add_step("cutout", call)  # in no queue
        self._active_jobs.change(active, progress=Progress("background model", 0.0))

        def requeue() -> None:
            if active.steps.get("cutout") is waiting:
                self.enqueue(active, "cutout", waiting.call)

        active.model_wait = ModelWait(pending, requeue)

    # ---- results -------------------------------------------------------------------------

    def take(self, active: ActiveJob, step: Step, result: Any) -> None:
        """Record the result of a step, and queue the steps that follow."""
        if step == "cutout":
            self._take_cutout(active, result)
        elif step == "shape":
            self._take_shape(active, result)
        elif step == "shape_export":
            self._take_shape_glb(active, *result)
        elif step == "texture":
            self._take_field(active, result)
        else:
            self._take_textured_glb(active, result)

    def _take_cutout(self, active: ActiveJob, cutout: Cutout) -> None:
        active.data.cutout = cutout
        active.upload_bytes = len(active.mesh or b"")
        self._active_jobs.change(
            active,
            image_hash=image_hash_of(cutout.image_hash, self._active_jobs.record(active).options),
            background=cutout.background,
            warnings=cutout.warnings,
        )
        known = self._matcher.find_by_cutout(active, cutout)
        if known is not None:
            self._merge(active, known)
            return
        self._archive.store_deferred(active.uid, INPUT_FILE, cutout.png, is_evictable=False)
        mesh, active.mesh = active.mesh, None
        if mesh is None:
            self.enqueue(active, "shape", self._calls.make_shape(active, cutout))
        else:
            snapshot = partial(mesh_snapshot, mesh)
            self._archive.store_deferred(active.uid, SHAPE_SNAPSHOT, snapshot, is_evictable=True)
            self.enqueue(active, "shape_export", self._calls.read_mesh(active, mesh))

    def _merge(self, active: ActiveJob, known: Job) -> None:
        self._matcher.merge(active, known)
        if active.wants_texture and self._availability.is_open:
            self.request_texture(known)
        self._matcher.follow(active, known)

    def _take_shape(self, active: ActiveJob, shape: ShapeSummary) -> None:
        warnings = (*self._active_jobs.record(active).warnings, *shape.warnings)
        self._active_jobs.change(
            active, resolution=shape.resolution, warnings=warnings, details=shape.details
        )
        active.data.shape = shape
        self.enqueue(active, "shape_export", self._calls.export_shape(active, shape))
        if active.wants_texture and not self._availability.is_closing:
            self._start_texture(active)

    def _take_shape_glb(
        self,
        active: ActiveJob,
        geometry: Any,
        glb: bytes,
        digest: str,
        warnings: tuple[str, ...] = (),
    ) -> None:
        active.data.geometry = geometry
        if warnings:
            warnings = (*self._active_jobs.record(active).warnings, *warnings)
            self._active_jobs.change(active, warnings=warnings)
        self._store_shape_snapshot(active)
        active.upload_bytes = 0
        shape_glb = self._archive.store_file(active.uid, SHAPE_FILE, glb)
        files = {"shape_glb": shape_glb, "shape_md5": digest}
        is_started = active.texture_done is not None
        if is_started or (active.wants_texture and not self._availability.is_closing):
            progress = active.texture_progress
            self._active_jobs.change(
                active, status=Status.TEXTURE_PROCESSING, progress=progress, **files
            )
        else:
            self._endings.complete_shape(active, **files)
        if not active.shape_done.done():
            active.shape_done.set_result(self._active_jobs.record(active))
        self._go_on_with_texture(active, is_started=is_started)

    def _go_on_with_texture(self, active: ActiveJob, *, is_started: bool) -> None:
        """After the untextured GLB: start the texture, or its export, or end its job."""
        if active.texture_error is not None:
            self._endings.fail(active, active.texture_error)
        elif active.data.field is not None:
            self._export_model(active)
        elif not is_started and not self._active_jobs.is_finished(active):
            self._start_texture(active)

    def _start_texture(self, active: ActiveJob) -> None:
        data = active.data
        source = data.geometry if data.shape is None else data.shape
        if source is None or data.cutout is None:
            raise RuntimeError("a texture without a shape")
        active.texture_deadline = self._active_jobs.clock() + TEXTURE_PATIENCE_S
        active.texture_done = job_future()
        self.enqueue(active, "texture", self._calls.make_texture(active, source, data.cutout))

    def _take_field(self, active: ActiveJob, field: FieldSummary) -> None:
        if field.warnings or field.details:
            job = self._active_jobs.record(active)
            warnings = (*job.warnings, *field.warnings)
            details = {**job.details, **field.details}
            self._active_jobs.change(active, warnings=warnings, details=details)
        active.data.field, active.data.cutout = field, None
        if "shape_export" not in active.steps:
            self._export_model(active)

    def _export_model(self, active: ActiveJob) -> None:
        data = active.data
        geometry = data.shape if data.geometry is None else data.geometry
        self.enqueue(
            active, "texture_export", self._calls.export_model(active, geometry, data.field)
        )

    def _take_textured_glb(self, active: ActiveJob, glb: bytes) -> None:
        textured_glb = self._archive.store_file(active.uid, TEXTURED_FILE, glb)
        self._store_field_snapshot(active)
        self._endings.complete(active, textured_glb=textured_glb)

    # ---- failures ------------------------------------------------------------------------

    def fail(self, active: ActiveJob, step: Step, error: ServerError) -> None:
        """Note that a step failed; see above for what becomes of its job."""
        if step == "shape_export":
            self._fail_shape_export(active, error)
            return
        if step == "texture_export":
            self._store_field_snapshot(active)
        self._endings.fail_step(active, step, error)

    def _fail_shape_export(self, active: ActiveJob, error: ServerError) -> None:
        self._store_shape_snapshot(active)
        if active.texture_error is not None:
            self._endings.fail(active, active.texture_error, shape_error=bare(error))
        elif active.has_texture_to_come and not isinstance(error, EngineBrokenError):
            self._go_on_without_shape_glb(active, error)
        else:
            self._endings.fail(active, error)

    def _go_on_without_shape_glb(self, active: ActiveJob, error: ServerError) -> None:
        warning = f"the untextured model could not be exported: {error}"
        warnings = (*self._active_jobs.record(active).warnings, warning)
        job = self._active_jobs.change(active, shape_error=bare(error), warnings=warnings)
        active.shape_done.set_result(job)
        if active.data.field is not None:
            self._export_model(active)

    # ---- snapshots -----------------------------------------------------------------------

    def _store_shape_snapshot(self, active: ActiveJob) -> None:
        if active.data.shape is not None:  # otherwise it was stored with the uploaded mesh
            snapshot = self._calls.snapshot_shape(active.data.shape)
            self._archive.store_deferred(active.uid, SHAPE_SNAPSHOT, snapshot, is_evictable=True)

    def _store_field_snapshot(self, active: ActiveJob) -> None:
        snapshot = self._calls.snapshot_field(active.data.field)
        self._archive.store_deferred(active.uid, FIELD_SNAPSHOT, snapshot, is_evictable=True)
