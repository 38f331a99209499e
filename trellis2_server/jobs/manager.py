"""`JobManager`: builds the parts of the job system, starts them, and shuts them down.

    submissions  → registry, scheduler        a request becomes a job
    scheduler    → step_runner → threads      a step starts
    step_runner  → step_results → scheduler   a step has ended, the next one is queued
    step_results → archive, endings           files are stored, the job ends

All state belongs to the event loop's thread.

Does not know: HTTP, how a step is done.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from trellis2_server import __version__
from trellis2_server.errors import SHUTTING_DOWN, EngineBrokenError, UnhealthyError, shutting_down
from trellis2_server.jobs.active_jobs import ActiveJobs
from trellis2_server.jobs.admission import Admission
from trellis2_server.jobs.availability import Availability, unhealthy
from trellis2_server.jobs.cleanup import Cleanup
from trellis2_server.jobs.endings import JobEndings
from trellis2_server.jobs.estimates import Estimator
from trellis2_server.jobs.export_calls import ExportCalls
from trellis2_server.jobs.lookups import Lookups
from trellis2_server.jobs.maintenance import EngineMaintenance
from trellis2_server.jobs.matching import JobMatcher
from trellis2_server.jobs.model_lifecycle import ModelLifecycle
from trellis2_server.jobs.observers import NullObserver
from trellis2_server.jobs.progress import ProgressReporter
from trellis2_server.jobs.queue import StepQueue
from trellis2_server.jobs.records import JobRecords
from trellis2_server.jobs.registry import JobRegistry
from trellis2_server.jobs.results import JobResults
from trellis2_server.jobs.scheduler import Scheduler
from trellis2_server.jobs.step_calls import StepCalls
from trellis2_server.jobs.step_results import StepResults
from trellis2_server.jobs.step_runner import StepRunner
from trellis2_server.jobs.steps import device_steps
from trellis2_server.jobs.submissions import Submissions
from trellis2_server.jobs.subscriptions import Subscriptions
from trellis2_server.jobs.text_pictures import TextPictures
from trellis2_server.jobs.threads import ThreadPools
from trellis2_server.jobs.uploads import Uploads
from trellis2_server.jobs.waiting import ResultWaiter
from trellis2_server.jobs.webhooks import Webhooks
from trellis2_server.storage import make_store
from trellis2_server.storage.archive import Archive
from trellis2_server.thread_priority import device_niceness

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.jobs.executor import Executor
    from trellis2_server.jobs.observers import JobObserver
    from trellis2_server.settings import Settings
    from trellis2_server.storage.store import Store

#: How long a shutdown waits for the last results to be written, seconds.
ARCHIVE_GRACE_S: Final = 10.0


class JobManager:
    """The jobs of one executor. Make it and use it on a running event loop.

    `start` loads the engine in the background; `close` ends everything.

    Args:
        executor: does the steps.
        settings: limits and retention.
        observer: notified of what happens to jobs.
        store: where results are stored; None: as the settings say.
        clock: monotonic seconds.

    Attributes:
        is_drained: set after a fatal error, when no job is left that can still end.
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
        self.is_drained = asyncio.Event()
        self._settings = settings
        self._limits, self._clock = settings.worker, clock
        self._background: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._is_closed = asyncio.Event()
        observer = observer or NullObserver()
        self._build_state(store or make_store(self._limits.result_dir))
        self._build_threads(observer)
        self._build_steps(observer)
        self._build_requests()
        self._connect()

    # ---- construction --------------------------------------------------------------------

    def _build_state(self, store: Store) -> None:
        """Records, files and the jobs in progress."""
        settings = self._settings
        self.archive = Archive(store, max_evictable_bytes=self._limits.max_kept_bytes)
        self._records = JobRecords(self.archive, self._clock)
        # Decides, beside a request's key, whether two requests have the same result.
        export = settings.export
        origin = (
            __version__, self.executor.name, repr(settings.model), export.backend, export.unwrap,
        )  # fmt: skip
        self.registry = JobRegistry(self._records, origin)
        self.subscriptions = Subscriptions()
        self.active_jobs = ActiveJobs(self.registry, self.subscriptions, self._clock)
        self.availability = Availability()
        self.queue = StepQueue(device_steps(settings), self.subscriptions.touch)

    def _build_threads(self, observer: JobObserver) -> None:
        """What runs on threads, and the ends of jobs."""
        executor, settings = self.executor, self._settings
        self.threads = ThreadPools(
            executor.cpu_workers,
            device_steps(settings),
            self._limits.limit_model_concurrency * executor.device_slots,
            self._limits.stage_timeout_seconds,
            device_slots=executor.device_slots,
            device_niceness=device_niceness(executor.describe()),
        )
        self.lifecycle = ModelLifecycle(executor, self.threads, settings, self._clock)
        abandoned_s = self._limits.abandoned_job_seconds
        self.endings = JobEndings(
            self.active_jobs, self.queue, self.lifecycle, self.availability, observer, abandoned_s
        )
        self.maintenance = EngineMaintenance(
            self.lifecycle,
            self.threads,
            self.availability,
            self.endings,
            settings.model.idle_unload_seconds,
        )
        self.export_calls = ExportCalls(
            self.threads, self.availability, self.endings, self._clock, self._limits
        )

    def _build_steps(self, observer: JobObserver) -> None:
        """Parts that run steps."""
        self.uploads = Uploads()
        self.lookups = Lookups(
            self.executor, self.threads, self.uploads, self.active_jobs, self.endings
        )
        self.matcher = JobMatcher(self.active_jobs, self.uploads, observer)
        self.estimator = Estimator(self.active_jobs, self.threads, self.lifecycle)
        progress = ProgressReporter(self.active_jobs, observer)
        self.step_results = StepResults(
            StepCalls(self.executor, self.active_jobs, progress),
            self.active_jobs,
            self.archive,
            self.matcher,
            self.availability,
            self.endings,
        )
        jobs, threads, durations = self.active_jobs, self.threads, self.estimator.durations
        self.runner = StepRunner(jobs, threads, self.lifecycle, self.endings, durations, observer)
        self.scheduler = Scheduler(
            self.queue,
            self.active_jobs,
            self.threads,
            self.runner,
            self.export_calls,
            self.maintenance,
        )

    def _build_requests(self) -> None:
        """What requests call."""
        self.admission = Admission(
            self._limits,
            self.availability,
            self.lifecycle,
            self.scheduler,
            self.active_jobs,
            self.lookups,
        )
        self.webhooks = Webhooks(self._settings.server, self.active_jobs, self.archive)
        self.text_pictures = TextPictures(self._settings, self.active_jobs, self.endings)
        self.submissions = Submissions(
            self.active_jobs,
            self.admission,
            self.matcher,
            self.lookups,
            self.step_results,
            self.text_pictures,
        )
        self.waiter = ResultWaiter(self.active_jobs, self.step_results, self.availability)
        self.results = JobResults(
            self.active_jobs, self.archive, self.export_calls, self.executor, self._limits
        )
        self._cleanup = Cleanup(
            self._limits, self.active_jobs, self.archive, self.endings, self.scheduler, self.lookups
        )
        self.clean_up = self._cleanup.run

    def _connect(self) -> None:
        """Connect the callbacks: the end of a step may start another one."""
        self.submissions.engine = self.executor.name
        self.text_pictures.start_job = self.step_results.start_job
        self._records.on_webhook = self.webhooks.restore
        self.archive.on_stored = self.results.note_stored
        self.archive.on_opened = partial(self.results.restore, self._records)
        self.runner.results = self.step_results
        self.step_results.enqueue = self.scheduler.enqueue
        self.scheduler.on_room = self.lookups.wake
        self.submissions.on_request = self.scheduler.wake
        self.runner.on_end = self.scheduler.wake
        self.export_calls.on_change = self.scheduler.wake
        self.maintenance.on_change = self.scheduler.wake
        self.lookups.on_end = self.scheduler.wake
        self.threads.on_free = self.scheduler.wake
        self.endings.on_failure = self.scheduler.wake_soon

    # ---- life ----------------------------------------------------------------------------

    def start(self) -> None:
        """Read stored jobs, start to load the engine, and start the cleanup."""
        self._loop = asyncio.get_running_loop()
        self.results.restore(self._records, self.archive.open())
        self.clean_up()
        for coroutine in (self._load(), self._cleanup.run_regularly(), self._drain()):
            task = self._loop.create_task(coroutine)
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def _load(self) -> None:
        try:
            await self.lifecycle.load()
        except EngineBrokenError as error:
            self.endings.fail_permanently(str(error))
        self.maintenance.schedule_idle_unload()
        self.scheduler.wake()

    async def _drain(self) -> None:
        """After a fatal error, let the jobs end that can, within the grace."""
        await self.availability.has_failed.wait()
        self.lookups.fail_all(unhealthy(str(self.availability.fatal_error)), running=False)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(
                self.availability.is_settled.wait(), self._settings.server.shutdown_grace_seconds
            )
        self.endings.fail_all(
            UnhealthyError("the server is unhealthy and restarts", retry_after_s=30)
        )
        self.is_drained.set()

    async def close(self) -> None:
        """Accept no more work, let running steps end within the grace, answer all requests."""
        if self.availability.is_closing:
            await self._is_closed.wait()
            return
        self.availability.is_closing = self.lifecycle.is_stopped = True
        self.maintenance.cancel_idle_unload()
        self._refuse(running=False)
        if not self.is_drained.is_set():
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(
                    self.scheduler.is_idle.wait(), self._settings.server.shutdown_grace_seconds
                )
        self.webhooks.close()
        self._refuse(running=True)
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self.threads.close()
        self.executor.close()
        self.results.close()
        with suppress(asyncio.TimeoutError):  # a disk that does not answer
            await asyncio.wait_for(self.archive.close(), ARCHIVE_GRACE_S)
        self._is_closed.set()

    def _refuse(self, *, running: bool) -> None:
        """End all work that waits, or work that runs, too: the process shuts down."""
        for part in (self.endings, self.export_calls, self.lookups):
            part.fail_all(shutting_down(), running=running)

    def close_soon(self) -> None:
        """Start `close` on the event loop; may be called from a signal handler."""

        def begin() -> None:  # referenced, because a task without a reference may be collected
            self._closing.add(self._loop.create_task(self.close()))

        self._loop.call_soon_threadsafe(begin)

    # ---- state ---------------------------------------------------------------------------

    @property
    def unavailable_reason(self) -> str | None:
        """Why nothing is served, loading aside; None: requests are served."""
        if self.availability.is_closing:
            return SHUTTING_DOWN
        return self.availability.fatal_error or self.lifecycle.error

    @property
    def is_idle(self) -> bool:
        """Whether no thread works."""
        return (
            self.scheduler.is_idle.is_set()
            and not self.threads.lookups
            and not self.threads.hung
            and self.lifecycle.status != "loading"
            and self.archive.is_idle
        )
