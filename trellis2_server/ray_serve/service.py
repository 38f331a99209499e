"""The job service of a cluster: `JobServiceReplica` has the jobs, `RemoteJobService` calls it.

There is one process with the jobs, so that every ingress gives the same answers. When an ingress
ends, only the connections of its clients are lost.

Does not know: HTTP, how a step is done.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from trellis2_server import logs
from trellis2_server.api.metrics import Metrics
from trellis2_server.errors import ServerError, UnavailableError
from trellis2_server.jobs.local_service import LocalJobService
from trellis2_server.jobs.manager import JobManager
from trellis2_server.jobs.service import Health, JobService, JobView
from trellis2_server.ray_serve.executor import ClusterExecutor
from trellis2_server.ray_serve.replicas import JOBS
from trellis2_server.ray_serve.stream import bare

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from trellis2_server.jobs.job import Job
    from trellis2_server.ray_serve.settings import ClusterSettings
    from trellis2_server.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)

#: Time limit of a call that waits for nothing, seconds.
ANSWER_TIMEOUT_S: Final = 20.0
#: Time limit of `health`, seconds.
HEALTH_TIMEOUT_S: Final = 5.0
#: Time between two messages of an ingress about the requests it has answered, seconds.
METRICS_INTERVAL_S: Final = 1.0
#: `Retry-After` when the process with the jobs does not answer, seconds.
RETRY_AFTER_S: Final = 5


class ClusterJobService(LocalJobService):
    """The job service of a cluster: its health includes that of the engines."""

    def __init__(
        self, manager: JobManager, metrics: Metrics, executor: ClusterExecutor, notes: Sequence[str]
    ) -> None:
        super().__init__(manager, metrics, notes)
        self._executor = executor

    async def health(self) -> Health:
        """Return the state of the manager and of the engines."""
        health = await super().health()
        notes = [*health.notes, *self._executor.notes]
        trouble = self._executor.trouble
        if health.status == "ok" and trouble is not None:
            health = replace(health, status="error", error=trouble)
        return replace(health, notes=notes)


class JobServiceReplica:
    """The process with the jobs: the only replica of its deployment.

    Args:
        settings: the whole configuration.
        cluster: how much of the cluster is used.
        engine: the engine's name.
        engines: handle of the engines.
        cutters: handle of the cutters.
        notes: notes for the operator.
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

    async def call(self, what: str, *args: Any, **named: Any) -> Any:
        """Call a method of the service; return its result, or the error that it raised."""
        try:
            return await getattr(self._service, what)(*args, **named)
        except ServerError as error:
            return bare(error)

    async def watch(self, job: Job, *, heartbeat_s: float) -> AsyncGenerator[JobView | None]:
        """See `JobService.watch`."""
        async with aclosing(self._service.watch(job, heartbeat_s=heartbeat_s)) as views:
            async for view in views:
                yield view

    async def note_requests(self, notes: Sequence[tuple[str, str, int, float, int, int]]) -> None:
        """Count requests that an ingress has answered."""
        for note in notes:
            self._metrics.note_request(*note)

    async def note_engine(self, node: str, error: str | None) -> None:
        """Note whether an engine could be loaded on a machine."""
        self._executor.note_engine(node, error)

    async def check_health(self) -> None:
        """Raise if this process has to be replaced; Serve calls this regularly."""
        fatal_error = self._manager.availability.fatal_error
        if fatal_error is not None:
            raise RuntimeError(fatal_error)

    async def __del__(self) -> None:
        """End all jobs and write what is left: Serve stops this process."""
        self._looking.cancel()
        await self._manager.close()


def _job_settings(settings: Settings) -> Settings:
    """Return the settings without those that apply to each engine by itself."""
    manager = settings.worker.model_copy(
        update={
            "recycle_after_jobs": None,
            "max_vram_growth_mb": None,
            "stage_timeout_seconds": None,
        }
    )
    model = settings.model.model_copy(update={"idle_unload_seconds": None})
    return settings.model_copy(update={"worker": manager, "model": model})


def _remote(method: Callable[Concatenate[Any, P], Awaitable[T]], timeout_s: float | None) -> Any:
    """Return a method that calls the same one of the process with the jobs.

    Args:
        method: of `JobService`.
        timeout_s: time limit for the answer, seconds; None: no limit.
    """

    @functools.wraps(method)
    async def call(self: RemoteJobService, *args: P.args, **named: P.kwargs) -> T:
        return await self.call(method.__name__, timeout_s, *args, **named)

    return call


class RemoteJobService(JobService):
    """Calls the process with the jobs of this application."""

    def __init__(self) -> None:
        self._is_closing = False
        self._answered: list[tuple[str, str, int, float, int, int]] = []

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[RemoteJobService]:
        """Connect while the ingress runs."""
        app = serve.get_replica_context().app_name
        self._handle = serve.get_deployment_handle(JOBS, app)
        sending = asyncio.get_running_loop().create_task(self._send_metrics())
        try:
            yield self
        finally:
            self._is_closing = True
            sending.cancel()

    def note_request(  # noqa: PLR0913, PLR0917 - see `Metrics.note_request`
        self, method: str, route: str, status: int, seconds: float, received: int, sent: int
    ) -> None:
        """Count an answered request."""
        self._answered.append((method, route, status, seconds, received, sent))

    async def _send_metrics(self) -> None:
        while True:
            await asyncio.sleep(METRICS_INTERVAL_S)
            answered, self._answered = self._answered, []
            if answered:
                with suppress(UnavailableError):
                    response = self._handle.note_requests.remote(answered)
                    await self._await(response, ANSWER_TIMEOUT_S)

    async def call(self, what: str, timeout_s: float | None, *args: Any, **named: Any) -> Any:
        """Call a method of the process with the jobs.

        Args:
            what: name of the method.
            timeout_s: time limit for the answer, seconds; None: no limit.
            args: of the method.
            named: of the method.

        Raises:
            ServerError: raised by the method.
            UnavailableError: there is no answer.
        """
        answer = await self._await(self._handle.call.remote(what, *args, **named), timeout_s)
        if isinstance(answer, ServerError):
            raise answer
        return answer

    async def _await(self, response: Any, timeout_s: float | None) -> Any:
        async def answer() -> Any:
            return await response

        try:
            return await asyncio.wait_for(answer(), timeout_s)
        except RayTaskError as error:  # a bug, whose traceback belongs into the log only
            raise RuntimeError("the process with the jobs failed") from error
        except (RayError, RayServeException, asyncio.TimeoutError) as error:
            logger.warning("No answer from the process with the jobs: %s", type(error).__name__)
            raise UnavailableError(
                "the process with the job table does not answer, it may be restarting; ask again",
                retry_after_s=RETRY_AFTER_S,
            ) from error

    # ---- the methods of `JobService` -----------------------------------------------------

    @property
    def is_closing(self) -> bool:
        """Whether this ingress is shutting down."""
        return self._is_closing

    async def health(self) -> Health:
        """Return the state of the cluster; "error" while there is no answer."""
        try:
            return await self.call("health", HEALTH_TIMEOUT_S)
        except UnavailableError as error:
            return Health(status="error", engine="", error=str(error))

    async def watch(self, job: Job, *, heartbeat_s: float) -> AsyncGenerator[JobView | None]:
        """See `JobService.watch`; ends when the process with the jobs does."""
        stream: Any = self._handle.options(stream=True).watch.remote(job, heartbeat_s=heartbeat_s)
        try:
            async for view in stream:
                yield view
        except (RayError, RayServeException) as error:
            logger.warning("A subscription was lost: %s", type(error).__name__)
        finally:
            stream.cancel()

    metrics = _remote(JobService.metrics, ANSWER_TIMEOUT_S)
    submit = _remote(JobService.submit, ANSWER_TIMEOUT_S)
    identify = _remote(JobService.identify, None)  # may cut the picture out
    find_by_shape = _remote(JobService.find_by_shape, ANSWER_TIMEOUT_S)
    get_job = _remote(JobService.get_job, ANSWER_TIMEOUT_S)
    get_view = _remote(JobService.get_view, ANSWER_TIMEOUT_S)
    list_jobs = _remote(JobService.list_jobs, ANSWER_TIMEOUT_S)
    wait_for_shape = _remote(JobService.wait_for_shape, None)
    wait_for_texture = _remote(JobService.wait_for_texture, None)
    create_alias = _remote(JobService.create_alias, ANSWER_TIMEOUT_S)
    delete = _remote(JobService.delete, ANSWER_TIMEOUT_S)
    get_file = _remote(JobService.get_file, ANSWER_TIMEOUT_S)
    read_file = _remote(JobService.read_file, ANSWER_TIMEOUT_S)
    export = _remote(JobService.export, None)
