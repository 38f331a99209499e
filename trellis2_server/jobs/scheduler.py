"""`Scheduler`: decides which step starts next, and starts it.

The steps that need the engine's device run one at a time, or as many as the executor has device
slots; the others run on the CPU pool, so that the export of a shape overlaps with its own texture
and with the next job's shape. Of the steps that could start, the one with the earliest deadline
does. The deadline of a shape and of its export is the arrival of its request; that of a texture
is `TEXTURE_PATIENCE_S` after its shape was made. So untextured models are fast, and no texture
starves.

All state belongs to the event loop's thread.

Does not know: HTTP, what a step does, what its result means.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from trellis2_server.jobs.active_jobs import ActiveJobs
    from trellis2_server.jobs.export_calls import ExportCalls
    from trellis2_server.jobs.maintenance import EngineMaintenance
    from trellis2_server.jobs.queue import ActiveJob, JobStep, StepQueue
    from trellis2_server.jobs.step_runner import StepRunner
    from trellis2_server.jobs.steps import Step
    from trellis2_server.jobs.threads import ThreadPools

#: How much later a texture is due than a shape that arrives at the same moment, seconds.
TEXTURE_PATIENCE_S: Final = 60.0


class Scheduler:
    """Orders and dispatches steps and export calls.

    Args:
        queue: the steps that wait.
        active_jobs: the jobs in progress.
        threads: how many steps run, and may run.
        runner: starts a step.
        export_calls: exports that a request waits for.
        maintenance: loads the engine again where that is due.

    Attributes:
        is_idle: set while no step, export call or maintenance runs, and none is queued.
        on_room: called after steps and export calls have started: others may use what is left.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - six collaborators
        self,
        queue: StepQueue,
        active_jobs: ActiveJobs,
        threads: ThreadPools,
        runner: StepRunner,
        export_calls: ExportCalls,
        maintenance: EngineMaintenance,
    ) -> None:
        self.on_room: Callable[[], None] = lambda: None
        self.is_idle = asyncio.Event()
        self.is_idle.set()
        self._queue = queue
        self._active_jobs = active_jobs
        self._threads = threads
        self._runner = runner
        self._export_calls = export_calls
        export_calls.can_start = self._can_call
        self._maintenance = maintenance

    @property
    def length(self) -> int:
        """Number of jobs and export calls that run or wait."""
        return self._active_jobs.unfinished + self._export_calls.unfinished

    @property
    def waiting(self) -> int:
        """Number of jobs and export calls that wait."""
        return self._active_jobs.waiting + self._export_calls.waiting

    @property
    def is_stuck(self) -> bool:
        """Whether work for the CPU pool waits, and every thread of it has hung for long."""
        steps = any(step.name not in self._threads.device_steps for step in self._queue)
        return bool(steps or self._export_calls.waiting) and self._threads.is_cpu_stuck()

    def position(self, active: ActiveJob) -> int | None:
        """Return the position of the step that the job's status waits for, from 1.

        None: that step runs, or the job is finished. Beside its shape's export that waits, a job's
        texture may run.
        """
        step = self._active_jobs.present_step(active)
        return self._queue.position(step) if step else None

    def enqueue(self, active: ActiveJob, step: Step, call: Callable[[], Any]) -> None:
        """Queue a step of a job; it may start at once.

        Args:
            active: the job; its deadlines order the steps.
            step: the step.
            call: does the step, on another thread; a coroutine function is awaited instead.
        """
        if not self._maintenance.admit(active, step):
            return
        waiting = active.add_step(step, call)
        self._queue.add(waiting)
        self.wake()
        if self._maintenance.is_reloading and waiting in self._queue.waiting_for_device():
            self._active_jobs.note_loading(waiting)

    def wake(self) -> None:
        """Start every step that can start; call it whenever that may have changed."""
        self._reload_if_due()
        while self._start_next():
            pass
        self.on_room()
        self.update_idle()

    def wake_soon(self) -> None:
        """Do so later: the caller may be about to end further jobs."""
        self.update_idle()
        asyncio.get_running_loop().call_soon(self.wake)

    def _reload_if_due(self) -> None:
        if self._maintenance.reload_if_due(has_jobs=self._active_jobs.unfinished > 0):
            for step in self._queue.waiting_for_device():
                self._active_jobs.note_loading(step)

    @property
    def _has_room(self) -> bool:
        """Whether a step may start of a job of which none runs, or an export call.

        `worker.limit_model_concurrency` limits jobs in progress. The second step of a job takes no
        place: it works with the shape that the first one holds, and each job has one at most. With
        a limit of 1, the device would otherwise be idle during the export of every shape.
        """
        return self._jobs_running < self._threads.max_steps

    def _has_spare_room_for(self, clients: Collection[str]) -> bool:
        """Return whether such a step may start although there is no room for others.

        Export calls, and jobs whose upload is being read, hold nothing that the engine has made.
        So they do not take the places of clients for which the CPU pool does nothing.

        Args:
            clients: who waits for the step.
        """
        if not self._threads.is_any_idle(clients):
            return False
        readers = sum(
            _only_reads(active, self._threads.device_steps) for active in self._active_jobs
        )
        engaged = self._jobs_running - readers - self._export_calls.running
        return engaged < self._threads.max_steps

    @property
    def _jobs_running(self) -> int:
        """Number of export calls that run, and of jobs of which a step runs, cancelled ones too."""
        return self._threads.steps_running - self._active_jobs.second_steps

    def _can_call(self, clients: Collection[str]) -> bool:
        return self._threads.cpu_has_room_for(clients) and (
            self._has_room or self._has_spare_room_for(clients)
        )

    def _start_next(self) -> bool:
        """Start the step or export call that is due first, of those that can start."""
        step = self._next_step(self._startable_steps())
        call_due = self._export_calls.next_deadline
        if call_due is not None and (step is None or call_due <= step.deadline):
            self._export_calls.start_next()
            return True
        if step is None:
            return False
        self._queue.remove(step)
        self._runner.start(step)
        return True

    def _next_step(self, kinds: set[Step]) -> JobStep | None:
        """Return the step of these kinds that is due first and has a place; None: there is none."""
        has_room = self._has_room
        is_device_promised = False
        for step in self._queue:
            if step.name not in kinds:
                continue
            clients = self._active_jobs.registry.clients(step.active.uid)
            if step.name not in self._threads.device_steps:
                if not self._threads.cpu_has_room_for(clients):
                    continue
            elif is_device_promised and step.active.running:
                continue
            if step.active.running or has_room or self._has_spare_room_for(clients):
                return step
            if step.name in self._threads.device_steps:
                # It gets the device as soon as it has a place: not a texture that is due later.
                is_device_promised = True
        return None

    def _startable_steps(self) -> set[Step]:
        """Return the kinds of step that there is room for."""
        waiting = Counter(step.name for step in self._queue)
        # Results of steps are large: no step starts while many results of its kind wait. A field
        # waits, too, while the shape of its job is exported. Nothing can wait for good: exports
        # start regardless of results that wait, and each of them takes at least one result.
        results = (
            waiting["shape_export"] + waiting["texture_export"] + self._active_jobs.held_fields
        )
        steps: set[Step] = {"shape_export", "texture_export"}
        if waiting["shape"] < self._threads.max_steps:
            steps.add("cutout")
        if results < self._threads.max_steps:
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


def _only_reads(active: ActiveJob, device_steps: Collection[Step]) -> bool:
    """Whether steps of a job run, and none of them does more than read what the client sent."""
    running = [step for step in active.steps.values() if step.is_running]
    return bool(running) and all(
        step.reads_upload and step.name not in device_steps for step in running
    )
