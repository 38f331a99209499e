"""`LocalJobService`: the job service of the process that has the jobs.

What it tells of a job is saved before: a client that has received a file, or was told that a job
is completed or deleted, finds it so after the process was killed.

Does not know: HTTP, how a job is worked on.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.errors import JobNotFoundError, UnavailableError
from trellis2_server.jobs.job import ANONYMOUS
from trellis2_server.jobs.service import Health, JobView
from trellis2_server.parameters import Delivery

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from trellis2_server.jobs.job import Caller, Job
    from trellis2_server.jobs.manager import JobManager
    from trellis2_server.jobs.service import ExportedModel, MetricsRenderer
    from trellis2_server.jobs.webhook import Webhook
    from trellis2_server.parameters import DerivedForm, FileForm, Options
    from trellis2_server.storage.content import Content
    from trellis2_server.storage.store import Artifact

logger = logging.getLogger(__name__)

#: Minimum time between two states that a subscription receives, seconds.
WATCH_INTERVAL_S: Final = 0.1
#: Why a deletion is not confirmed.
_NOT_DELETED: Final = (
    "the folder for results fails: the job is not served any more, but may be again after a "
    "restart; it is deleted when the folder can be written to"
)


class LocalJobService:
    """Serves the jobs of a manager; a `JobService`.

    Args:
        manager: started.
        metrics: renders the metrics of this process.
        notes: notes for the operator, part of the health.
    """

    def __init__(
        self, manager: JobManager, metrics: MetricsRenderer, notes: Sequence[str] = ()
    ) -> None:
        self.manager = manager
        self._metrics = metrics
        self._notes = tuple(notes)
        self._registry = manager.registry
        self._active_jobs = manager.active_jobs
        self._results = manager.results
        self._archive = manager.archive
        self.submit = manager.submissions.submit
        self.submit_text = manager.submissions.submit_text
        self.identify = manager.submissions.identify
        self.read_file = manager.results.open_file

    @property
    def is_closing(self) -> bool:
        """Whether this process is shutting down."""
        return self.manager.availability.is_closing

    async def health(self) -> Health:
        """Return the state of the manager and of its engine."""
        lifecycle, error = self.manager.lifecycle, self.manager.unavailable_reason
        executor = self.manager.executor
        is_loaded = lifecycle.is_resident or lifecycle.is_reloading
        return Health(
            status="error" if error else lifecycle.status,
            engine=executor.name,
            error=error,
            stage=lifecycle.stage,
            fraction=lifecycle.fraction,
            is_idle=lifecycle.status == "ok" and not is_loaded,
            is_reloading=lifecycle.is_reloading,
            load_seconds=lifecycle.seconds,
            memory=lifecycle.memory,
            notes=[*self._notes, *self._results.notes],
            details=dict(executor.describe()),
            queue_length=self.manager.scheduler.length,
            jobs=Counter(job.status for job in self._registry),
            background_model=executor.background_model(),
        )

    async def metrics(self) -> bytes:
        """Return the metrics of this process."""
        return self._metrics.render(await self.health())

    # ---- finding jobs --------------------------------------------------------------------

    async def find_by_shape(self, mesh_md5: str | None, caller: Caller = ANONYMOUS) -> Job | None:
        """Return the caller's job whose untextured GLB has that MD5."""
        job = self._registry.find_by_shape(mesh_md5, caller.owner) if mesh_md5 else None
        if job:
            self._active_jobs.note_request(job.uid)
        return job

    async def get_job(self, name: str, caller: Caller = ANONYMOUS) -> Job:
        """Return the caller's job with that uid, alias or image hash."""
        return self._find(name, caller)

    async def get_view(self, name: str, caller: Caller = ANONYMOUS) -> JobView:
        """Return the same job with the state around it."""
        delivery = self._registry.alias_delivery(name)
        job = self._find(name, caller)
        view = self._view(job, delivery if isinstance(delivery, Delivery) else None)
        await self._archive.wait_until_saved(job.uid)
        return view

    async def list_jobs(
        self, caller: Caller = ANONYMOUS, *, limit: int, before: str | None = None
    ) -> tuple[list[JobView], bool]:
        """Return the caller's jobs, newest first, and whether there are more."""
        jobs = self._registry.list_newest(caller.owner)
        if before is not None:
            uid = self._registry.get(before, caller.owner).uid
            jobs = jobs[next(at for at, job in enumerate(jobs, 1) if job.uid == uid) :]
        views = [self._view(job) for job in jobs[:limit]]
        for view in views:
            await self._archive.wait_until_saved(view.job.uid)
        return views, len(jobs) > limit

    def _find(self, name: str, caller: Caller) -> Job:
        job = self._registry.get(name, caller.owner)
        self._active_jobs.note_request(job.uid)
        return job

    def _view(self, job: Job, delivery: Delivery | None = None) -> JobView:
        active = self._active_jobs.get(job.uid)
        return JobView(
            job,
            queue_position=self.manager.scheduler.position(active) if active else None,
            eta_s=self.manager.estimator.eta_s(active) if active else None,
            files=self._results.files(job),
            can_export=self._results.can_export(job),
            delivery=delivery,
        )

    # ---- waiting for results -------------------------------------------------------------

    async def wait_for_shape(self, job: Job) -> Job:
        """Return the job with its untextured GLB, once that exists and is saved."""
        job = await self.manager.waiter.wait_for_shape(job)
        await self._archive.wait_until_saved(job.uid)
        return job

    async def wait_for_texture(self, job: Job, timeout_s: float | None = None) -> Job:
        """Return the job with its textured GLB, once that exists and is saved."""
        job = await self.manager.waiter.wait_for_texture(job, timeout_s)
        await self._archive.wait_until_saved(job.uid)
        return job

    # ---- following and ending jobs -------------------------------------------------------

    async def watch(self, job: Job, *, heartbeat_s: float) -> AsyncGenerator[JobView | None]:
        """Yield the job's state now and after each change, until it is finished."""
        try:
            # It may have changed since the caller got it, before there was a subscription.
            job = self._registry.get(job.uid, job.owner)
        except JobNotFoundError:
            return
        with self._active_jobs.subscriptions.subscribe(job) as subscription:
            while True:
                state = subscription.job
                view = self._view(state)
                await self._archive.wait_until_saved(state.uid)
                yield view
                if state.status.is_finished:
                    return
                await subscription.pause(WATCH_INTERVAL_S)
                while not await subscription.wait(heartbeat_s):
                    yield None

    async def create_alias(self, job: Job, delivery: Delivery) -> str:
        """Return another uid of the job, which also stands for what is to be delivered."""
        alias = self._registry.create_alias(job, delivery)
        await self._archive.wait_until_saved(self._registry.get(alias, job.owner).uid)
        return alias

    async def add_webhook(self, job: Job, webhook: Webhook) -> None:
        """Send messages about a job to a URL; it is stored before this returns."""
        await self.manager.webhooks.add(job, webhook)

    def render_webhooks(self, render: Callable[[JobView], dict[str, Any]]) -> None:
        """Have the messages of webhooks contain what this function returns of a job."""
        self.manager.webhooks.render = lambda job: render(self._view(job))

    async def delete(self, name: str, caller: Caller = ANONYMOUS) -> None:
        """Cancel the caller's job or, if it is finished, delete it."""
        job = self._registry.get(name, caller.owner)
        if not self._registry.remove_client(job.uid, caller.client):
            return
        if job.status.is_finished:
            self._results.delete(job)
            logger.info("Job deleted", extra={"uid": job.uid})
            if not await self._archive.wait_until_deleted(job.uid):
                raise UnavailableError(_NOT_DELETED, retry_after_s=60)
            return
        active = self._active_jobs.get(job.uid)
        if active:
            self.manager.endings.cancel(active)
            await self._archive.wait_until_saved(job.uid)

    # ---- files ---------------------------------------------------------------------------

    async def get_file(
        self, name: str, file_name: str, caller: Caller = ANONYMOUS
    ) -> tuple[Job, Artifact]:
        """Return the caller's job, and one of its files."""
        job = self._find(name, caller)
        file = self._results.file(job, file_name)
        await self._archive.wait_until_saved(job.uid)
        return job, file

    async def find_conversion(self, model: Artifact, file_type: DerivedForm) -> Artifact | None:
        """Return the stored conversion of a model; None: it has to be made."""
        return self._results.find_conversion(model, file_type)

    async def convert(
        self,
        model: Artifact | None,
        file_type: DerivedForm,
        caller: Caller = ANONYMOUS,
        *,
        is_delivery: bool = False,
    ) -> Content:
        """Return a stored model in that file type, or a picture of it."""
        is_made = (
            model is None or file_type == "glb" or await self.find_conversion(model, file_type)
        )
        if not (is_made or is_delivery):
            self.manager.admission.check_queue()
        return await self._results.convert(
            model, file_type, caller.client, may_refuse=not is_delivery
        )

    async def export(
        self,
        job: Job,
        options: Options,
        caller: Caller = ANONYMOUS,
        *,
        texture: bool | None,
        file_type: FileForm = "glb",
    ) -> ExportedModel:
        """Return the job's model with other options."""
        self.manager.admission.check_open()
        self.manager.admission.check_queue()
        return await self._results.export(
            job, options, caller.client, texture=texture, file_type=file_type
        )
