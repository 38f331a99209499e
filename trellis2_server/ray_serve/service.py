"""`JobServiceReplica` has the job table; `RemoteJobService` asks it, wherever it is.

There is one desk, so that every ingress gives the same answers. An ingress that ends takes
nothing along but the connections of its clients.

What this module does not know: HTTP, what a step does.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from trellis2_server import logs
from trellis2_server.api.metrics import Metrics
from trellis2_server.errors import ServerError, UnavailableError
from trellis2_server.jobs.job import ANYBODY
from trellis2_server.jobs.manager import JobManager
from trellis2_server.jobs.service import Health, JobView, LocalJobService
from trellis2_server.ray_serve.executor import ClusterExecutor
from trellis2_server.ray_serve.replicas import DESK
from trellis2_server.ray_serve.stream import bare

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from trellis2_server.jobs.job import Caller, Job
    from trellis2_server.parameters import Delivery, Options
    from trellis2_server.ray_serve.settings import ClusterSettings
    from trellis2_server.settings import Settings
    from trellis2_server.storage.store import Artifact

logger = logging.getLogger(__name__)

#: How long the desk may take for an answer that waits for nothing.
ANSWER_TIMEOUT_S: Final = 20.0
#: … and for saying how it is.
HEALTH_TIMEOUT_S: Final = 5.0
#: Between two times that an ingress tells of the requests it has answered.
TELL_INTERVAL_S: Final = 1.0
#: What a client is told to wait for when the desk is not there.
RETRY_AFTER_S: Final = 5


class ClusterJobService(LocalJobService):
    """The desk of a fleet's worker: knows how the engines are."""

    def __init__(
        self, manager: JobManager, metrics: Metrics, executor: ClusterExecutor, notes: Sequence[str]
    ) -> None:
        super().__init__(manager, metrics, notes)
        self._executor = executor

    async def health(self) -> Health:
        """How the worker is, and the engines."""
        health = await super().health()
        notes = [*health.notes, *self._executor.notes]
        trouble = self._executor.trouble
        if health.status == "ok" and trouble is not None:
            health = replace(health, status="error", error=trouble)
        return replace(health, notes=notes)


class JobServiceReplica:
    """The worker, in the one replica of its deployment.

    Args:
        settings: the whole configuration.
        cluster: how much of the cluster is used.
        engine: the engine's name.
        engines: handle of the engines.
        cutters: handle of the cutters.
        notes: what the operator should know.
    """

    async def __init__(  # noqa: PLR0913, PLR0917 - what it works with
        self,
        settings: Settings,
        cluster: ClusterSettings,
        engine: str,
        engines: Any,
        cutters: Any,
        notes: Sequence[str],
    ) -> None:
        logs.configure(settings.server)
        self._metrics = Metrics()
        app = serve.get_replica_context().app_name
        self._executor = ClusterExecutor(settings, cluster, engine, engines, cutters, app)
        self._looking = asyncio.get_running_loop().create_task(self._executor.look_after())
        self._manager = JobManager(self._executor, _job_settings(settings), self._metrics)
        self._manager.start()
        self._service = ClusterJobService(self._manager, self._metrics, self._executor, notes)

    async def ask(self, what: str, *args: Any, **named: Any) -> Any:
        """What the desk's method of that name gives, or the error that it raises."""
        try:
            return await getattr(self._service, what)(*args, **named)
        except ServerError as error:
            return bare(error)

    async def watch(self, job: Job, *, heartbeat_s: float) -> AsyncGenerator[JobView | None]:
        """The desk's."""
        async with aclosing(self._service.watch(job, heartbeat_s=heartbeat_s)) as views:
            async for view in views:
                yield view

    async def note_requests(self, notes: Sequence[tuple[str, str, int, float, int, int]]) -> None:
        """Requests that an ingress has answered."""
        for note in notes:
            self._metrics.note_request(*note)

    async def note_engine(self, node: str, error: str | None) -> None:
        """Whether an engine could be loaded on that machine."""
        self._executor.note_engine(node, error)

    async def check_health(self) -> None:
        """Serve asks now and then; an error has it replace this process."""
        if self._manager.fault is not None:
            raise RuntimeError(self._manager.fault)

    async def __del__(self) -> None:
        """Serve is stopping this process: end every job, and write what is left."""
        self._looking.cancel()
        await self._manager.close()


def _job_settings(settings: Settings) -> Settings:
    """Without what each engine looks after itself: its device, and how long a stage may take."""
    manager = settings.worker.model_copy(
        update={
            "recycle_after_jobs": None,
            "max_vram_growth_mb": None,
            "stage_timeout_seconds": None,
        }
    )
    model = settings.model.model_copy(update={"idle_unload_seconds": None})
    return settings.model_copy(update={"worker": manager, "model": model})


class RemoteJobService:
    """Asks the desk of this application; a `desk.Desk`.

    Attributes:
        is_closing: whether this ingress is.
    """

    def __init__(self) -> None:
        self.is_closing = False
        self._notes: list[tuple[str, str, int, float, int, int]] = []

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[RemoteJobService]:
        """Itself, as long as the ingress runs."""
        app = serve.get_replica_context().app_name
        self._handle = serve.get_deployment_handle(DESK, app)
        telling = asyncio.get_running_loop().create_task(self._tell())
        try:
            yield self
        finally:
            self.is_closing = True
            telling.cancel()

    def note_request(  # noqa: PLR0913, PLR0917 - as of `Metrics.note_request`
        self, method: str, route: str, status: int, seconds: float, received: int, sent: int
    ) -> None:
        """A request has been answered."""
        self._notes.append((method, route, status, seconds, received, sent))

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(TELL_INTERVAL_S)
            notes, self._notes = self._notes, []
            if notes:
                with suppress(UnavailableError):
                    await self._await(self._handle.note_requests.remote(notes), ANSWER_TIMEOUT_S)

    async def _ask(
        self, what: str, *args: Any, within_s: float | None = ANSWER_TIMEOUT_S, **named: Any
    ) -> Any:
        answer = await self._await(self._handle.ask.remote(what, *args, **named), within_s)
        if isinstance(answer, ServerError):
            raise answer
        return answer

    async def _await(self, response: Any, within_s: float | None) -> Any:
        async def answer() -> Any:
            return await response

        try:
            return await asyncio.wait_for(answer(), within_s)
        except RayTaskError as error:  # a bug: its traceback is for the log alone
            raise RuntimeError("the desk failed") from error
        except (RayError, RayServeException, asyncio.TimeoutError) as error:
            logger.warning("The desk does not answer: %s", type(error).__name__)
            raise UnavailableError(
                "the process with the job table does not answer, it may be restarting; ask again",
                retry_after_s=RETRY_AFTER_S,
            ) from error

    # ---- the desk's calls ----------------------------------------------------------------

    async def health(self) -> Health:
        """The desk's; "error" as long as it does not answer."""
        try:
            return await self._ask("health", within_s=HEALTH_TIMEOUT_S)
        except UnavailableError as error:
            return Health(status="error", engine="", error=str(error))

    async def metrics(self) -> bytes:
        """The desk's, with the requests of every ingress."""
        return await self._ask("metrics")

    async def submit(
        self,
        picture: bytes,
        options: Options,
        caller: Caller = ANYBODY,
        *,
        texture: bool | None,
        mesh: bytes | None = None,
    ) -> Job:
        """The desk's."""
        return await self._ask("submit", picture, options, caller, texture=texture, mesh=mesh)

    async def served(self, mesh_md5: str | None, caller: Caller = ANYBODY) -> Job | None:
        """The desk's."""
        return await self._ask("served", mesh_md5, caller)

    async def name_of(
        self, picture: bytes, caller: Caller = ANYBODY, *, remove_background: bool
    ) -> str:
        """The desk's; it may have to cut the picture out."""
        return await self._ask(
            "name_of", picture, caller, remove_background=remove_background, within_s=None
        )

    async def job(self, name: str, caller: Caller = ANYBODY) -> Job:
        """The desk's."""
        return await self._ask("job", name, caller)

    async def look(self, name: str, caller: Caller = ANYBODY) -> JobView:
        """The desk's."""
        return await self._ask("look", name, caller)

    async def jobs(
        self, caller: Caller = ANYBODY, *, limit: int, before: str | None = None
    ) -> tuple[Sequence[JobView], bool]:
        """The desk's."""
        return await self._ask("jobs", caller, limit=limit, before=before)

    async def watch(self, job: Job, *, heartbeat_s: float) -> AsyncGenerator[JobView | None]:
        """The desk's; ends when the desk does."""
        stream: Any = self._handle.options(stream=True).watch.remote(job, heartbeat_s=heartbeat_s)
        try:
            async for view in stream:
                yield view
        except (RayError, RayServeException) as error:
            logger.warning("The desk has left a listener: %s", type(error).__name__)
        finally:
            stream.cancel()

    async def shape(self, job: Job) -> Job:
        """The desk's, however long it takes."""
        return await self._ask("shape", job, within_s=None)

    async def texture(self, job: Job, timeout_s: float | None = None) -> Job:
        """The desk's, however long it takes."""
        return await self._ask("texture", job, timeout_s, within_s=None)

    async def ticket(self, job: Job, wanted: Delivery) -> str:
        """The desk's."""
        return await self._ask("ticket", job, wanted)

    async def delete(self, name: str, caller: Caller = ANYBODY) -> None:
        """The desk's."""
        await self._ask("delete", name, caller)

    async def file(
        self, name: str, file_name: str, caller: Caller = ANYBODY
    ) -> tuple[Job, Artifact]:
        """The desk's."""
        return await self._ask("file", name, file_name, caller)

    async def content(self, artifact: Artifact | None) -> bytes:
        """The desk's."""
        return await self._ask("content", artifact)

    async def export(self, job: Job, options: Options, *, texture: bool | None) -> bytes:
        """The desk's, however long it takes."""
        return await self._ask("export", job, options, texture=texture, within_s=None)
