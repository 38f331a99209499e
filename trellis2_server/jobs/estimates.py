"""Estimated time until a job's status ends, learned from the steps that have ended.

Does not know: how a step is done, which step starts next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trellis2_server.jobs.steps import steps_from

if TYPE_CHECKING:
    from trellis2_server.jobs.active_jobs import ActiveJobs
    from trellis2_server.jobs.model_lifecycle import ModelLifecycle
    from trellis2_server.jobs.queue import ActiveJob, JobStep
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

        A status waits for steps that follow each other. A texture that runs beside the export of
        its own shape uses another thread, so it does not delay that; it counts among the work
        ahead of other jobs, as do all steps that run.

        None: no step of the job runs or waits, or no such step has ended yet. Steps that are
        queued later with an earlier deadline are not accounted for.
        """
        step = self._active_jobs.present_step(active)
        left = self._seconds_left(step) if step else None
        if step is None or left is None:
            return None
        device_left_s, cpu_left_s = left
        needs_device = any(name in self._threads.device_steps for name in _steps_to_start(step))
        needs_cpu = any(name not in self._threads.device_steps for name in _steps_to_start(step))
        ahead = [
            self._seconds_left(other) or (0.0, 0.0)
            for other_job in self._active_jobs
            if other_job is not active
            for other in other_job.steps.values()
            if other.is_running or other.deadline < step.deadline
        ]
        device_s = sum(seconds for seconds, _ in ahead) / self._threads.device_slots
        cpu_s = sum(seconds for _, seconds in ahead) / self._threads.cpu_workers
        wait_s = max(device_s * needs_device, cpu_s * needs_cpu)
        load_s = self._lifecycle.seconds_left if needs_device else 0.0
        return device_left_s + cpu_left_s + wait_s + load_s

    def _seconds_left(self, step: JobStep) -> tuple[float, float] | None:
        """Return the seconds left of a step and of those that follow it towards the same GLB.

        Returns:
            Seconds on the device and on the CPU pool; None: a step of that kind never ended.
        """
        options = self._active_jobs.record(step.active).options
        device_s = cpu_s = 0.0
        for name in steps_from(step.name):
            seconds = self.durations.expected_s(name, options)
            if seconds is None:
                return None
            if name == step.name and step.started_at is not None:
                elapsed_s = self._active_jobs.clock() - step.started_at
                seconds = seconds_left(seconds, elapsed_s, step.fraction, step.progress_after_s)
            if name in self._threads.device_steps:
                device_s += seconds
            else:
                cpu_s += seconds
        return device_s, cpu_s


def _steps_to_start(step: JobStep) -> tuple[Step, ...]:
    """Return the steps towards the same GLB that have not started."""
    return steps_from(step.name)[step.is_running :]
