"""Progress of a job, as one number and a short text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from trellis2_server.client.protocol.actions import DownloadProgress, Notice, ShapeReady
from trellis2_server.client.records import Health, JobState

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.client.protocol.actions import Update

    OnProgress = Callable[["Progress"], None]
    OnShape = Callable[[bytes], None]

#: Fractions at which the shape and the job end, if a texture is requested; then comes the download.
_SHAPE_END: Final = 0.4
_JOB_END: Final = 0.95


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a job.

    Attributes:
        fraction: completed fraction, 0 to 1; decreases only if the job is submitted again.
        text: current activity, or the current problem.
        is_trouble: whether the text is a problem, which the client is handling.
        eta_s: expected time until the current status ends, seconds; None if unknown.
        job: last known state of the job; None before the first one.
    """

    fraction: float
    text: str
    is_trouble: bool = False
    eta_s: float | None = None
    job: JobState | None = None


class ProgressTracker:
    """Converts updates of an operation to progress.

    Args:
        texture: whether a texture is requested.
    """

    def __init__(self, *, texture: bool) -> None:
        self._shape_end = _SHAPE_END if texture else _JOB_END
        self._job: JobState | None = None
        self._fraction = 0.0

    def read(self, update: Update) -> Progress:
        """Return the progress after an update."""
        if isinstance(update, JobState):
            if self._job is None or update.uid != self._job.uid:
                self._fraction = 0.0
            self._job = update
            self._fraction = max(self._fraction, self._job_fraction(update))
            text = _describe_job(update)
            return Progress(self._fraction, text, eta_s=update.eta_seconds, job=update)
        if isinstance(update, Notice):
            return Progress(self._fraction, update.text, is_trouble=True, job=self._job)
        if isinstance(update, DownloadProgress):
            if self._job and self._job.is_finished and update.total:
                downloaded = (1 - _JOB_END) * update.received / update.total
                self._fraction = max(self._fraction, _JOB_END + downloaded)
            text = _describe_download(update)
        elif isinstance(update, Health):
            is_ready = update.status in {"ok", "unknown"}
            self._fraction = 1.0 if is_ready else update.progress or 0.0
            text = _describe_health(update)
        else:
            text = "the untextured model is ready"
        return Progress(self._fraction, text, job=self._job)

    def _job_fraction(self, job: JobState) -> float:
        begin, end = (0.0, self._shape_end)
        if job.status == "texture_processing":
            begin, end = (self._shape_end, _JOB_END)
        if job.status == "completed":
            return _JOB_END
        return begin + (end - begin) * min(max(job.progress or 0.0, 0.0), 1.0)


def update_handler(
    on_progress: OnProgress | None, on_shape: OnShape | None = None, *, texture: bool = True
) -> Callable[[Update], None]:
    """Return a function that passes the updates of an operation to the caller's callbacks."""
    tracker = ProgressTracker(texture=texture)

    def handle(update: Update) -> None:
        if isinstance(update, ShapeReady) and on_shape is not None:
            on_shape(update.content)
        if on_progress is not None:
            on_progress(tracker.read(update))

    return handle


def _describe_job(job: JobState) -> str:
    if job.status == "completed":
        return "download"
    if job.status == "error":
        return job.error or "failed"
    if job.queue_position is not None:
        return f"waiting, position {job.queue_position} in the queue"
    step = "shape" if job.status == "shape_processing" else "texture"
    if not job.stage:
        return step
    count = f" {job.step} of {job.steps}" if job.steps and job.step is not None else ""
    return f"{step}: {job.stage}{count}"


def _describe_health(health: Health) -> str:
    if health.status != "loading":
        return "the server is ready"
    text = "the server is loading its model"
    if health.stage:
        text = f"{text}: {health.stage}"
    return text if health.progress is None else f"{text}, {health.progress:.0%}"


def _describe_download(download: DownloadProgress) -> str:
    megabytes = f"{download.received / 1e6:.1f}"
    total = f" of {download.total / 1e6:.1f}" if download.total else ""
    return f"download: {megabytes}{total} MB"
