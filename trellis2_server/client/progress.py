"""How far a picture is, as one number and a few words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from trellis2_server.client.replies import Health, JobState
from trellis2_server.client.steps import Notice, Received

if TYPE_CHECKING:
    from trellis2_server.client.steps import Saying

#: Where on the way to 1 the steps of a job with a texture end; the rest is the download.
_SHAPE_END: Final = 0.4
_JOB_END: Final = 0.95


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a picture is.

    Attributes:
        fraction: 0 … 1 of the whole way; it never goes back, unless the job starts again.
        text: what is being done, or what is wrong.
        is_trouble: it is wrong, and being dealt with.
        eta_s: until what is being done ends, by the server's experience.
        job: its last known state; None before there is one.
    """

    fraction: float
    text: str
    is_trouble: bool = False
    eta_s: float | None = None
    job: JobState | None = None


class Tracker:
    """Makes progress of what the steps say.

    Args:
        texture: whether a texture is wanted.
    """

    def __init__(self, *, texture: bool) -> None:
        self._shape_end = _SHAPE_END if texture else _JOB_END
        self._job: JobState | None = None
        self._fraction = 0.0

    def read(self, said: Saying) -> Progress:
        """How far it is after that."""
        if isinstance(said, JobState):
            if self._job is None or said.uid != self._job.uid:
                self._fraction = 0.0
            self._job = said
            self._fraction = max(self._fraction, self._of_job(said))
            return Progress(self._fraction, _words(said), eta_s=said.eta_seconds, job=said)
        if isinstance(said, Notice):
            return Progress(self._fraction, said.text, is_trouble=True, job=self._job)
        if isinstance(said, Received):
            if self._job and self._job.is_finished and said.total:
                way = (1 - _JOB_END) * said.received / said.total
                self._fraction = max(self._fraction, _JOB_END + way)
            text = _downloading(said)
        elif isinstance(said, Health):
            self._fraction = 1.0 if said.status in {"ok", "unknown"} else said.progress or 0.0
            text = _loading(said)
        else:
            text = "the untextured model is there"
        return Progress(self._fraction, text, job=self._job)

    def _of_job(self, job: JobState) -> float:
        begin, end = (0.0, self._shape_end)
        if job.status == "texture_processing":
            begin, end = (self._shape_end, _JOB_END)
        if job.status == "completed":
            return _JOB_END
        return begin + (end - begin) * min(max(job.progress or 0.0, 0.0), 1.0)


def _words(job: JobState) -> str:
    if job.status == "completed":
        return "download"
    if job.status == "error":
        return job.error or "failed"
    if job.queue_position is not None:
        return f"waiting, number {job.queue_position} in the queue"
    step = "shape" if job.status == "shape_processing" else "texture"
    if not job.stage:
        return step
    count = f" {job.step} of {job.steps}" if job.steps and job.step is not None else ""
    return f"{step}: {job.stage}{count}"


def _loading(health: Health) -> str:
    if health.status != "loading":
        return "the server is ready"
    text = f"the server loads its model: {health.stage}" if health.stage else "the server loads"
    return text if health.progress is None else f"{text}, {health.progress:.0%}"


def _downloading(received: Received) -> str:
    megabytes = f"{received.received / 1e6:.1f}"
    total = f" of {received.total / 1e6:.1f}" if received.total else ""
    return f"download: {megabytes}{total} MB"
