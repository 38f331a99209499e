"""Owns every thread, queue and limit: `submit`, `shape`, `texture`, `watch`, `delete`, `close`.

The order of the work is `line`'s. All state belongs to the event loop's thread.

What this module does not know: HTTP, how a step does its work.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
import uuid
from collections import Counter
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from trellis2_server import __version__
from trellis2_server.errors import (
    EngineBrokenError,
    JobCancelledError,
    JobNotFoundError,
    QueueFullError,
    ServerError,
    ShuttingDownError,
    TextureTimeoutError,
    TooManyRequestsError,
    UnhealthyError,
)
from trellis2_server.jobs.executor import md5
from trellis2_server.jobs.job import ANYBODY, Job, Status
from trellis2_server.jobs.model_lifecycle import ModelLifecycle
from trellis2_server.jobs.progress import device_steps
from trellis2_server.jobs.queue import ActiveJob
from trellis2_server.jobs.records import JobRecords
from trellis2_server.jobs.registry import JobRegistry
from trellis2_server.jobs.results import Results
from trellis2_server.jobs.scheduler import Scheduler, future_job
from trellis2_server.jobs.subscriptions import Subscriptions
from trellis2_server.jobs.threads import ThreadPools
from trellis2_server.jobs.uploads import Upload, Uploads
from trellis2_server.parameters import Delivery
from trellis2_server.storage.archive import Archive
from trellis2_server.storage.store import make_store

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Hashable, Mapping

    from trellis2_server.jobs.executor import Executor
    from trellis2_server.jobs.job import Caller
    from trellis2_server.jobs.observers import JobObserver
    from trellis2_server.parameters import Options
    from trellis2_server.settings import Settings
    from trellis2_server.storage.store import Store

logger = logging.getLogger(__name__)

#: What a client is told to wait for when the queue is full.
RETRY_AFTER_FULL_S: Final = 10
#: How long a stop waits for the last results to be written.
ARCHIVE_GRACE_S: Final = 10.0
#: A listener is told of changes at most this often, in seconds.
WATCH_INTERVAL_S: Final = 0.1


class JobManager:
    """One engine's queue. Make it, `start` it on a running event loop, `close` it there.

    Args:
        crew: does the steps; `start` has its engine loaded in the background.
        settings: limits and retention.
        observer: told of what happens to jobs.
        store: where results are kept; None: as the settings say.
        clock: monotonic seconds.

    Attributes:
        crew: the same.
        load: how loading it goes.
        results: what the jobs leave.
        is_drained: set when only a new process helps, and nothing is left to be waited for.
    """

    def __init__(
        self,
        executor: Executor,
        settings: Settings,
        observer: JobObserver | None = None,
        *,
        store: Store | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.executor = executor
        self._settings = settings
        self._limits = settings.worker
        self._clock = clock
        self._threads = ThreadPools(
            executor.cpu_workers,
            device_steps(settings),
            self._limits.stage_timeout_seconds,
            device_slots=executor.device_slots,
        )
        self.load = ModelLifecycle(executor, self._threads, settings, clock)
        store = store or make_store(self._limits.result_dir)
        self._archive = Archive(store, max_packed_bytes=self._limits.max_kept_bytes)
        self._records = JobRecords(self._archive, clock)
        # What decides a result beside its key, as far as this server knows.
        export = settings.export
        origin = (__version__, executor.name, repr(settings.model), export.backend, export.unwrap)
        self._registry = JobRegistry(self._records, origin)
        self._uploads = Uploads(executor, self._threads)
        self._subscriptions = Subscriptions()
        self._scheduler = Scheduler(
            executor, settings, self._registry, self._uploads, self._threads, self.load,
            self._subscriptions, self._archive, clock,
        )  # fmt: skip
        self.results = Results(
            settings, self._registry, self._subscriptions, self._scheduler, self._archive, executor
        )
        self._archive.on_kept = self.results.note_kept
        if observer is not None:
            self._scheduler.observer = observer
        self._tasks = self._scheduler.tasks
        self._background: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._is_closing = False
        self._is_closed = asyncio.Event()
        self.is_drained = asyncio.Event()

    # ---- life ----------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to load the engine and to look after the jobs. Call it on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._records.restore(self._archive.open(), self._registry)
        self.clean_up()
        for coroutine in (self._load(), self._look_after_jobs(), self._drain()):
            task = self._loop.create_task(coroutine)
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def _load(self) -> None:
        try:
            await self.load.load()
        except EngineBrokenError as error:
            self._scheduler.fail_permanently(str(error))
        self._scheduler.rest()
        self._scheduler.dispatch()

    async def _drain(self) -> None:
        """When only a new process helps, let the jobs that can still end do so."""
        await self._scheduler.has_fault.wait()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(
                self._scheduler.is_settled.wait(), self._settings.server.shutdown_grace_seconds
            )
        self._end_all(UnhealthyError("the server is unhealthy and restarts", retry_after_s=30))
        self.is_drained.set()

    def _end_all(self, error: ServerError) -> None:
        for task in list(self._tasks.values()):
            if not self._scheduler.is_done(task):
                self._scheduler.end(task, error)

    async def _look_after_jobs(self) -> None:
        while True:
            await asyncio.sleep(
                min(self._limits.job_cleanup_interval_seconds, self._limits.abandoned_job_seconds)
            )
            self.clean_up()

    def clean_up(self) -> None:
        """Drop finished jobs that have aged out; give up waiting ones that nobody asks for."""
        for job in self._registry.remove_aged(self._clock() - self._limits.job_max_age_seconds):
            self._tasks.pop(job.uid, None)
        self._scheduler.end_abandoned()
        self._archive.tend()

    async def close(self) -> None:
        """Take no more jobs, let the running ones go on within the grace, answer everybody."""
        if self._is_closing:
            await self._is_closed.wait()
            return
        self._is_closing = self._scheduler.is_closing = self.load.is_given_up = True
        leaving = ShuttingDownError("the server is shutting down", retry_after_s=30)
        for task in list(self._tasks.values()):
            if not task.running and not self._scheduler.is_done(task):
                self._scheduler.end(task, leaving)
        self._scheduler.end_export_calls(leaving, running=False)
        if not self.is_drained.is_set():
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(
                    self._scheduler.is_idle.wait(), self._settings.server.shutdown_grace_seconds
                )
        self._end_all(leaving)
        self._scheduler.end_export_calls(leaving, running=True)
        for background in list(self._background):
            background.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self._threads.close()
        with suppress(asyncio.TimeoutError):  # a disk that hangs
            await asyncio.wait_for(self._archive.close(), ARCHIVE_GRACE_S)
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
    def fault(self) -> str | None:
        """Why only a new process helps; None as long as all is well."""
        return self._scheduler.fault

    @property
    def why_not(self) -> str | None:
        """Why nothing is served, now that it is no more about loading; None: it is."""
        if self._is_closing:
            return "the server is shutting down"
        return self.fault or self.load.error

    @property
    def is_idle(self) -> bool:
        """Whether no thread works on anything."""
        return (
            self._scheduler.is_idle.is_set()
            and not self._threads.lookups
            and self.load.status != "loading"
            and self._archive.is_idle
        )

    # ---- asking --------------------------------------------------------------------------

    @property
    def queue_length(self) -> int:
        """Jobs running plus jobs waiting."""
        return self._scheduler.length

    def count_jobs(self) -> Mapping[Status, int]:
        """How many jobs are kept, by status."""
        return Counter(job.status for job in self._registry)

    def job(self, name: str, caller: Caller = ANYBODY) -> Job:
        """The caller's job with that uid or image hash.

        Raises:
            JobNotFoundError: there is none that the caller may see.
        """
        job = self._registry.get(name, caller.owner)
        task = self._tasks.get(job.uid)
        if task:
            task.last_asked = self._clock()
        return job

    def jobs(
        self, caller: Caller = ANYBODY, *, limit: int, before: str | None = None
    ) -> tuple[list[Job], bool]:
        """The caller's jobs, the latest first, and whether there are more.

        Args:
            caller: who asks.
            limit: how many at most.
            before: name of a job; the list goes on after it.

        Raises:
            JobNotFoundError: there is no job `before`.
        """
        jobs = self._registry.newest(caller.owner)
        if before is not None:
            uid = self._registry.get(before, caller.owner).uid
            jobs = jobs[next(at for at, job in enumerate(jobs, 1) if job.uid == uid) :]
        return jobs[:limit], len(jobs) > limit

    async def watch(self, job: Job, *, heartbeat_s: float) -> AsyncGenerator[Job | None]:
        """The job's state now, and after each change, until it is finished.

        Who reads slowly gets the latest state and no backlog. None: nothing was new for
        `heartbeat_s`.
        """
        try:
            # It may have gone on since the caller looked, when nobody listened yet.
            job = self._registry.get(job.uid, job.owner)
        except JobNotFoundError:
            return
        with self._subscriptions.subscribe(job) as subscription:
            while True:
                state = subscription.job
                yield state
                if state.status.is_finished:
                    return
                await subscription.rest(WATCH_INTERVAL_S)
                while not await subscription.told(heartbeat_s):
                    yield None

    def queue_position(self, job: Job) -> int | None:
        """How many waiting steps start before the job's next one, plus one; None: not waiting."""
        task = self._tasks.get(job.uid)
        return task and self._scheduler.position(task)

    def eta_s(self, job: Job) -> float | None:
        """Seconds until the job's present status ends, by this server's own experience.

        None: nothing is being done for the job, or there is no experience yet. An estimate:
        what comes later with an earlier deadline is not in it.
        """
        task = self._tasks.get(job.uid)
        return task and self._scheduler.eta_s(task)

    async def submit(
        self,
        picture: bytes,
        options: Options,
        caller: Caller = ANYBODY,
        *,
        texture: bool | None,
        mesh: bytes | None = None,
    ) -> Job:
        """The job of that picture and those options: a known one of the caller's, or a new one.

        Args:
            picture: an image file.
            options: what is asked for.
            caller: who asks.
            texture: False: a new job's texture is not made before it is asked for.
            mesh: the file that `options.mesh` names. The untextured GLB of a job that is
                kept, with that job's own picture, means that job.

        Raises:
            UnavailableError: loading, shutting down, or too many jobs wait.
            TooManyRequestsError: too many of this client's do.
        """
        digest = await asyncio.to_thread(md5, picture)
        self._check_open()
        upload = Upload(caller.owner, digest, options.remove_background)
        key = None if options.is_seed_random else ("upload", upload, options)
        image_hash = self._uploads.image_hash(upload)
        job = self._registry.match(key) or self._scheduler.own(options, image_hash, caller.owner)
        if job is None or not self._scheduler.can_give(job, texture=texture is not False):
            self._check_room(len(picture) + len(mesh or b""), caller)
            job = self._add(picture, upload, options, key, texture=texture, mesh=mesh)
        else:
            self._scheduler.observer.note_match("upload")
        self._registry.ask(job.uid, caller.client)
        task = self._tasks.get(job.uid)
        if task:
            task.last_asked = self._clock()
            if texture is not False and not (task.wants_texture or task.texture_done):
                self.want_texture(job)
        return self._registry[job.uid]

    def served(self, mesh_md5: str | None, caller: Caller = ANYBODY) -> Job | None:
        """The caller's job that is kept whose untextured GLB has that MD5."""
        return self._registry.of_shape(mesh_md5, caller.owner) if mesh_md5 else None

    async def ticket(self, job: Job, wanted: Delivery) -> str:
        """Another uid for the job, of which `delivery` tells what is wanted by it.

        It is written down before anybody hears of it.
        """
        name = self._registry.ticket(job, wanted)
        await self._archive.written()
        return name

    def delivery(self, uid: str) -> Delivery | None:
        """What is wanted by a ticket; None for any other name."""
        wanted = self._registry.wanted(uid)
        return wanted if isinstance(wanted, Delivery) else None

    def _check_open(self) -> None:
        self._scheduler.check()
        self.load.check()

    def _check_room(self, n_bytes: int, caller: Caller) -> None:
        limits = self._limits
        self._check_queue()
        held = self._scheduler.waiting_bytes
        if held and held + n_bytes > limits.max_waiting_bytes:
            raise QueueFullError(
                f"the queue is full: {held} bytes of uploads wait", retry_after_s=RETRY_AFTER_FULL_S
            )
        most = limits.max_jobs_per_client
        if most is None:
            return
        own = sum(
            1
            for task in self._tasks.values()
            if caller.client in self._registry.clients(task.uid)
            and not self._scheduler.is_done(task)
        )
        if own >= most:
            raise TooManyRequestsError(
                f"{own} of your jobs are not finished yet, and this server takes {most} at a time",
                retry_after_s=RETRY_AFTER_FULL_S,
            )

    def _check_queue(self) -> None:
        waiting = self._scheduler.waiting
        if waiting >= self._limits.max_queue_length:
            raise QueueFullError(
                f"the queue is full: {waiting} jobs wait", retry_after_s=RETRY_AFTER_FULL_S
            )

    def _add(  # noqa: PLR0913
        self,
        picture: bytes,
        upload: Upload,
        options: Options,
        key: Hashable,
        *,
        texture: bool | None,
        mesh: bytes | None,
    ) -> Job:
        now = self._clock()
        job = self._registry.put(
            Job(
                uid=str(uuid.uuid4()),
                options=options,
                engine=self.executor.name,
                created_at=now,
                owner=upload.owner,
                created_unix_s=time.time(),
            )
        )
        if key is not None:
            self._registry.bind(key, job.uid)
        task = ActiveJob(
            uid=job.uid,
            upload=upload,
            wants_texture=texture is not False,
            shape_done=future_job(),
            deadline=now,
            last_asked=now,
            mesh=mesh,
        )
        logger.info("Job accepted", extra={"uid": job.uid, "seed": options.seed})
        self._scheduler.add(task, picture)
        return job

    async def name_of(
        self, picture: bytes, caller: Caller = ANYBODY, *, remove_background: bool
    ) -> str:
        """What an upload's job is found by: its image hash, or a uid before there is a hash.

        The hash is remembered, or found by cutting the picture out once more.

        Raises:
            InputError: no image, or no object in it.
        """
        self._check_open()
        digest = await asyncio.to_thread(md5, picture)
        upload = Upload(caller.owner, digest, remove_background)

        def on_its_way() -> str | None:
            self._check_open()
            tasks = reversed(self._tasks.values())
            return next((task.uid for task in tasks if task.upload == upload), None)

        try:
            return await self._uploads.name_of(upload, picture, on_its_way)
        except EngineBrokenError as error:
            self._scheduler.fail_permanently(str(error))
            raise

    def want_texture(self, job: Job) -> None:
        """Have the job's texture made, if it is neither there nor on its way."""
        self._scheduler.want_texture(job)

    async def shape(self, job: Job) -> Job:
        """The job with its untextured GLB, once that is there.

        Raises:
            ServerError: why there is none.
        """
        if job.shape_glb is None:
            job = self._registry.get(job.uid, job.owner)  # it may have gone on since
        task = self._tasks.get(job.uid)
        if task and job.shape_glb is None:
            with self._waiting(task):
                job = await asyncio.shield(task.shape_done)
        if job.shape_glb is None:
            raise self._reason(job)
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
        job = self._registry.get(job.uid, job.owner)  # it may have gone on since
        self.want_texture(job)
        try:
            job = await asyncio.wait_for(self._textured(job), timeout_s)
        except asyncio.TimeoutError:
            raise TextureTimeoutError("Texture generation timed out") from None
        if job.textured_glb is None:
            raise self._reason(job)
        return job

    async def export(self, job: Job, options: Options, *, texture: bool | None) -> bytes:
        """As `Results.export`, within the limits.

        Raises:
            UnavailableError: shutting down, or too many jobs wait.
        """
        self._check_open()
        self._check_queue()
        return await self.results.export(job, options, texture=texture)

    async def _textured(self, job: Job) -> Job:
        task = self._tasks.get(job.uid)
        if task is None:  # it has ended since the caller looked
            return self._registry.get(job.uid, job.owner)
        with self._waiting(task):
            job = await asyncio.shield(task.shape_done)  # of another job, where it joined that
        task = self._tasks.get(job.uid)
        if task is None or task.texture_done is None:
            return self._registry.get(job.uid, job.owner)
        with self._waiting(task):
            return await asyncio.shield(task.texture_done)

    def _reason(self, job: Job) -> ServerError:
        """Why a job lacks what was waited for: a new exception for each who waits."""
        if job.error is not None:
            return copy.copy(job.error)
        if self._is_closing or job.status is not Status.COMPLETED:
            return ShuttingDownError("the server is shutting down", retry_after_s=30)
        return JobNotFoundError(
            "the texture of this job cannot be made any more, the server was restarted since; "
            "send the picture again"
        )

    @contextmanager
    def _waiting(self, task: ActiveJob) -> Generator[None]:
        task.waiters += 1
        try:
            yield
        finally:
            task.waiters -= 1
            task.last_asked = self._clock()

    def cancel(self, job: Job) -> None:
        """Give a job up: at once if it waits, at the running step's next report otherwise."""
        task = self._tasks.get(job.uid)
        if task and not self._scheduler.is_done(task):
            self._scheduler.end(task, JobCancelledError("cancelled"))

    def delete(self, name: str, caller: Caller = ANYBODY) -> None:
        """Cancel the caller's job with that name or, where it is finished, drop it.

        A job that other clients asked for too stays theirs.

        Raises:
            JobNotFoundError: there is none that the caller may see.
        """
        job = self._registry.get(name, caller.owner)
        if not self._registry.withdraw(job.uid, caller.client):
            return
        if job.status.is_finished:
            self.results.drop(job)
            logger.info("Job deleted", extra={"uid": job.uid})
        else:
            self.cancel(job)
