"""`JobService`: all that the routes ask for, in calls that wait and in plain values.

`LocalJobService` asks the worker of this process. On a cluster the routes' process has another
one, which asks this one where the worker is.

What this module does not know: HTTP, how anything is done.
"""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from trellis2_server.jobs.job import ANYBODY, Status

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from trellis2_server.jobs.job import Caller, Job
    from trellis2_server.jobs.manager import JobManager
    from trellis2_server.parameters import Delivery, Options
    from trellis2_server.storage.store import Artifact


@dataclass(frozen=True, slots=True)
class JobView:
    """A job, and what changes around it.

    Attributes:
        job: as it is now.
        queue_position: as of `JobManager.queue_position`.
        eta_s: as of `JobManager.eta_s`.
        files: that are there.
        can_export: whether it can be exported again.
        wanted: what is wanted by the name that it was found by, where that is a ticket.
    """

    job: Job
    queue_position: int | None
    eta_s: float | None
    files: Sequence[Artifact]
    can_export: bool
    wanted: Delivery | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """How the server is.

    Attributes:
        status: "error" also when it is leaving, or when only a new process helps.
        engine: its name.
        error: why nothing is served.
        stage: what is being loaded; empty: nothing.
        fraction: 0 … 1 of that.
        is_idle: whether the model is unloaded until it is needed.
        is_reloading: whether it is being loaded again.
        load_seconds: how long loading took.
        memory: bytes of the device, by kind.
        notes: what the operator should know.
        details: the engine's own.
        queue_length: jobs running plus jobs waiting.
        jobs: how many are kept, by status.
    """

    status: Literal["loading", "ok", "error"]
    engine: str
    error: str | None = None
    stage: str = ""
    fraction: float = 0.0
    is_idle: bool = False
    is_reloading: bool = False
    load_seconds: float | None = None
    memory: Mapping[str, int] = field(default_factory=dict[str, int])
    notes: Sequence[str] = ()
    details: Mapping[str, object] = field(default_factory=dict[str, object])
    queue_length: int = 0
    jobs: Mapping[Status, int] = field(default_factory=dict[Status, int])


class MetricsRenderer(Protocol):
    """Who counts."""

    def render(self, health: Health) -> bytes:
        """What Prometheus reads."""
        ...


class JobService(Protocol):
    """Whoever answers the routes. Errors are those of the worker."""

    @property
    def is_closing(self) -> bool:
        """Whether this process is leaving."""
        ...

    async def health(self) -> Health:
        """How the server is; at any time, without an error."""
        ...

    async def metrics(self) -> bytes:
        """What Prometheus reads."""
        ...

    async def submit(
        self,
        picture: bytes,
        options: Options,
        caller: Caller = ANYBODY,
        *,
        texture: bool | None,
        mesh: bytes | None = None,
    ) -> Job:
        """As `JobManager.submit`."""
        ...

    async def served(self, mesh_md5: str | None, caller: Caller = ANYBODY) -> Job | None:
        """As `JobManager.served`."""
        ...

    async def name_of(
        self, picture: bytes, caller: Caller = ANYBODY, *, remove_background: bool
    ) -> str:
        """As `JobManager.name_of`."""
        ...

    async def job(self, name: str, caller: Caller = ANYBODY) -> Job:
        """As `JobManager.job`."""
        ...

    async def look(self, name: str, caller: Caller = ANYBODY) -> JobView:
        """The same, with what is around it."""
        ...

    async def jobs(
        self, caller: Caller = ANYBODY, *, limit: int, before: str | None = None
    ) -> tuple[Sequence[JobView], bool]:
        """As `JobManager.jobs`."""
        ...

    def watch(self, job: Job, *, heartbeat_s: float) -> AsyncGenerator[JobView | None]:
        """As `JobManager.watch`."""
        ...

    async def shape(self, job: Job) -> Job:
        """As `JobManager.shape`."""
        ...

    async def texture(self, job: Job, timeout_s: float | None = None) -> Job:
        """As `JobManager.texture`."""
        ...

    async def ticket(self, job: Job, wanted: Delivery) -> str:
        """As `JobManager.ticket`."""
        ...

    async def delete(self, name: str, caller: Caller = ANYBODY) -> None:
        """As `JobManager.delete`."""
        ...

    async def file(
        self, name: str, file_name: str, caller: Caller = ANYBODY
    ) -> tuple[Job, Artifact]:
        """That job, and that file of it.

        Raises:
            JobNotFoundError: one of them is not there.
        """
        ...

    async def content(self, artifact: Artifact | None) -> bytes:
        """As `Results.content`."""
        ...

    async def export(self, job: Job, options: Options, *, texture: bool | None) -> bytes:
        """As `JobManager.export`."""
        ...


class LocalJobService:
    """The worker of this process.

    Args:
        worker: started.
        meter: counts what happens here.
        notes: what the operator should know.
    """

    def __init__(
        self, manager: JobManager, meter: MetricsRenderer, notes: Sequence[str] = ()
    ) -> None:
        self._manager = manager
        self._meter = meter
        self._notes = tuple(notes)
        self.submit = manager.submit
        self.name_of = manager.name_of
        self.shape = manager.shape
        self.texture = manager.texture
        self.ticket = manager.ticket
        self.export = manager.export
        self.content = manager.results.content

    @property
    def is_closing(self) -> bool:
        """Whether the worker is."""
        return self._manager.is_closing

    async def health(self) -> Health:
        """How the worker and its engine are."""
        manager = self._manager
        load, error = manager.load, manager.why_not
        return Health(
            status="error" if error else load.status,
            engine=manager.executor.name,
            error=error,
            stage=load.stage,
            fraction=load.fraction,
            is_idle=load.status == "ok" and not load.is_resident and not load.is_reloading,
            is_reloading=load.is_reloading,
            load_seconds=load.seconds,
            memory=load.memory,
            notes=[*self._notes, *manager.results.notes],
            details=dict(manager.executor.describe()),
            queue_length=manager.queue_length,
            jobs=Counter(manager.count_jobs()),
        )

    async def metrics(self) -> bytes:
        """Of this process."""
        return self._meter.render(await self.health())

    async def served(self, mesh_md5: str | None, caller: Caller = ANYBODY) -> Job | None:
        """The worker's."""
        return self._manager.served(mesh_md5, caller)

    async def job(self, name: str, caller: Caller = ANYBODY) -> Job:
        """The worker's."""
        return self._manager.job(name, caller)

    async def look(self, name: str, caller: Caller = ANYBODY) -> JobView:
        """The worker's."""
        return self._view(self._manager.job(name, caller), self._manager.delivery(name))

    def _view(self, job: Job, wanted: Delivery | None = None) -> JobView:
        manager = self._manager
        return JobView(
            job,
            queue_position=manager.queue_position(job),
            eta_s=manager.eta_s(job),
            files=manager.results.files(job),
            can_export=manager.results.can_export(job),
            wanted=wanted,
        )

    async def jobs(
        self, caller: Caller = ANYBODY, *, limit: int, before: str | None = None
    ) -> tuple[list[JobView], bool]:
        """The worker's."""
        jobs, has_more = self._manager.jobs(caller, limit=limit, before=before)
        return [self._view(job) for job in jobs], has_more

    async def watch(self, job: Job, *, heartbeat_s: float) -> AsyncGenerator[JobView | None]:
        """The worker's."""
        async with aclosing(self._manager.watch(job, heartbeat_s=heartbeat_s)) as states:
            async for state in states:
                yield state and self._view(state)

    async def delete(self, name: str, caller: Caller = ANYBODY) -> None:
        """Have the worker do so."""
        self._manager.delete(name, caller)

    async def file(
        self, name: str, file_name: str, caller: Caller = ANYBODY
    ) -> tuple[Job, Artifact]:
        """The worker's."""
        job = self._manager.job(name, caller)
        return job, self._manager.results.file(job, file_name)
