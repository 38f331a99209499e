"""Owns every thread, queue and limit: `submit`, `shape`, `texture`, `cancel`, `close`.

A job goes through steps: cut-out, shape stage, its export, and, when a texture is wanted,
the texture stage and its export. The engine's stages run one at a time on the *lane*, a
single thread; the others on a small pool, so that one job's export overlaps with the next
one's stage. Of the steps that could start, the one with the earliest deadline does: a
shape's is the arrival of its request, a texture's the moment it became ready plus
`TEXTURE_PATIENCE_S`. So geometry comes back fast, and no texture starves.

All state belongs to the event loop's thread; the threads get arguments and give results.

What this module does not know: HTTP, how a step does its work.
"""

from __future__ import annotations

import asyncio
import bisect
import copy
import hashlib
import itertools
import logging
import os
import re
import sys
import threading
import time
import uuid
from collections import Counter, OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from trellis2_server import pipeline
from trellis2_server.config import Delivery
from trellis2_server.errors import (
    EngineError,
    JobCancelledError,
    LoadingError,
    OutOfMemoryError,
    QueueFullError,
    ServerError,
    ShuttingDownError,
    TextureTimeoutError,
)
from trellis2_server.images import ModelPending
from trellis2_server.jobs import Job, JobTable, Progress, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable

    from trellis2_server.config import Options, Settings
    from trellis2_server.images import Cutout, Cutter
    from trellis2_server.mesh import Shape, VoxelField
    from trellis2_server.pipeline import Engine, Geometry, GivenMesh

logger = logging.getLogger(__name__)

#: How much later than a shape that arrives at the same moment a texture is due.
TEXTURE_PATIENCE_S: Final = 60.0
#: Uploads of which the image hash is remembered, so that their background is removed once.
MAX_KNOWN_UPLOADS: Final = 4096
#: Progress is passed on at most this often, in seconds.
PROGRESS_INTERVAL_S: Final = 0.05
#: What a client is told to wait for when the queue is full.
RETRY_AFTER_FULL_S: Final = 10

#: Of the threads that work, against the event loop's 0.
THREAD_NICENESS: Final = 5
#: How much the latest duration of a step weighs in what is expected of the next.
PACE_WEIGHT: Final = 0.3

#: The steps, with the part of their status' way that each takes.
_SHARES: Final = {
    "cutout": (0.0, 0.1),
    "shape": (0.1, 0.7),
    "shape_export": (0.8, 0.2),
    "texture": (0.0, 0.6),
    "texture_export": (0.6, 0.4),
}

#: Stages that count from 0 to their own end, with the part of their step that each takes; any
#: other counts on through the whole step.
_STAGE_SHARES: Final = {
    "condition": (0.0, 0.05),
    "structure": (0.05, 0.25),
    "shape": (0.3, 0.55),
    "texture": (0.0, 0.85),
    "decode": (0.85, 0.15),
    "clean": (0.0, 0.3),
    "decimate": (0.3, 0.7),
    "unwrap": (0.0, 0.2),
    "bake": (0.2, 0.5),
    "encode": (0.7, 0.25),
    "pack": (0.95, 0.05),
}

Step = Literal["cutout", "shape", "shape_export", "texture", "texture_export"]
_LANE_STEPS: Final = frozenset({"shape", "texture"})
_SHAPE_STEPS: Final[tuple[Step, ...]] = ("cutout", "shape", "shape_export")
_TEXTURE_STEPS: Final[tuple[Step, ...]] = ("texture", "texture_export")


class _Stopped(Exception):  # noqa: N818 - no error: unwinds a step that nobody wants any more
    """Raised by a `report` inside the engine or the exporter."""


@dataclass(slots=True, eq=False)
class _Task:
    """What the worker holds of a job that is not finished, or whose texture may be asked for.

    Attributes:
        uid: of the job.
        upload: digest of the picture, and whether its background is to be removed.
        wants_texture: whether the texture is to be made after the shape.
        mesh: the client's mesh file, until it is read; there is no shape stage then.
        shape_done: resolves to the job when its untextured GLB is there, or will never be.
        texture_done: likewise for the textured one; None until it is wanted.
        deadline: of the steps of the present status, seconds of the worker's clock.
        waiting_for: the step that waits to be started.
        call: does that step, on another thread.
        source: what a texture is made from, once the shape is exported.
        running: the step that is being worked on.
        is_stopped: set to unwind the running step at its next report.
        waiters: requests that await a future of the task.
        last_asked: when anybody last asked for the job.
        cutout: between the cut-out and the shape's export.
        step_began: when the running step did.
    """

    uid: str
    upload: tuple[str, bool]
    wants_texture: bool
    shape_done: asyncio.Future[Job]
    deadline: float
    last_asked: float
    mesh: bytes | None = None
    texture_done: asyncio.Future[Job] | None = None
    waiting_for: Step | None = None
    call: Callable[[], Any] | None = None
    running: Step | None = None
    is_stopped: bool = False
    waiters: int = 0
    cutout: Cutout | None = None
    source: tuple[Geometry | GivenMesh, Cutout] | None = None
    step_began: float = 0.0


@dataclass(slots=True)
class Load:
    """How loading the engine goes.

    Attributes:
        status: "loading", "ok" or "error".
        stage: what is being loaded; empty at the end.
        fraction: 0 … 1 of that.
        error: why it failed.
        seconds: how long it took.
    """

    status: Literal["loading", "ok", "error"] = "loading"
    stage: str = ""
    fraction: float = 0.0
    error: str | None = None
    seconds: float | None = None


class Pace:
    """How long each step takes here, learned from the steps that ended; a moving mean."""

    def __init__(self) -> None:
        self._means: dict[tuple[Step, str, int], float] = {}

    def note(self, step: Step, options: Options, seconds: float) -> None:
        """A step of a job with these options took so long."""
        key = (step, options.pipeline_type, options.texture_size)
        mean = self._means.get(key, seconds)
        self._means[key] = mean + PACE_WEIGHT * (seconds - mean)

    def expect(self, step: Step, options: Options) -> float | None:
        """Seconds that such a step is expected to take; None: there was none yet."""
        return self._means.get((step, options.pipeline_type, options.texture_size))


class Worker:
    """One engine's queue. Make it, `start` it on a running event loop, `close` it there.

    Args:
        engine: not loaded; `start` loads it in the background.
        cutter: cuts uploads out.
        settings: limits and retention.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        engine: Engine,
        cutter: Cutter,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = engine
        self.load = Load()
        self._cutter = cutter
        self._settings = settings
        self._limits = settings.worker
        self._clock = clock
        self._table = JobTable()
        self._tasks: dict[str, _Task] = {}
        self._ready: list[tuple[float, int, str]] = []
        self._order = itertools.count()
        self._pace = Pace()
        self._uploads: OrderedDict[tuple[str, bool], str] = OrderedDict()
        self._running = 0
        self._lane_is_busy = True  # until the engine is loaded
        self._pool_size = min(self._limits.limit_model_concurrency, max(2, os.cpu_count() or 2))
        self._pool_running = 0
        self._lane = ThreadPoolExecutor(1, "lane", _give_way)
        self._pool = ThreadPoolExecutor(self._pool_size, "pool", _give_way)
        self._background: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._is_closing = False
        self._is_closed = asyncio.Event()
        self._one_lookup = asyncio.Semaphore(1)
        self._lookups = 0
        self._lookup = ThreadPoolExecutor(1, "lookup", _give_way)
        self._idle = asyncio.Event()
        self._idle.set()

    # ---- life ----------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to load the engine and to look after the jobs. Call it on the event loop."""
        self._loop = asyncio.get_running_loop()
        for coroutine in (self._load(), self._look_after_jobs()):
            task = self._loop.create_task(coroutine)
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def _load(self) -> None:
        begin = self._clock()

        def report(stage: str, step: int, steps: int) -> None:
            self.load.stage, self.load.fraction = stage, step / max(steps, 1)
            if self._is_closing:
                raise _Stopped

        logger.info("Loading the engine", extra={"engine": self.engine.name})
        try:
            await self._loop.run_in_executor(
                self._lane, partial(_guarded, "load", pipeline.load, self.engine, report)
            )
        except (ServerError, _Stopped) as error:
            self.load.status, self.load.error = "error", str(error)
            logger.error("The engine could not be loaded: %s", error)  # noqa: TRY400 - logged where it arose
            return
        self.load.seconds = self._clock() - begin
        self.load.status, self.load.stage = "ok", ""
        logger.info(
            "Ready", extra={"engine": self.engine.name, "seconds": round(self.load.seconds, 2)}
        )
        self._lane_is_busy = False
        self._pump()

    async def _look_after_jobs(self) -> None:
        while True:
            await asyncio.sleep(
                min(self._limits.job_cleanup_interval_seconds, self._limits.abandoned_job_seconds)
            )
            self.clean_up()

    def clean_up(self) -> None:
        """Drop finished jobs that have aged out; give up waiting ones that nobody asks for."""
        now = self._clock()
        for job in self._table.remove_aged(now - self._limits.job_max_age_seconds):
            self._tasks.pop(job.uid, None)
        for task in list(self._tasks.values()):
            if self._is_abandoned(task, now):
                self._end(task, JobCancelledError("cancelled: nobody asked for the job any more"))

    def _is_abandoned(self, task: _Task, now: float) -> bool:
        return (
            task.waiting_for == "cutout"
            and not task.waiters
            and now - task.last_asked > self._limits.abandoned_job_seconds
        )

    async def close(self) -> None:
        """Take no more jobs, let the running ones go on within the grace, answer everybody."""
        if self._is_closing:
            await self._is_closed.wait()
            return
        self._is_closing = True
        leaving = ShuttingDownError("the server is shutting down", retry_after_s=30)
        for task in list(self._tasks.values()):
            if not task.running and not self._is_done(task):
                self._end(task, leaving)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._idle.wait(), self._settings.server.shutdown_grace_seconds)
        for task in list(self._tasks.values()):
            if not self._is_done(task):
                self._end(task, leaving)
        for background in list(self._background):
            background.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self._lane.shutdown(wait=False, cancel_futures=True)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._lookup.shutdown(wait=False)
        self._is_closed.set()

    def close_soon(self) -> None:
        """Have `close` begin on the event loop; callable from a signal handler."""

        def begin() -> None:
            task = self._loop.create_task(self.close())
            self._closing.add(task)

        self._loop.call_soon_threadsafe(begin)

    @property
    def is_closing(self) -> bool:
        """Whether the process is leaving."""
        return self._is_closing

    @property
    def is_idle(self) -> bool:
        """Whether no thread works on anything."""
        return self._idle.is_set() and not self._lookups and self.load.status != "loading"

    # ---- asking --------------------------------------------------------------------------

    @property
    def queue_length(self) -> int:
        """Jobs running plus jobs waiting."""
        return sum(1 for task in self._tasks.values() if task.running or task.waiting_for)

    def job(self, name: str) -> Job:
        """The job with that uid or image hash.

        Raises:
            JobNotFoundError: there is none.
        """
        job = self._table.get(name)
        task = self._tasks.get(job.uid)
        if task:
            task.last_asked = self._clock()
        return job

    def queue_position(self, job: Job) -> int | None:
        """How many waiting steps start before the job's next one, plus one; None: not waiting."""
        task = self._tasks.get(job.uid)
        if task is None or not task.waiting_for:
            return None
        places = (at for at, entry in enumerate(self._ready, 1) if entry[2] == job.uid)
        return next(places, None)  # None: it waits for a background model

    def eta_s(self, job: Job) -> float | None:
        """Seconds until the job's present status ends, by this server's own experience.

        None: nothing is being done for the job, or there is no experience yet. An estimate:
        what comes later with an earlier deadline is not in it.
        """
        task = self._tasks.get(job.uid)
        if task is None or not (task.running or task.waiting_for):
            return None
        left = self._seconds_left(task)
        if left is None:
            return None
        if task.running in {_SHAPE_STEPS[-1], _TEXTURE_STEPS[-1]}:
            return sum(left)
        ahead = [
            self._seconds_left(other) or (0.0, 0.0)
            for other in self._tasks.values()
            if other is not task
            and (other.running or (other.waiting_for and other.deadline < task.deadline))
        ]
        lane = sum(seconds for seconds, _ in ahead)
        pool = sum(seconds for _, seconds in ahead) / self._pool_size
        return sum(left) + max(lane, pool)

    def _seconds_left(self, task: _Task) -> tuple[float, float] | None:
        """Of the present status, on the lane and in the pool."""
        step = task.running or task.waiting_for
        if step is None:
            return None
        steps = _SHAPE_STEPS if step in _SHAPE_STEPS else _TEXTURE_STEPS
        options = self._table.get(task.uid).options
        lane = pool = 0.0
        for next_step in steps[steps.index(step) :]:
            seconds = self._pace.expect(next_step, options)
            if seconds is None:
                return None
            if next_step == task.running:
                seconds = max(0.0, seconds - (self._clock() - task.step_began))
            if next_step in _LANE_STEPS:
                lane += seconds
            else:
                pool += seconds
        return lane, pool

    async def submit(
        self,
        picture: bytes,
        options: Options,
        *,
        texture: bool | None,
        mesh: bytes | None = None,
    ) -> Job:
        """The job of that picture and those options: a known one, or a new one.

        Args:
            picture: an image file.
            options: what is asked for.
            texture: False: a new job's texture is not made before it is asked for.
            mesh: the file that `options.mesh` names. The untextured GLB of a job that is
                kept, with that job's own picture, means that job.

        Raises:
            UnavailableError: loading, shutting down, or too many jobs wait.
        """
        digest = await asyncio.to_thread(_md5, picture)
        self._check_open()
        upload = (digest, options.remove_background)
        key = None if options.is_seed_random else ("upload", upload, options)
        job = self._table.match(key) or self._own(options, self._uploads.get(upload))
        if job is None:
            job = self._add(picture, upload, options, key, texture=texture, mesh=mesh)
        task = self._tasks.get(job.uid)
        if task:
            task.last_asked = self._clock()
            if texture is not False and not (task.wants_texture or task.texture_done):
                self.want_texture(job)
        return self._table.get(job.uid)

    def _own(self, options: Options, image_hash: str | None) -> Job | None:
        """The job of that picture whose untextured GLB is the mesh that is to be textured."""
        job = None if options.geo_rotation else self.served(options.mesh)
        return job if job and job.image_hash == image_hash else None

    def served(self, mesh_md5: str | None) -> Job | None:
        """The job that is kept whose untextured GLB has that MD5."""
        return self._table.of_shape(mesh_md5) if mesh_md5 else None

    def ticket(self, job: Job, wanted: Delivery) -> str:
        """Another uid for the job, of which `delivery` tells what is wanted by it."""
        return self._table.ticket(job, wanted)

    def delivery(self, uid: str) -> Delivery | None:
        """What is wanted by a ticket; None for any other name."""
        wanted = self._table.wanted(uid)
        return wanted if isinstance(wanted, Delivery) else None

    def _check_open(self) -> None:
        if self._is_closing:
            raise ShuttingDownError("the server is shutting down", retry_after_s=30)
        if self.load.status == "loading":
            raise LoadingError("the model is loading", retry_after_s=5)
        if self.load.status == "error":
            raise LoadingError(
                f"the model could not be loaded: {self.load.error}", retry_after_s=60
            )

    def _add(  # noqa: PLR0913
        self,
        picture: bytes,
        upload: tuple[str, bool],
        options: Options,
        key: Hashable,
        *,
        texture: bool | None,
        mesh: bytes | None,
    ) -> Job:
        waiting = sum(1 for task in self._tasks.values() if task.waiting_for)
        if waiting >= self._limits.max_queue_length:
            raise QueueFullError(
                f"the queue is full: {waiting} jobs wait", retry_after_s=RETRY_AFTER_FULL_S
            )
        now = self._clock()
        job = self._table.put(
            Job(
                uid=str(uuid.uuid4()),
                options=options,
                engine=self.engine.name,
                created_at=now,
            )
        )
        if key is not None:
            self._table.bind(key, job.uid)
        self._tasks[job.uid] = task = _Task(
            uid=job.uid,
            upload=upload,
            wants_texture=texture is not False,
            shape_done=self._future(),
            deadline=now,
            last_asked=now,
            mesh=mesh,
        )
        logger.info("Job accepted", extra={"uid": job.uid, "seed": options.seed})
        cut_out = partial(self._cut_out, picture, options.remove_background)
        self._enqueue(task, "cutout", cut_out)
        return job

    async def name_of(self, picture: bytes, *, remove_background: bool) -> str:
        """What an upload's job is found by: its image hash, or a uid before there is a hash.

        The hash is remembered, or found by cutting the picture out once more.

        Raises:
            InputError: no image, or no object in it.
        """
        self._check_open()
        upload = (await asyncio.to_thread(_md5, picture), remove_background)
        cut_out = partial(_guarded, "cutout", self._cut_out, picture, remove_background)
        while True:
            async with self._one_lookup:
                self._check_open()
                image_hash = self._uploads.get(upload)
                if image_hash is not None:
                    return image_hash
                for task in reversed(self._tasks.values()):
                    if task.upload == upload:
                        return task.uid
                lookup = self._loop.run_in_executor(self._lookup, cut_out)
                self._lookups += 1
                lookup.add_done_callback(self._lookup_ended)
                try:
                    # Shielded: the thread goes on when the request is gone.
                    return self._remember(upload, await asyncio.shield(lookup))
                except ModelPending as pending:
                    loaded, timeout_s = asyncio.wrap_future(pending.loaded), pending.timeout_s
            await asyncio.wait({loaded}, timeout=timeout_s)  # holding up no other

    def _lookup_ended(self, lookup: asyncio.Future[Cutout]) -> None:
        self._lookups -= 1
        if not lookup.cancelled():
            lookup.exception()  # seen, though nobody may wait for it any more

    def _cut_out(self, picture: bytes, remove_background: bool) -> Cutout:  # noqa: FBT001 - for an executor
        return self._cutter.cut_out(picture, remove_background=remove_background, wait=False)

    def _remember(self, upload: tuple[str, bool], cutout: Cutout) -> str:
        self._uploads[upload] = cutout.image_hash
        self._uploads.move_to_end(upload)
        while len(self._uploads) > MAX_KNOWN_UPLOADS:
            self._uploads.popitem(last=False)
        return cutout.image_hash

    def want_texture(self, job: Job) -> None:
        """Have the job's texture made, if it is neither there nor on its way."""
        task = self._tasks.get(job.uid)
        if task is None:  # its texture is there, or will never be
            return
        job = self._table.get(job.uid)
        task.wants_texture = True
        if job.status is Status.COMPLETED:
            if self._is_closing:
                raise ShuttingDownError("the server is shutting down", retry_after_s=30)
            self._begin_texture(task)

    async def shape(self, job: Job) -> Job:
        """The job with its untextured GLB, once that is there.

        Raises:
            ServerError: why there is none.
        """
        if job.shape_glb is None:
            job = self._table.get(job.uid)  # it may have gone on since
        task = self._tasks.get(job.uid)
        if task and job.shape_glb is None:
            with self._waiting(task):
                job = await asyncio.shield(task.shape_done)
        if job.shape_glb is None:
            raise _reason(job)
        return job

    async def texture(self, job: Job, timeout_s: float | None = None) -> Job:
        """The job with its textured GLB, once that is there; has it made where it was not wanted.

        Args:
            job: whose texture is wanted.
            timeout_s: how long to wait; None: as long as it takes.

        Raises:
            TextureTimeoutError: it was not ready in time; the job goes on.
            ServerError: why there is none.
        """
        if job.textured_glb is not None:
            return job
        job = self._table.get(job.uid)  # it may have gone on since
        self.want_texture(job)
        try:
            job = await asyncio.wait_for(self._textured(job), timeout_s)
        except asyncio.TimeoutError:
            raise TextureTimeoutError("Texture generation timed out") from None
        if job.textured_glb is None:
            raise _reason(job)
        return job

    async def _textured(self, job: Job) -> Job:
        task = self._tasks.get(job.uid)
        if task is None:
            return job
        with self._waiting(task):
            job = await asyncio.shield(task.shape_done)  # of another job, where it joined that
        task = self._tasks.get(job.uid)
        if task is None or task.texture_done is None:
            return self._table.get(job.uid)
        with self._waiting(task):
            return await asyncio.shield(task.texture_done)

    @contextmanager
    def _waiting(self, task: _Task) -> Generator[None]:
        task.waiters += 1
        try:
            yield
        finally:
            task.waiters -= 1
            task.last_asked = self._clock()

    def cancel(self, job: Job) -> None:
        """Give a job up: at once if it waits, at the running step's next report otherwise."""
        task = self._tasks.get(job.uid)
        if task and not self._is_done(task):
            self._end(task, JobCancelledError("cancelled"))

    # ---- the queue -----------------------------------------------------------------------

    def _enqueue(self, task: _Task, step: Step, call: Callable[[], Any]) -> None:
        task.waiting_for, task.call = step, call
        bisect.insort(self._ready, (task.deadline, next(self._order), task.uid))
        self._idle.clear()
        self._pump()

    def _pump(self) -> None:
        """Start every step that can start, earliest deadline first."""
        while self._running < self._limits.limit_model_concurrency:
            steps = self._startable()
            waiting = (self._tasks[uid] for _, _, uid in self._ready)
            task = next((task for task in waiting if task.waiting_for in steps), None)
            if task is None:
                return
            self._leave_queue(task)
            if self._is_abandoned(task, self._clock()):
                self._end(task, JobCancelledError("cancelled: nobody asked for the job any more"))
            else:
                self._begin(task)

    def _startable(self) -> set[Step]:
        """The kinds of step that there is room for."""
        waiting = Counter(self._tasks[uid].waiting_for for _, _, uid in self._ready)
        at_most = self._limits.limit_model_concurrency
        steps: set[Step] = set()
        # What a step leaves is large: none starts while too many of its results wait.
        if not self._lane_is_busy and waiting["shape_export"] + waiting["texture_export"] < at_most:
            steps |= {"shape", "texture"}
        if self._pool_running < self._pool_size:
            steps |= {"shape_export", "texture_export"}
            if waiting["shape"] < at_most:
                steps.add("cutout")
        return steps

    def _leave_queue(self, task: _Task) -> None:
        self._ready = [entry for entry in self._ready if entry[2] != task.uid]

    def _begin(self, task: _Task) -> None:
        step, call = task.waiting_for, task.call
        if step is None or call is None:
            raise RuntimeError("a step begins that nobody waits for")
        on_lane = step in _LANE_STEPS
        task.waiting_for, task.call, task.running = None, None, step
        task.step_began = self._clock()
        self._running += 1
        if on_lane:
            self._lane_is_busy = True
        else:
            self._pool_running += 1
        future = self._loop.run_in_executor(
            self._lane if on_lane else self._pool, partial(_guarded, step, call)
        )
        future.add_done_callback(partial(self._ended, task, step, call))

    def _reporter(self, task: _Task, step: Step) -> Callable[[str, int, int], None]:
        begin, share = _SHARES[step]
        last = -1.0

        def report(stage: str, done: int, of: int) -> None:
            nonlocal last
            if task.is_stopped:
                raise _Stopped
            now = time.monotonic()
            if now - last < PROGRESS_INTERVAL_S:
                return
            last = now
            stage_begin, stage_share = _STAGE_SHARES.get(stage, (0.0, 1.0))
            fraction = stage_begin + stage_share * min(done / max(of, 1), 1.0)
            progress = Progress(stage, round(begin + share * fraction, 4))
            with suppress(RuntimeError):  # the loop has closed
                self._loop.call_soon_threadsafe(self._note_progress, task, step, progress)

        return report

    def _note_progress(self, task: _Task, step: Step, progress: Progress) -> None:
        if task.running != step or task.is_stopped:
            return
        known = self._table.get(task.uid).progress
        if known is not None and known.fraction > progress.fraction:  # a stage began again
            progress = Progress(progress.stage, known.fraction)
        self._change(task, progress=progress)

    def _ended(
        self, task: _Task, step: Step, call: Callable[[], Any], future: asyncio.Future[Any]
    ) -> None:
        """A step has ended, on the event loop: free its place, take its result, go on."""
        self._running -= 1
        if step in _LANE_STEPS:
            self._lane_is_busy = False
        else:
            self._pool_running -= 1
        task.running = None
        error = None if future.cancelled() else future.exception()
        if not task.is_stopped and not future.cancelled():
            seconds = self._clock() - task.step_began
            logger.debug(
                "Step ended",
                extra={"uid": task.uid, "step": step, "seconds": round(seconds, 3)},
            )
            if error is None:
                self._pace.note(step, self._table.get(task.uid).options, seconds)
                self._take_safely(task, step, future.result())
            elif isinstance(error, ServerError):
                self._end(task, error)
            elif isinstance(error, ModelPending):
                self._park(task, call, error)
            else:  # `_guarded` lets nothing else out but `_Stopped`
                self._end(task, JobCancelledError("cancelled"))
        self._pump()
        self._note_idle()

    def _note_idle(self) -> None:
        if not self._running and not self._ready:
            self._idle.set()

    def _park(self, task: _Task, call: Callable[[], Any], pending: ModelPending) -> None:
        """Have the cut-out done again when its background model is there, on no thread so far."""
        if self._is_closing:
            self._end(task, ShuttingDownError("the server is shutting down", retry_after_s=30))
            return
        task.waiting_for = "cutout"
        self._change(task, progress=Progress("background model", 0.0))
        resume = partial(self._unpark, task, call)

        def loaded(_: object) -> None:
            with suppress(RuntimeError):  # the loop has closed
                self._loop.call_soon_threadsafe(resume)

        self._loop.call_later(pending.timeout_s, resume)
        pending.loaded.add_done_callback(loaded)

    def _unpark(self, task: _Task, call: Callable[[], Any]) -> None:
        if task.waiting_for == "cutout" and task.call is None:
            self._enqueue(task, "cutout", call)

    def _take_safely(self, task: _Task, step: Step, result: Any) -> None:
        """Take a result; an engine's that breaks its protocol ends the job, not the queue."""
        try:
            self._take(task, step, result)
        except Exception as error:
            logger.exception("Result not understood", extra={"uid": task.uid, "step": step})
            if task.uid in self._tasks:
                self._end(task, EngineError(f"{step} failed: {_safe(error)}"))

    def _take(self, task: _Task, step: Step, result: Any) -> None:
        if step == "cutout":
            self._take_cutout(task, result)
        elif step == "shape":
            self._take_shape(task, result)
        elif step == "shape_export":
            self._take_shape_glb(task, *result)
        elif step == "texture":
            self._take_voxels(task, result)
        else:
            self._change(task, status=Status.COMPLETED, textured_glb=result)
            self._log_end(task)
            self._forget(task)

    def _take_cutout(self, task: _Task, cutout: Cutout) -> None:
        self._remember(task.upload, cutout)
        task.cutout = cutout
        job = self._change(
            task,
            image_hash=cutout.image_hash,
            background=cutout.background,
            warnings=cutout.warnings,
        )
        if not job.options.is_seed_random:
            key = ("cutout", cutout.key, job.options)
            known = self._table.match(key) or self._own(job.options, cutout.image_hash)
            if known is not None:
                self._join(task, known)
                return
            self._table.bind(key, task.uid)
        if task.mesh is not None:
            report = self._reporter(task, "shape_export")
            read = partial(pipeline.read_mesh, self.engine, task.mesh, job.options, report)
            task.mesh = None
            self._enqueue(task, "shape_export", partial(_with_md5, read))
            return
        report = self._reporter(task, "shape")
        self._enqueue(
            task, "shape", partial(pipeline.make_shape, self.engine, cutout, job.options, report)
        )

    def _take_shape(self, task: _Task, shape: Shape) -> None:
        warnings = (*self._table.get(task.uid).warnings, *shape.warnings)
        job = self._change(task, resolution=shape.resolution, warnings=warnings)
        report = self._reporter(task, "shape_export")
        self._enqueue(
            task,
            "shape_export",
            partial(_with_md5, pipeline.export_shape, self.engine, shape, job.options, report),
        )

    def _take_shape_glb(
        self, task: _Task, geometry: Geometry | GivenMesh, glb: bytes, md5: str
    ) -> None:
        if task.cutout is None:
            raise RuntimeError("a shape without a cut-out")
        task.source, task.cutout = (geometry, task.cutout), None
        if task.wants_texture and not self._is_closing:
            self._change(task, shape_glb=glb, shape_md5=md5)
            self._begin_texture(task)
        else:
            self._change(task, shape_glb=glb, shape_md5=md5, status=Status.COMPLETED)
            self._log_end(task)
        task.shape_done.set_result(self._table.get(task.uid))

    def _begin_texture(self, task: _Task) -> None:
        if task.source is None:
            raise RuntimeError("a texture without a shape")
        job = self._change(task, status=Status.TEXTURE_PROCESSING)
        task.deadline = self._clock() + TEXTURE_PATIENCE_S
        task.texture_done = self._future()
        report = self._reporter(task, "texture")
        self._enqueue(
            task,
            "texture",
            partial(pipeline.make_texture, self.engine, *task.source, job.options, report),
        )

    def _take_voxels(self, task: _Task, voxels: VoxelField) -> None:
        if task.source is None:
            raise RuntimeError("a texture without a shape")
        geometry, _ = task.source
        task.source = None
        self._enqueue(
            task,
            "texture_export",
            partial(
                pipeline.export_model,
                self.engine,
                geometry,
                voxels,
                self._table.get(task.uid).options,
                self._settings.export,
                self._reporter(task, "texture_export"),
            ),
        )

    def _join(self, task: _Task, known: Job) -> None:
        """Another upload turned out to be the picture of a job that is there: be that job."""
        logger.info("Job joined", extra={"uid": task.uid, "joined": known.uid})
        del self._tasks[task.uid]
        options = self._table.get(task.uid).options
        self._table.alias(task.uid, known.uid)
        self._table.bind(("upload", task.upload, options), known.uid)
        if task.wants_texture and not self._is_closing:
            self.want_texture(known)
        other = self._tasks.get(known.uid)
        if other is None:
            task.shape_done.set_result(known)
        else:
            other.shape_done.add_done_callback(
                lambda done: task.shape_done.set_result(done.result())
            )

    # ---- ends ----------------------------------------------------------------------------

    def _end(self, task: _Task, error: ServerError) -> None:
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

    def _forget(self, task: _Task) -> None:
        """Drop what only a job that goes on needs, and wake whoever waits."""
        self._tasks.pop(task.uid, None)
        task.waiting_for = task.call = task.cutout = task.source = task.mesh = None
        for future in (task.shape_done, task.texture_done):
            if future is not None and not future.done():
                future.set_result(self._table.get(task.uid))

    def _log_end(self, task: _Task) -> None:
        job = self._table.get(task.uid)
        logger.log(
            logging.WARNING if isinstance(job.error, EngineError) else logging.INFO,
            "Job %s",
            job.status.value,
            extra={
                "uid": job.uid,
                "image_hash": job.image_hash,
                "seconds": round(self._clock() - job.created_at, 3),
                **({"error": str(job.error)} if job.error else {}),
            },
        )

    def _is_done(self, task: _Task) -> bool:
        return self._table.get(task.uid).status.is_finished

    def _change(self, task: _Task, **changes: Any) -> Job:
        return self._table.put(self._table.get(task.uid).changed(self._clock(), **changes))

    def _future(self) -> asyncio.Future[Job]:
        return self._loop.create_future()


def _give_way() -> None:
    """Let the event loop's thread go before this one and the threads that it starts.

    Only on Linux has each thread a niceness of its own.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), THREAD_NICENESS)


def _reason(job: Job) -> ServerError:
    """Why a job lacks what was waited for: a new exception for each who waits."""
    if job.error is not None:
        return copy.copy(job.error)
    return ShuttingDownError("the server is shutting down", retry_after_s=30)


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _with_md5(
    export: Callable[..., tuple[Geometry | GivenMesh, bytes]], *args: Any
) -> tuple[Geometry | GivenMesh, bytes, str]:
    """What an export gives, and the digest of the file."""
    geometry, glb = export(*args)
    return geometry, glb, _md5(glb)


def _guarded(step: str, call: Callable[..., Any], *args: Any) -> Any:
    """The call's result; whatever it raises comes out as one of our own errors."""
    try:
        return call(*args)
    except (ServerError, ModelPending, _Stopped):
        raise
    except MemoryError as error:
        logger.exception("Out of memory", extra={"step": step})
        raise OutOfMemoryError(f"{step}: out of memory") from error
    except BaseException as error:  # a thread's border: a library's sys.exit() comes by too
        logger.exception("Step failed", extra={"step": step})
        raise EngineError(f"{step} failed: {_safe(error)}") from error


def _safe(error: BaseException) -> str:
    """An exception in one line, without the machine's paths."""
    text = " ".join(str(error).encode(errors="replace").decode().split())[:300]
    text = re.sub(r"(?:[A-Za-z]:)?[\\/](?:[^\s\\/:'\"]+[\\/])+", "", text)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
