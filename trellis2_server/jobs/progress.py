"""Progress of a job: how far its status has come, from what the running step reports.

A status consists of steps, a step of stages. Each step takes a fixed share of its status, and
each stage, as the engine or the exporter names it, a share of its step.

Does not know: which thread runs a step, how a step is done.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from trellis2_server.jobs.job import Progress
from trellis2_server.jobs.threads import StepCancelled

if TYPE_CHECKING:
    from trellis2_server.jobs.active_jobs import ActiveJobs
    from trellis2_server.jobs.observers import JobObserver
    from trellis2_server.jobs.queue import ActiveJob
    from trellis2_server.jobs.steps import Step
    from trellis2_server.reports import Report

#: Minimum time between two reports that are passed on, seconds.
PROGRESS_INTERVAL_S: Final = 0.05

#: Where each step begins within its status, and its share of it; both 0 … 1.
_STEP_SHARES: Final[dict[Step, tuple[float, float]]] = {
    "cutout": (0.0, 0.1),
    "shape": (0.1, 0.7),
    "shape_export": (0.8, 0.2),
    "texture": (0.0, 0.6),
    "texture_export": (0.6, 0.4),
}

#: Where each stage begins within its step, and its share of it; any other stage counts
#: through the whole step. Without remeshing, its part is skipped.
_STAGE_SHARES: Final = {
    "retry": (0.0, 0.0),  # the step starts over
    "condition": (0.0, 0.05),
    "structure": (0.05, 0.25),
    "shape": (0.3, 0.55),
    "texture": (0.0, 0.85),
    "decode": (0.85, 0.15),
    "clean": (0.0, 0.15),
    "remesh": (0.15, 0.45),
    "decimate": (0.6, 0.4),
    "unwrap": (0.0, 0.2),
    "bake": (0.2, 0.5),
    "encode": (0.7, 0.25),
    "levels": (0.95, 0.0),
    "pack": (0.95, 0.05),
}

#: Stages that precede the export of a texture only if the export of the shape failed.
_PREPARATION: Final = frozenset({"clean", "remesh", "decimate"})


def status_fraction(step: Step, stage: str, done: int, of: int) -> float:
    """Return the completed part of the status, 0 … 1.

    Args:
        step: the running step.
        stage: its stage.
        done: completed units of the stage.
        of: all units of the stage.
    """
    begin, share = _STEP_SHARES[step]
    stage_begin, stage_share = _STAGE_SHARES.get(stage, (0.0, 1.0))
    if step == "texture_export" and stage in _PREPARATION:
        stage_begin = stage_share = 0.0
    return round(begin + share * (stage_begin + stage_share * min(done / max(of, 1), 1.0)), 4)


def step_fraction(step: Step, fraction: float) -> float:
    """Return the completed part of a step, 0 … 1, from that of its status."""
    begin, share = _STEP_SHARES[step]
    return min(max((fraction - begin) / share, 0.0), 1.0)


class ProgressReporter:
    """Passes progress from the thread of a step to its job, on the event loop.

    Args:
        active_jobs: where progress is recorded.
        observer: counts retries.
    """

    def __init__(self, active_jobs: ActiveJobs, observer: JobObserver) -> None:
        self._active_jobs = active_jobs
        self._observer = observer

    def for_step(self, active: ActiveJob, step: Step) -> Report:
        """Return the `report` function for one step; it may be called on any thread.

        It raises `StepCancelled` once the job has ended, or the step has exceeded its time limit.
        """
        loop = asyncio.get_running_loop()
        last = -1.0

        def report(stage: str, done: int, of: int) -> None:
            nonlocal last
            if active.is_stopped or step in active.timed_out:
                raise StepCancelled
            if stage == "retry":
                self._observer.note_retry()
            now = time.monotonic()
            if now - last < PROGRESS_INTERVAL_S:
                return
            last = now
            progress = Progress(stage, status_fraction(step, stage, done, of), done, of)
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._record, active, step, progress)

        return report

    def _record(self, active: ActiveJob, name: Step, progress: Progress) -> None:
        step = active.steps.get(name)
        if step is None or step.started_at is None or active.is_stopped:
            return
        step.fraction = step_fraction(name, progress.fraction)
        step.progress_after_s = self._active_jobs.clock() - step.started_at
        if self._active_jobs.record(active).shape_error is not None:
            # The textured GLB takes the place of the untextured one.
            rest = status_fraction("shape_export", "", 0, 1)
            progress = replace(progress, fraction=round(rest + (1 - rest) * progress.fraction, 4))
        self._active_jobs.note_progress(active, name, progress)
