"""`StepCalls`: the function that does each step of a job, with its arguments bound.

Does not know: threads, which step starts next, what its result means.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.inputs.images import Cutout, Pictures
    from trellis2_server.jobs.active_jobs import ActiveJobs
    from trellis2_server.jobs.executor import Executor, FieldSummary, ShapeSummary
    from trellis2_server.jobs.progress import ProgressReporter
    from trellis2_server.jobs.queue import ActiveJob
    from trellis2_server.parameters import Options


class StepCalls:
    """Builds the calls of a job's steps.

    Args:
        executor: does the steps.
        active_jobs: the jobs' options.
        progress: makes the `report` functions.
    """

    def __init__(
        self, executor: Executor, active_jobs: ActiveJobs, progress: ProgressReporter
    ) -> None:
        self._executor = executor
        self._active_jobs = active_jobs
        self._progress = progress

    def cut_out(self, active: ActiveJob, picture: Pictures) -> Callable[[], Any]:
        """Return the call of the step `cutout`."""
        return partial(
            self._executor.cut_out,
            picture,
            remove_background=active.upload.remove_background,
            report=self._progress.for_step(active, "cutout"),
        )

    def make_shape(self, active: ActiveJob, cutout: Cutout) -> Callable[[], Any]:
        """Return the call of the step `shape`."""
        report = self._progress.for_step(active, "shape")
        return partial(self._executor.make_shape, cutout, self._options(active), report)

    def export_shape(self, active: ActiveJob, shape: ShapeSummary) -> Callable[[], Any]:
        """Return the call of the step `shape_export`."""
        report = self._progress.for_step(active, "shape_export")
        return partial(self._executor.export_shape, shape, self._options(active), report)

    def read_mesh(self, active: ActiveJob, mesh: bytes) -> Callable[[], Any]:
        """Return the call of the step `shape_export`, for an uploaded mesh file."""
        report = self._progress.for_step(active, "shape_export")
        return partial(self._executor.read_mesh, mesh, self._options(active), report)

    def make_texture(self, active: ActiveJob, source: Any, cutout: Cutout) -> Callable[[], Any]:
        """Return the call of the step `texture`.

        Args:
            active: the job.
            source: the shape, or the geometry of an uploaded mesh.
            cutout: what the model sees of the picture.
        """
        report = self._progress.for_step(active, "texture")
        return partial(self._executor.make_texture, source, cutout, self._options(active), report)

    def export_model(
        self, active: ActiveJob, geometry: Any, field: FieldSummary
    ) -> Callable[[], Any]:
        """Return the call of the step `texture_export`.

        Args:
            active: the job.
            geometry: the geometry, or the shape if its export failed.
            field: the material.
        """
        report = self._progress.for_step(active, "texture_export")
        return partial(self._executor.export_model, geometry, field, self._options(active), report)

    def snapshot_shape(self, shape: ShapeSummary) -> Callable[[], bytes]:
        """Return a call that serializes the shape."""
        return self._executor.shape_snapshotter(shape)

    def snapshot_field(self, field: FieldSummary) -> Callable[[], bytes]:
        """Return a call that serializes the material."""
        return self._executor.field_snapshotter(field)

    def _options(self, active: ActiveJob) -> Options:
        return self._active_jobs.record(active).options
