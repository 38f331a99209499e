"""Estimated time until a job's status ends, learned from the steps that have ended.

Does not know: how a step is done, which step starts next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trellis2_server.jobs.steps import SHAPE_STEPS, TEXTURE_STEPS, steps_from

if TYPE_CHECKING:
    from trellis2_server.jobs.active_jobs import ActiveJobs
    from trellis2_server.jobs.model_lifecycle import ModelLifecycle
    from trellis2_server.jobs.queue import ActiveJob
    from trellis2_server.jobs.steps import Step
    from trellis2_server.jobs.threads import ThreadPools
    from trellis2_server.parameters import Options

#: Weight of the latest duration of a step in the moving mean.
LATEST_WEIGHT: Final = 0.3


def seconds_left(
    expected_s: float, elapsed_s: float, fraction: float, progress_after_s: float
) -> float:
    """Return the estimated seconds until a step ends; never negative.

    The estimate starts as the expected duration. The further the step is by its own report,
    the more its own elapsed time counts: for a step of constant speed the error only shrinks,
    and is zero at the end.

    Args:
        expected_s: expected duration of the whole step, seconds.
        elapsed_s: seconds since the step started.
        fraction: completed part of the step by its latest report, 0 … 1.
        progress_after_s: time of that report, seconds after the start of the step.
    """
    return max(0.0, (1 - fraction) * expected_s + progress_after_s - elapsed_s)


class StepDurations:
    """Moving mean of the duration of each step, by pipeline type and texture size."""

    def __init__(self) -> None:
        self._means: dict[tuple[Step, str, int], float] = {}

    def note(self, step: Step, options: Options, seconds: float) -> None:
        """Add the duration of a step of a job with these options."""
        key = (step, options.pipeline_type, options.texture_size)
        mean = self._means.get(key, seconds)
        self._means[key] = mean + LATEST_WEIGHT * (seconds - mean)

    def expected_s(self, step: Step, options: Options) -> float | None:
        """Return the expected duration in seconds; None before the first such step."""
        return self._means.get((step, options.pipeline_type, options.texture_size))


class Estimator:
    """Estimates when the present status of a job ends.

    Args:
        active_jobs: the jobs that compete for threads.
        threads: how many steps run at one time.
        lifecycle: how long loading the engine takes.

    Attributes:
        durations: of the steps that have ended.
    """

    def __init__(
        self, active_jobs: ActiveJobs, threads: ThreadPools, lifecycle: ModelLifecycle
    ) -> None:
        self.durations = StepDurations()
        self._active_jobs = active_jobs
        self._threads = threads
        self._lifecycle = lifecycle

    def eta_s(self, active: ActiveJob) -> float | None:
        """Return the estimated seconds until the job's present status ends.

        None: no step of the job runs or waits, or no such step has ended yet. Jobs that arrive
        later with an earlier deadline are not accounted for.
        """
        left = self._seconds_left(active)
        if left is None:
            return None
        if active.running in {SHAPE_STEPS[-1], TEXTURE_STEPS[-1]}:
            return sum(left)
        is_on_device = active.running in self._threads.device_steps
        load_s = 0.0 if is_on_device else self._lifecycle.seconds_left
        ahead = [
            self._seconds_left(other) or (0.0, 0.0)
            for other in self._active_jobs
            if other is not active
            and (other.running or (other.waiting_for and other.deadline < active.deadline))
        ]
        device_s = sum(seconds for seconds, _ in ahead) / self._threads.device_slots
        cpu_s = sum(seconds for _, seconds in ahead) / self._threads.cpu_workers
        return sum(left) + max(device_s, cpu_s) + load_s

    def _seconds_left(self, active: ActiveJob) -> tuple[float, float] | None:
        """Return the seconds left of the present status, on the device and on the CPU pool."""
        step = active.running or active.waiting_for
        if step is None:
            return None
        options = self._active_jobs.record(active).options
        device_s = cpu_s = 0.0
        for next_step in steps_from(step):
            seconds = self.durations.expected_s(next_step, options)
            if seconds is None:
                return None
            if next_step == active.running:
                elapsed_s = self._active_jobs.clock() - active.step_started_at
                seconds = seconds_left(
                    seconds, elapsed_s, active.step_fraction, active.progress_after_s
                )
            if next_step in self._threads.device_steps:
                device_s += seconds
            else:
                cpu_s += seconds
        return device_s, cpu_s
