"""`Scheduler`: decides which step starts next, and starts it.

The steps that need the engine's device run one at a time, or as many as the executor has device
slots; the others run on the CPU pool, so that one job's export overlaps with the next job's
shape. Of the steps that could start, the one with the earliest deadline does. The deadline of a
shape is the arrival of its request; that of a texture is `TEXTURE_PATIENCE_S` after its shape
was exported. So untextured models are fast, and no texture starves.

All state belongs to the event loop's thread.

Does not know: HTTP, what a step does, what its result means.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.jobs.active_jobs import ActiveJobs
    from trellis2_server.jobs.export_calls import ExportCalls
    from trellis2_server.jobs.maintenance import EngineMaintenance
    from trellis2_server.jobs.queue import ActiveJob, JobQueue
    from trellis2_server.jobs.step_runner import StepRunner
    from trellis2_server.jobs.steps import Step
    from trellis2_server.jobs.threads import ThreadPools

#: How much later a texture is due than a shape that arrives at the same moment, seconds.
TEXTURE_PATIENCE_S: Final = 60.0


class Scheduler:
    """Orders and dispatches steps and export calls.

    Args:
        queue: the jobs that wait for a step.
        active_jobs: the jobs in progress.
        threads: how many steps run, and may run.
        runner: starts a step.
        export_calls: exports that a request waits for.
        maintenance: loads the engine again where that is due.

    Attributes:
        is_idle: set while no step, export call or maintenance runs, and none is queued.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - six collaborators
        self,
        queue: JobQueue,
        active_jobs: ActiveJobs,
        threads: ThreadPools,
        runner: StepRunner,
        export_calls: ExportCalls,
        maintenance: EngineMaintenance,
    ) -> None:
        self.is_idle = asyncio.Event()
        self.is_idle.set()
        self._queue = queue
        self._active_jobs = active_jobs
        self._threads = threads
        self._runner = runner
        self._export_calls = export_calls
        self._maintenance = maintenance

    @property
    def length(self) -> int:
        """Number of jobs and export calls that run or wait."""
        return self._active_jobs.unfinished + self._export_calls.unfinished

    @property
    def waiting(self) -> int:
        """Number of jobs and export calls that wait."""
        return self._active_jobs.waiting + self._export_calls.waiting

    def position(self, active: ActiveJob) -> int | None:
        """Return the position of the job's next step in the queue, from 1; None: not waiting."""
        return self._queue.position(active) if active.waiting_for else None

    def enqueue(self, active: ActiveJob, step: Step, call: Callable[[], Any]) -> None:
        """Queue a step of a job; it may start at once.

        Args:
            active: the job; its deadline orders the step.
            step: the step.
            call: does the step, on another thread; a coroutine function is awaited instead.
        """
        if not self._maintenance.admit(active, step):
            return
        active.waiting_for, active.call = step, call
        self._queue.add(active)
        self.wake()
        if active.waiting_for in self._threads.device_steps and self._maintenance.is_reloading:
            self._active_jobs.note_loading(active)

    def wake(self) -> None:
        """Start every step that can start; call it whenever that may have changed."""
        self._reload_if_due()
        while self._threads.has_room and self._start_next():
            pass
        self.update_idle()

    def _reload_if_due(self) -> None:
        if self._maintenance.reload_if_due(has_work=self.length > 0):
            for active in self._queue.waiting_for_device():
                self._active_jobs.note_loading(active)

    def _start_next(self) -> bool:
        """Start the step or export call that is due first, of those that can start."""
        steps = self._startable_steps()
        active = next((active for active in self._queue if active.waiting_for in steps), None)
        call_due = self._export_calls.next_deadline if "shape_export" in steps else None
        if call_due is not None and (active is None or call_due <= active.deadline):
            self._export_calls.start_next()
            return True
        if active is None:
            return False
        self._queue.remove(active)
        self._runner.start(active)
        return True

    def _startable_steps(self) -> set[Step]:
        """Return the kinds of step that there is room for."""
        waiting = Counter(active.waiting_for for active in self._queue)
        exports = waiting["shape_export"] + waiting["texture_export"]
        # Results of steps are large: no step starts while many results of its kind wait.
        steps: set[Step] = {"shape_export", "texture_export"}
        if waiting["shape"] < self._threads.max_steps:
            steps.add("cutout")
        if exports < self._threads.max_steps:
            steps |= {"shape", "texture"}
        if not (self._threads.device_has_room and self._maintenance.is_engine_ready):
            steps -= self._threads.device_steps
        if not self._threads.cpu_has_room:
            steps &= self._threads.device_steps
        return steps

    def update_idle(self) -> None:
        """Set or clear `is_idle`; an engine that stays idle is unloaded."""
        is_busy = (
            self._threads.steps_running
            or self._queue
            or self._export_calls.waiting
            or self._maintenance.is_running
        )
        if is_busy:
            self.is_idle.clear()
            self._maintenance.cancel_idle_unload()
        elif not self.is_idle.is_set():
            self.is_idle.set()
            self._maintenance.schedule_idle_unload()
