"""`Scheduler`: takes each task from step to step, and ends it.

A job goes through steps: cut-out, shape stage, its export, and, when a texture is wanted,
the texture stage and its export. The engine's stages run on the *lane*, one at a time, or as
many as the crew has engines; the others in a pool, so that one job's export overlaps with the
next one's stage. Of the steps that could start, the one with the earliest deadline does: a
shape's is the arrival of its request, a texture's the moment it became ready plus
`TEXTURE_PATIENCE_S`. So geometry comes back fast, and no texture starves.

All state belongs to the event loop's thread; the threads get arguments and give results.

What this module does not know: HTTP, who asks for a job, how a step does its work.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from trellis2_server import request_ids
from trellis2_server.errors import (
    EngineBrokenError,
    EngineError,
    JobCancelledError,
    ServerError,
    ShuttingDownError,
    UnhealthyError,
)
from trellis2_server.inputs.background_model import ModelPending
from trellis2_server.jobs.job import Job, Progress, Status
from trellis2_server.jobs.observers import NullObserver
from trellis2_server.jobs.progress import (
    SHAPE_STEPS,
    TEXTURE_STEPS,
    StepDurations,
    fraction,
    seconds_left,
    step_fraction,
    steps_from,
)
from trellis2_server.jobs.queue import ActiveJob, ExportCall, JobQueue
from trellis2_server.jobs.threads import StepCancelled, one_line
from trellis2_server.storage.snapshots import FIELD_SNAPSHOT, SHAPE_SNAPSHOT, mesh_snapshot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from trellis2_server.inputs.images import Cutout
    from trellis2_server.jobs.executor import Executor, FieldSummary, ShapeSummary
    from trellis2_server.jobs.model_lifecycle import ModelLifecycle
    from trellis2_server.jobs.observers import JobObserver
    from trellis2_server.jobs.progress import Step
    from trellis2_server.jobs.registry import JobRegistry
    from trellis2_server.jobs.subscriptions import Subscriptions
    from trellis2_server.jobs.threads import ThreadPools
    from trellis2_server.jobs.uploads import Uploads
    from trellis2_server.parameters import Options
    from trellis2_server.pipeline import Report
    from trellis2_server.settings import Settings
    from trellis2_server.storage.archive import Archive

logger = logging.getLogger(__name__)

#: How much later than a shape that arrives at the same moment a texture is due.
TEXTURE_PATIENCE_S: Final = 60.0
#: Progress is passed on at most this often, in seconds.
PROGRESS_INTERVAL_S: Final = 0.05
#: Names of a job's files.
INPUT_FILE: Final = "input.png"
SHAPE_FILE: Final = "shape.glb"
TEXTURED_FILE: Final = "textured.glb"


class Scheduler:
    """The tasks on their way. Make it on a running event loop's thread, and use it there.

    Attributes:
        tasks: of the jobs that are not finished, or whose texture may be asked for, by uid.
        is_idle: set while no step runs, and none could.
        is_closing: whether no texture is begun any more.
        observer: told of steps and ends.
        fault: why only a new process helps; None as long as all is well.
        has_fault: set when there is one.
        is_settled: set when there is one, and no job goes on any more.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what a worker is made of
        self,
        executor: Executor,
        settings: Settings,
        registry: JobRegistry,
        uploads: Uploads,
        threads: ThreadPools,
        loading: ModelLifecycle,
        subscriptions: Subscriptions,
        archive: Archive,
        clock: Callable[[], float],
    ) -> None:
        self.tasks: dict[str, ActiveJob] = {}
        self.is_idle = asyncio.Event()
        self.is_idle.set()
        self.is_closing = False
        self.fault: str | None = None
        self.has_fault = asyncio.Event()
        self.is_settled = asyncio.Event()
        self._executor = executor
        self._settings = settings
        self._limits = settings.worker
        self._at_most = settings.worker.limit_model_concurrency * executor.device_slots
        self._registry = registry
        self._uploads = uploads
        self._threads = threads
        self._threads.on_free = self._note_idle
        self._loading = loading
        self._subscriptions = subscriptions
        self._archive = archive
        self._clock = clock
        self._queue = JobQueue()
        self._export_calls: deque[ExportCall] = deque()
        self._running_export_calls: set[ExportCall] = set()
        self._pace = StepDurations()
        self.observer: JobObserver = NullObserver()
        self._has_maintenance = False
        self._maintenance_tasks: set[asyncio.Task[None]] = set()
        self._idle_timer: asyncio.TimerHandle | None = None

    # ---- asking --------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many tasks wait for a step to start, or for what that step needs."""
        return sum(1 for task in self.tasks.values() if task.waiting_for) + len(self._export_calls)

    @property
    def length(self) -> int:
        """How many tasks run or wait."""
        tasks = sum(1 for task in self.tasks.values() if task.running or task.waiting_for)
        return tasks + len(self._export_calls) + len(self._running_export_calls)

    @property
    def waiting_bytes(self) -> int:
        """Of the clients' files that are held until they are read."""
        return sum(task.held_bytes for task in self.tasks.values())

    def position(self, task: ActiveJob) -> int | None:
        """How many waiting steps start before the task's next one, plus one; None: not waiting."""
        return self._queue.position(task) if task.waiting_for else None

    def eta_s(self, task: ActiveJob) -> float | None:
        """Seconds until the task's present status ends, by this server's own experience.

        None: nothing is being done for it, or there is no experience yet. An estimate: what
        comes later with an earlier deadline is not in it.
        """
        left = self._seconds_left(task)
        if left is None:
            return None
        if task.running in {SHAPE_STEPS[-1], TEXTURE_STEPS[-1]}:
            return sum(left)
        load = self._loading.seconds_left if task.running not in self._threads.device_steps else 0.0
        ahead = [
            self._seconds_left(other) or (0.0, 0.0)
            for other in self.tasks.values()
            if other is not task
            and (other.running or (other.waiting_for and other.deadline < task.deadline))
        ]
        device_s = sum(seconds for seconds, _ in ahead) / self._threads.device_slots
        pool = sum(seconds for _, seconds in ahead) / self._threads.cpu_workers
        return sum(left) + max(device_s, pool) + load

    def _seconds_left(self, task: ActiveJob) -> tuple[float, float] | None:
        """Of the present status, on the lane and in the pool."""
        step = task.running or task.waiting_for
        if step is None:
            return None
        options = self._job(task).options
        device_s = pool = 0.0
        for next_step in steps_from(step):
            seconds = self._pace.expect(next_step, options)
            if seconds is None:
                return None
            if next_step == task.running:
                elapsed_s = self._clock() - task.step_began
                seconds = seconds_left(seconds, elapsed_s, task.step_fraction, task.said_at)
            if next_step in self._threads.device_steps:
                device_s += seconds
            else:
                pool += seconds
        return device_s, pool

    def own(self, options: Options, image_hash: str | None, owner: str) -> Job | None:
        """The job of that picture whose untextured GLB is the mesh that is to be textured."""
        if options.geo_rotation or not options.mesh:
            return None
        job = self._registry.of_shape(options.mesh, owner)
        return job if job and job.image_hash == image_hash else None

    # ---- the queue -----------------------------------------------------------------------

    def add(self, task: ActiveJob, picture: bytes) -> None:
        """Have a new job's picture cut out, and go on from there."""
        self.tasks[task.uid] = task
        task.held_bytes = len(picture) + len(task.mesh or b"")
        cut_out = partial(
            self._executor.cut_out, picture, remove_background=task.upload.remove_background
        )
        self._enqueue(task, "cutout", cut_out)

    def can_give(self, job: Job, *, texture: bool) -> bool:
        """Whether the job has what is wanted of it, or goes on until it has.

        A job of an earlier process has no texture but the one that was made then.
        """
        return job.uid in self.tasks or (job.textured_glb if texture else job.shape_glb) is not None

    def want_texture(self, job: Job) -> None:
        """Have the job's texture made, if it is neither there nor on its way."""
        task = self.tasks.get(job.uid)
        if task is None:  # its texture is there, or will never be
            return
        task.wants_texture = True
        if self._registry[job.uid].status is Status.COMPLETED:
            self.check()
            self._begin_texture(task)

    def check(self) -> None:
        """Pass where work is taken on.

        Raises:
            ShuttingDownError: the process is leaving.
            UnhealthyError: only a new one helps.
        """
        if self.is_closing:
            raise _leaving()
        if self.fault is not None:
            raise _unhealthy(self.fault)

    def end_abandoned(self) -> None:
        """Give up the waiting jobs that nobody asks for."""
        for task in list(self.tasks.values()):
            if self._is_abandoned(task):
                self.end(task, JobCancelledError("cancelled: nobody asked for the job any more"))

    def _is_abandoned(self, task: ActiveJob) -> bool:
        return (
            task.waiting_for == "cutout"
            and not task.waiters
            and self._clock() - task.last_asked > self._limits.abandoned_job_seconds
        )

    def _enqueue(self, task: ActiveJob, step: Step, call: Callable[[], Any]) -> None:
        if self.fault is not None and step in self._threads.device_steps:
            self.end(task, _unhealthy(self.fault))
            return
        task.waiting_for, task.call = step, call
        self._queue.add(task)
        self.is_idle.clear()
        self.dispatch()
        if task.waiting_for in self._threads.device_steps and self._loading.is_reloading:
            self._say_loading(task)

    def dispatch(self) -> None:
        """Start every step that can start, earliest deadline first."""
        self._tend_engine()
        while self._threads.steps_running < self._at_most:
            steps = self._startable()
            task = next((task for task in self._queue if task.waiting_for in steps), None)
            export_call = (
                self._export_calls[0] if self._export_calls and "shape_export" in steps else None
            )
            if export_call is not None and (task is None or export_call.deadline <= task.deadline):
                self._begin_export_call(self._export_calls.popleft())
                continue
            if task is None:
                return
            self._leave_queue(task)
            if self._is_abandoned(task):
                self.end(task, JobCancelledError("cancelled: nobody asked for the job any more"))
            else:
                self._begin(task)

    def _leave_queue(self, task: ActiveJob) -> None:
        self._queue.remove(task)
        for waiting in self._queue:  # which moved up
            self._subscriptions.stir(waiting.uid)

    def _startable(self) -> set[Step]:
        """The kinds of step that there is room for."""
        waiting = Counter(task.waiting_for for task in self._queue)
        exports = waiting["shape_export"] + waiting["texture_export"]
        # What a step leaves is large: none starts while too many of its results wait.
        steps: set[Step] = {"shape_export", "texture_export"}
        if waiting["shape"] < self._at_most:
            steps.add("cutout")
        if exports < self._at_most:
            steps |= {"shape", "texture"}
        on_device = self._threads.device_steps
        if not (self._threads.device_has_room and self._loading.is_resident):
            steps -= on_device
        if self._threads.pool_running >= self._threads.cpu_workers:
            steps &= on_device
        return steps

    def _begin(self, task: ActiveJob) -> None:
        step, call = task.waiting_for, task.call
        if step is None or call is None:
            raise RuntimeError("a step begins that nobody waits for")
        task.waiting_for, task.call, task.running = None, None, step
        task.step_began = self._clock()
        task.step_fraction = task.said_at = 0.0
        work = call
        if step in self._threads.device_steps:
            task.has_used_engine = True
            work = self._loading.watched(step, call)
        future = self._threads.begin(step, work, task.context)
        future.add_done_callback(partial(self._ended, task, step, call), context=task.context)

    def _reporter(self, task: ActiveJob, step: Step) -> Callable[[str, int, int], None]:
        loop = asyncio.get_running_loop()
        last = -1.0

        def report(stage: str, done: int, of: int) -> None:
            nonlocal last
            if task.is_stopped:
                raise StepCancelled
            if stage == "retry":
                self.observer.note_retry()
            now = time.monotonic()
            if now - last < PROGRESS_INTERVAL_S:
                return
            last = now
            progress = Progress(stage, fraction(step, stage, done, of), done, of)
            with suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(self._note_progress, task, step, progress)

        return report

    def _note_progress(self, task: ActiveJob, step: Step, progress: Progress) -> None:
        if task.running != step or task.is_stopped:
            return
        task.step_fraction = step_fraction(step, progress.fraction)
        task.said_at = self._clock() - task.step_began
        known = self._job(task).progress
        if known is not None and known.fraction > progress.fraction:  # a stage began again
            progress = replace(progress, fraction=known.fraction)
        if progress != known:
            self._change(task, progress=progress)

    def _ended(
        self, task: ActiveJob, step: Step, call: Callable[[], Any], future: asyncio.Future[Any]
    ) -> None:
        """A step has ended, on the event loop: take its result, go on."""
        task.running = None
        error = None if future.cancelled() else future.exception()
        if isinstance(error, EngineBrokenError):
            if not task.is_stopped:
                self.end(task, error)
            self.fail_permanently(str(error))
        if not task.is_stopped and not future.cancelled():
            seconds = self._clock() - task.step_began
            logger.debug(
                "Step ended",
                extra={"uid": task.uid, "step": step, "seconds": round(seconds, 3)},
            )
            if error is None:
                job = self._job(task)
                self._pace.note(step, job.options, seconds)
                self.observer.note_step(step, seconds)
                self._change(task, timings={**job.timings, step: round(seconds, 3)})
                self._take_safely(task, step, future.result())
            elif isinstance(error, ServerError):
                self.end(task, error)
            elif isinstance(error, ModelPending):
                self._park(task, call, error)
            else:  # the threads let nothing else out but `StepCancelled`
                self.end(task, JobCancelledError("cancelled"))
        self.dispatch()
        self._note_idle()

    def _note_idle(self) -> None:
        is_busy = (
            self._threads.steps_running
            or self._queue
            or self._export_calls
            or self._has_maintenance
        )
        if not is_busy and not self.is_idle.is_set():
            self.is_idle.set()
            self.rest()
        if self.fault is not None and all(map(self.is_done, self.tasks.values())):
            self.is_settled.set()

    # ---- the engine --------------------------------------------------------------------------

    def _tend_engine(self) -> None:
        """Have the engine loaded, where a job needs it or it is to be loaded anew."""
        loading = self._loading
        if self.is_closing and not loading.is_resident:
            for task in [
                task for task in self._queue if task.waiting_for in self._threads.device_steps
            ]:
                self.end(task, _leaving())
        if loading.status != "ok" or self._threads.device_is_busy or self.is_closing or self.fault:
            return
        if loading.is_due or (not loading.is_resident and self.length):
            self._do(loading.reload)
            for task in self._queue:
                if task.waiting_for in self._threads.device_steps:
                    self._say_loading(task)

    def _say_loading(self, task: ActiveJob) -> None:
        known = self._job(task).progress
        self._change(task, progress=Progress("loading", known.fraction if known else 0.0))

    def rest(self) -> None:
        """Unload the engine when nobody has needed it for long, from now on."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        after_s = self._settings.model.idle_unload_seconds
        if after_s is not None:
            self._idle_timer = asyncio.get_running_loop().call_later(after_s, self._unload)

    def _unload(self) -> None:
        is_free = self.is_idle.is_set() and not self._threads.device_is_busy
        if is_free and self._loading.is_resident and not self.is_closing and not self.fault:
            self._do(self._loading.unload)

    def _do(self, maintenance: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Something with the engine that is no step, on the lane, which it takes at once."""
        self._threads.device_is_held = self._has_maintenance = True
        self.is_idle.clear()

        async def done() -> None:
            try:
                await maintenance()
            except EngineBrokenError as error:
                self.fail_permanently(str(error))
            except ServerError as error:
                self.fail_permanently(f"the model cannot be loaded again: {error}")
            except StepCancelled:
                logger.info("Loading the engine was given up: the process is leaving")
            finally:
                self._has_maintenance = False
            self.dispatch()
            self._note_idle()

        task = asyncio.get_running_loop().create_task(done())
        self._maintenance_tasks.add(task)
        task.add_done_callback(self._maintenance_tasks.discard)

    def fail_permanently(self, reason: str) -> None:
        """Take on nothing that needs the engine any more; what else runs may end."""
        if self.fault is not None:
            return
        self.fault = reason
        logger.critical("Unhealthy, a restart is due: %s", reason)
        for task in list(self.tasks.values()):
            if task.waiting_for in self._threads.device_steps or task.waiting_for == "cutout":
                self.end(task, _unhealthy(reason))
        self.has_fault.set()
        self._note_idle()

    def now(self) -> float:
        """Seconds of the jobs' clock."""
        return self._clock()

    # ---- errands ---------------------------------------------------------------------

    async def run(self, call: Callable[[Report], bytes | Awaitable[bytes]]) -> bytes:
        """What the call gives, done in the pool in its turn.

        It is stopped at its next report when nobody awaits it any more.

        Raises:
            ServerError: why there is nothing.
        """
        self.check()
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        export_call = ExportCall(call, done, self._clock())
        self._export_calls.append(export_call)
        self.is_idle.clear()
        self.dispatch()
        try:
            return await done
        finally:
            export_call.is_stopped = True
            if export_call in self._export_calls:
                self._export_calls.remove(export_call)
                self._note_idle()

    def _begin_export_call(self, export_call: ExportCall) -> None:
        def report(stage: str, done: int, of: int) -> None:
            del stage, done, of
            if export_call.is_stopped:
                raise StepCancelled

        self._running_export_calls.add(export_call)
        future = self._threads.begin("shape_export", partial(export_call.call, report))
        future.add_done_callback(partial(self._export_call_ended, export_call))

    def _export_call_ended(self, export_call: ExportCall, future: asyncio.Future[bytes]) -> None:
        self._running_export_calls.discard(export_call)
        error = None if future.cancelled() else future.exception()
        if not export_call.done.done():
            if error is None and not future.cancelled():
                export_call.done.set_result(future.result())
            elif isinstance(error, ServerError):
                export_call.done.set_exception(copy.copy(error))  # without its stack and its arrays
            else:
                export_call.done.set_exception(JobCancelledError("cancelled"))
        if isinstance(error, EngineBrokenError):
            self.fail_permanently(str(error))
        self.dispatch()
        self._note_idle()

    def end_export_calls(self, error: ServerError, *, running: bool) -> None:
        """Tell those who wait for an errand that there will be nothing."""
        for export_call in [*self._export_calls, *(self._running_export_calls if running else ())]:
            if not export_call.done.done():
                export_call.done.set_exception(copy.copy(error))
        self._export_calls.clear()

    # ---- results -----------------------------------------------------------------------------

    def _park(self, task: ActiveJob, call: Callable[[], Any], pending: ModelPending) -> None:
        """Have the cut-out done again when its background model is there, on no thread so far."""
        try:
            self.check()
        except ServerError as error:
            self.end(task, error)
            return
        task.waiting_for = "cutout"
        self._change(task, progress=Progress("background model", 0.0))
        loop = asyncio.get_running_loop()
        resume = partial(self._unpark, task, call)

        def loaded(_: object) -> None:
            with suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(resume)

        loop.call_later(pending.timeout_s, resume)
        pending.loaded.add_done_callback(loaded)

    def _unpark(self, task: ActiveJob, call: Callable[[], Any]) -> None:
        if task.waiting_for == "cutout" and task.call is None:
            self._enqueue(task, "cutout", call)

    def _take_safely(self, task: ActiveJob, step: Step, result: Any) -> None:
        """Take a result; an engine's that breaks its protocol ends the job, not the queue."""
        try:
            self._take(task, step, result)
        except Exception as error:
            logger.exception("Result not understood", extra={"uid": task.uid, "step": step})
            if task.uid in self.tasks:
                self.end(task, EngineError(f"{step} failed: {one_line(error)}"))

    def _take(self, task: ActiveJob, step: Step, result: Any) -> None:
        if step == "cutout":
            self._take_cutout(task, result)
        elif step == "shape":
            self._take_shape(task, result)
        elif step == "shape_export":
            self._take_shape_glb(task, *result)
        elif step == "texture":
            self._take_field(task, result)
        else:
            self._take_textured_glb(task, result)

    def _take_cutout(self, task: ActiveJob, cutout: Cutout) -> None:
        self._uploads.remember(task.upload, cutout)
        task.cutout = cutout
        task.held_bytes = len(task.mesh or b"")
        job = self._change(
            task,
            image_hash=cutout.image_hash,
            background=cutout.background,
            warnings=cutout.warnings,
        )
        if not job.options.is_seed_random:
            key = ("cutout", job.owner, cutout.key, job.options)
            known = self._registry.match(key) or self.own(job.options, cutout.image_hash, job.owner)
            if known is not None and self.can_give(known, texture=task.wants_texture):
                self._join(task, known)
                return
            self._registry.bind(key, task.uid)
        self._archive.pack(task.uid, INPUT_FILE, cutout.png, is_spare=False)
        if task.mesh is not None:
            self._archive.pack(
                task.uid, SHAPE_SNAPSHOT, partial(mesh_snapshot, task.mesh), is_spare=True
            )
            report = self._reporter(task, "shape_export")
            read = partial(self._executor.read_mesh, task.mesh, job.options, report)
            task.mesh = None
            self._enqueue(task, "shape_export", read)
            return
        report = self._reporter(task, "shape")
        self._enqueue(
            task, "shape", partial(self._executor.make_shape, cutout, job.options, report)
        )

    def _take_shape(self, task: ActiveJob, shape: ShapeSummary) -> None:
        warnings = (*self._job(task).warnings, *shape.warnings)
        job = self._change(task, resolution=shape.resolution, warnings=warnings)
        report = self._reporter(task, "shape_export")
        self._enqueue(
            task, "shape_export", partial(self._executor.export_shape, shape, job.options, report)
        )

    def _take_shape_glb(self, task: ActiveJob, geometry: Any, glb: bytes, digest: str) -> None:
        if task.cutout is None:
            raise RuntimeError("a shape without a cut-out")
        task.source, task.cutout = (geometry, task.cutout), None
        keep = self._executor.shape_snapshotter(geometry)
        if keep is not None:
            self._archive.pack(task.uid, SHAPE_SNAPSHOT, keep, is_spare=True)
        shape_glb = self._archive.keep(task.uid, SHAPE_FILE, glb)
        task.held_bytes = 0
        if task.wants_texture and not self.is_closing:
            self._change(task, shape_glb=shape_glb, shape_md5=digest)
            self._begin_texture(task)
        else:
            self._change(task, shape_glb=shape_glb, shape_md5=digest, status=Status.COMPLETED)
            self._log_end(task)
        if not task.shape_done.done():
            task.shape_done.set_result(self._job(task))

    def _begin_texture(self, task: ActiveJob) -> None:
        if task.source is None:
            raise RuntimeError("a texture without a shape")
        job = self._change(task, status=Status.TEXTURE_PROCESSING)
        task.deadline = self._clock() + TEXTURE_PATIENCE_S
        task.texture_done = future_job()
        report = self._reporter(task, "texture")
        self._enqueue(
            task,
            "texture",
            partial(self._executor.make_texture, *task.source, job.options, report),
        )

    def _take_field(self, task: ActiveJob, field: FieldSummary) -> None:
        if task.source is None:
            raise RuntimeError("a texture without a shape")
        geometry, _ = task.source
        task.source, task.voxels = None, field
        if field.warnings:
            self._change(task, warnings=(*self._job(task).warnings, *field.warnings))
        report = self._reporter(task, "texture_export")
        options = self._job(task).options
        self._enqueue(
            task,
            "texture_export",
            partial(self._executor.export_model, geometry, field, options, report),
        )

    def _take_textured_glb(self, task: ActiveJob, glb: bytes) -> None:
        textured_glb = self._archive.keep(task.uid, TEXTURED_FILE, glb)
        keep = self._executor.field_snapshotter(task.voxels)
        self._archive.pack(task.uid, FIELD_SNAPSHOT, keep, is_spare=True)
        self._change(task, status=Status.COMPLETED, textured_glb=textured_glb)
        self._log_end(task)
        self._forget(task)

    def _join(self, task: ActiveJob, known: Job) -> None:
        """Another upload turned out to be the picture of a job that is there: be that job."""
        self.observer.note_match("picture")
        logger.info("Job joined", extra={"uid": task.uid, "joined": known.uid})
        del self.tasks[task.uid]
        options = self._job(task).options
        self._registry.alias(task.uid, known.uid)
        self._subscriptions.move(task.uid, known)
        self._registry.bind(("upload", task.upload, options), known.uid)
        if task.wants_texture and not self.is_closing and self.fault is None:
            self.want_texture(known)
        other = self.tasks.get(known.uid)
        if other is None:
            task.shape_done.set_result(known)
        else:
            other.shape_done.add_done_callback(
                lambda done: task.shape_done.set_result(done.result())
            )

    # ---- ends ----------------------------------------------------------------------------

    def end(self, task: ActiveJob, error: ServerError) -> None:
        """The job ends without all of its results; everybody who waits is told why."""
        is_given_up = isinstance(error, JobCancelledError | ShuttingDownError)
        task.is_stopped = True
        self._leave_queue(task)
        # Without its traceback, whose frames would keep the stage's arrays.
        bare = copy.copy(error)
        self._change(task, status=Status.CANCELLED if is_given_up else Status.ERROR, error=bare)
        self._log_end(task)
        self._forget(task)
        self._note_idle()

    def _forget(self, task: ActiveJob) -> None:
        """Drop what only a job that goes on needs, and wake whoever waits."""
        self.tasks.pop(task.uid, None)
        task.waiting_for = task.call = task.cutout = task.source = task.mesh = task.voxels = None
        for future in (task.shape_done, task.texture_done):
            if future is not None and not future.done():
                future.set_result(self._job(task))

    def _log_end(self, task: ActiveJob) -> None:
        job, memory = self._job(task), self._loading.memory
        if task.has_used_engine and not task.is_counted:
            task.is_counted = True
            self._loading.note_job()
        request_id = task.context.get(request_ids.current, "")  # it may end in another's
        logger.log(
            logging.WARNING if isinstance(job.error, EngineError) else logging.INFO,
            "Job %s",
            job.status.value,
            extra={
                "uid": job.uid,
                "image_hash": job.image_hash,
                "seconds": round(self._clock() - job.created_at, 3),
                **({"error": str(job.error)} if job.error else {}),
                **({"request_id": request_id} if request_id else {}),
                **{f"device_{kind}_mb": size // 1_000_000 for kind, size in memory.items()},
            },
        )
        self.observer.note_end(job.engine, job.status)

    def is_done(self, task: ActiveJob) -> bool:
        """Whether nothing is being done or about to be done for its job."""
        return self._job(task).status.is_finished

    def _change(self, task: ActiveJob, **changes: Any) -> Job:
        job = self._registry.put(self._job(task).changed(self._clock(), **changes))
        self._subscriptions.tell(job)
        return job

    def _job(self, task: ActiveJob) -> Job:
        return self._registry[task.uid]


def _leaving() -> ShuttingDownError:
    return ShuttingDownError("the server is shutting down", retry_after_s=30)


def _unhealthy(reason: str) -> UnhealthyError:
    return UnhealthyError(f"the server is unhealthy and restarts: {reason}", retry_after_s=30)


def future_job() -> asyncio.Future[Job]:
    """Of a task: resolves to its job."""
    return asyncio.get_running_loop().create_future()
