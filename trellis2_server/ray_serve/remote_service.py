"""`RemoteJobService`: the job service of an ingress, which calls the jobs process.

Does not know: HTTP, how a method is implemented.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from weakref import WeakValueDictionary

from grpc import RpcError
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from trellis2_server.errors import ServerError, UnavailableError
from trellis2_server.jobs.job import ANONYMOUS
from trellis2_server.jobs.service import ExportedModel, Health, JobService
from trellis2_server.ray_serve.deployments import JOBS
from trellis2_server.ray_serve.liveness import Liveness, NoAnswerError
from trellis2_server.storage.content import BytesContent

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from trellis2_server.jobs.job import Caller, Job
    from trellis2_server.jobs.service import JobView
    from trellis2_server.parameters import DerivedForm, FileForm, Options
    from trellis2_server.storage.content import Content
    from trellis2_server.storage.store import Artifact

M = TypeVar("M", bound="Callable[..., Coroutine[Any, Any, Any]]")

logger = logging.getLogger(__name__)

#: Time limit of a call that waits for nothing, seconds.
ANSWER_TIMEOUT_S: Final = 20.0
#: Time limit of `health`, seconds.
HEALTH_TIMEOUT_S: Final = 5.0
#: Time between two messages of an ingress about the requests it has answered, seconds.
METRICS_INTERVAL_S: Final = 1.0
#: Exceptions of calls that the jobs process does not answer.
_UNREACHABLE: Final = (RayError, RayServeException, RpcError, NoAnswerError)
#: `Retry-After` when the jobs process does not answer, seconds.
RETRY_AFTER_S: Final = 5


def _remote(method: M, timeout_s: float | None) -> M:
    """Return a method that calls the method of that name in the jobs process.

    Args:
        method: a method of `JobService`, a coroutine function.
        timeout_s: time limit of the answer, seconds; None: as long as the jobs process lives.
    """

    @functools.wraps(method)
    async def call(self: RemoteJobService, *args: Any, **named: Any) -> Any:
        return await self.call(method.__name__, timeout_s, *args, **named)

    return cast("M", call)


class RemoteJobService(JobService):
    """Calls the jobs process of this application; opened while the ingress runs."""

    def __init__(self) -> None:
        self._is_closing = False
        self._liveness = Liveness(self._probe, ANSWER_TIMEOUT_S)
        self._answered: list[tuple[str, str, int, float, int, int]] = []
        self._contents: WeakValueDictionary[tuple[Artifact, DerivedForm], BytesContent] = (
            WeakValueDictionary()
        )

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[RemoteJobService]:
        """Connect to the jobs process; must run in a replica of Serve."""
        app = serve.get_replica_context().app_name
        # Not as a Ray task: a replica stands still while it sends results of one to a machine that
        # is cut off (`WaitAllObjectsReported`), for all callers.
        self._handle = serve.get_deployment_handle(JOBS, app).options(_by_reference=False)
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(each) for each in (self._send_metrics(), self._liveness.run())]
        try:
            yield self
        finally:
            self._is_closing = True
            for task in tasks:
                task.cancel()

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

    async def call(self, method: str, timeout_s: float | None, /, *args: Any, **named: Any) -> Any:
        """Call a method of the jobs process.

        Args:
            method: name of the method of `JobService`.
            timeout_s: time limit of the answer, seconds; None: as long as the jobs process lives.
            args: positional arguments of the method.
            named: keyword arguments of the method.

        Raises:
            ServerError: raised by the method.
            UnavailableError: there is no answer.
        """
        response = self._handle.call.remote(method, *args, **named)
        answer = await self._await(response, timeout_s)
        if isinstance(answer, ServerError):
            raise answer
        return answer

    async def _await(self, response: Any, timeout_s: float | None) -> Any:
        async def answer() -> Any:
            return await response

        try:
            if timeout_s is None:
                return await self._liveness.wait_for(answer())
            return await asyncio.wait_for(answer(), timeout_s)
        except RayTaskError as error:  # a bug; its traceback belongs in the log only
            raise RuntimeError("the jobs process failed") from error
        except (*_UNREACHABLE, asyncio.TimeoutError) as error:
            logger.warning("No answer from the jobs process: %s", type(error).__name__)
            raise UnavailableError(
                "the jobs process does not answer, it may be restarting; try again",
                retry_after_s=RETRY_AFTER_S,
            ) from error

    async def _probe(self) -> None:
        await self._handle.answer.remote()

    # ---- the methods of `JobService` -----------------------------------------------------

    @property
    def is_closing(self) -> bool:
        """Whether this ingress is shutting down."""
        return self._is_closing

    async def health(self) -> Health:
        """Return the state of the cluster; its status is "error" while there is no answer."""
        try:
            return await self.call("health", HEALTH_TIMEOUT_S)
        except UnavailableError as error:
            return Health(status="error", engine="", error=str(error))

    async def watch(self, job: Job, *, heartbeat_s: float) -> AsyncGenerator[JobView | None]:
        """See `JobService.watch`; ends when the jobs process does."""
        stream: Any = self._handle.options(stream=True).watch.remote(job, heartbeat_s=heartbeat_s)
        try:
            while True:
                yield await self._liveness.wait_for(anext(stream))
        except StopAsyncIteration:
            return
        except _UNREACHABLE as error:
            logger.warning("The connection of a subscription was lost: %s", type(error).__name__)
        finally:
            stream.cancel()

    metrics = _remote(JobService.metrics, ANSWER_TIMEOUT_S)
    submit = _remote(JobService.submit, ANSWER_TIMEOUT_S)
    submit_text = _remote(JobService.submit_text, ANSWER_TIMEOUT_S)
    identify = _remote(JobService.identify, None)  # may cut the picture out
    find_by_shape = _remote(JobService.find_by_shape, ANSWER_TIMEOUT_S)
    get_job = _remote(JobService.get_job, ANSWER_TIMEOUT_S)
    get_view = _remote(JobService.get_view, ANSWER_TIMEOUT_S)
    list_jobs = _remote(JobService.list_jobs, ANSWER_TIMEOUT_S)
    wait_for_shape = _remote(JobService.wait_for_shape, None)
    wait_for_texture = _remote(JobService.wait_for_texture, None)
    add_webhook = _remote(JobService.add_webhook, ANSWER_TIMEOUT_S)
    create_alias = _remote(JobService.create_alias, ANSWER_TIMEOUT_S)
    delete = _remote(JobService.delete, ANSWER_TIMEOUT_S)
    get_file = _remote(JobService.get_file, ANSWER_TIMEOUT_S)
    find_conversion = _remote(JobService.find_conversion, ANSWER_TIMEOUT_S)

    # ---- files: the jobs process sends their bytes ---------------------------------------

    async def read_file(self, artifact: Artifact | None) -> Content:
        """See `JobService.read_file`."""
        return self._known(artifact, "glb") or self._share(
            artifact, "glb", await self.call("read_file", ANSWER_TIMEOUT_S, artifact)
        )

    async def convert(
        self,
        model: Artifact | None,
        file_type: DerivedForm,
        caller: Caller = ANONYMOUS,
        *,
        is_delivery: bool = False,
    ) -> Content:
        """See `JobService.convert`."""
        if file_type == "glb":
            return await self.read_file(model)
        return self._known(model, file_type) or self._share(
            model,
            file_type,
            await self.call("convert", None, model, file_type, caller, is_delivery=is_delivery),
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
        """See `JobService.export`."""
        named = {"texture": texture, "file_type": file_type}
        content, warnings = await self.call("export", None, job, options, caller, **named)
        return ExportedModel(BytesContent(content), warnings)

    def _known(self, model: Artifact | None, file_type: DerivedForm) -> Content | None:
        """Return the content that responses of this ingress still send; None: there is none."""
        return None if model is None else self._contents.get((model, file_type))

    def _share(self, model: Artifact | None, file_type: DerivedForm, content: bytes) -> Content:
        """Return one content for all responses that send the same file."""
        if model is None:
            return BytesContent(content)
        return self._contents.setdefault((model, file_type), BytesContent(content))
