"""`JobService`: everything that the routes call, in plain values.

`LocalJobService` (local_service.py) serves from this process. On a cluster, the process of the
routes has a service that forwards each call to the process with the jobs.

Does not know: HTTP, how anything is done.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from trellis2_server.jobs.job import ANONYMOUS, Status

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from trellis2_server.inputs.background import FetchState
    from trellis2_server.inputs.images import Pictures
    from trellis2_server.jobs.job import Caller, Job
    from trellis2_server.jobs.webhook import Webhook
    from trellis2_server.parameters import Delivery, DerivedForm, FileForm, Options
    from trellis2_server.request_fields import RemoveBackground
    from trellis2_server.storage.content import Content
    from trellis2_server.storage.store import Artifact


@dataclass(frozen=True, slots=True)
class JobView:
    """A job and the state around it.

    Attributes:
        job: the record.
        queue_position: position of its next step in the queue, from 1; None: not waiting.
        eta_s: estimated seconds until its present status ends; None: unknown.
        files: the files that exist.
        can_export: whether its geometry is stored, so that it can be exported again.
        delivery: what the alias that the job was found by stands for; None for other names.
    """

    job: Job
    queue_position: int | None
    eta_s: float | None
    files: Sequence[Artifact]
    can_export: bool
    delivery: Delivery | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """State of the server.

    Attributes:
        status: "error" also while it shuts down, and after a fatal error.
        engine: name of the engine.
        error: why nothing is served.
        stage: what is being loaded; empty: nothing.
        fraction: loaded part of that stage, 0 … 1.
        is_idle: whether the model is unloaded until the next job.
        is_reloading: whether it is being loaded again.
        load_seconds: duration of the last load.
        memory: device memory by kind, bytes.
        notes: notes for the operator.
        details: the engine's own details.
        queue_length: jobs that run or wait.
        jobs: number of stored jobs, by status.
        background_model: how far the background model is; None: unknown.
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
    background_model: FetchState | None = None


class ExportedModel(NamedTuple):
    """A model that was exported with other options than its job's.

    Attributes:
        content: the file.
        warnings: sentences for the client, about this file.
    """

    content: Content
    warnings: tuple[str, ...] = ()


class MetricsRenderer(Protocol):
    """Renders metrics for Prometheus."""

    def render(self, health: Health) -> bytes:
        """Return all metrics in Prometheus' text format."""
        ...


class JobService(Protocol):
    """The jobs, as the routes see them. Methods raise `ServerError`."""

    @property
    def is_closing(self) -> bool:
        """Whether this process is shutting down."""
        ...

    async def health(self) -> Health:
        """Return the state of the server; never fails."""
        ...

    async def metrics(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        ...

    async def submit(
        self,
        picture: Pictures,
        options: Options,
        caller: Caller = ANONYMOUS,
        *,
        texture: bool | None,
        mesh: bytes | None = None,
    ) -> Job:
        """Return the job for pictures and options; see `Submissions.submit`."""
        ...

    async def submit_text(
        self,
        text: str,
        options: Options,
        caller: Caller = ANONYMOUS,
        *,
        texture: bool | None,
        mesh: bytes | None = None,
    ) -> Job:
        """Return the job for a text, whose picture is made first; see `Submissions.submit_text`."""
        ...

    async def identify(
        self, picture: Pictures, caller: Caller = ANONYMOUS, *, remove_background: RemoveBackground
    ) -> str:
        """Return the name of a picture's job; see `Submissions.identify`."""
        ...

    async def find_by_shape(self, mesh_md5: str | None, caller: Caller = ANONYMOUS) -> Job | None:
        """Return the caller's job whose untextured GLB has that MD5; None: there is none."""
        ...

    async def get_job(self, name: str, caller: Caller = ANONYMOUS) -> Job:
        """Return the caller's job with that uid, alias or image hash.

        Raises:
            JobNotFoundError: the caller has no such job.
        """
        ...

    async def get_view(self, name: str, caller: Caller = ANONYMOUS) -> JobView:
        """Return the same job with the state around it.

        Raises:
            JobNotFoundError: the caller has no such job.
        """
        ...

    async def list_jobs(
        self, caller: Caller = ANONYMOUS, *, limit: int, before: str | None = None
    ) -> tuple[Sequence[JobView], bool]:
        """Return the caller's jobs, newest first, and whether there are more.

        Args:
            caller: the client.
            limit: maximum number of jobs.
            before: name of a job; the list starts after it.

        Raises:
            JobNotFoundError: the caller has no job `before`.
        """
        ...

    def watch(self, job: Job, *, heartbeat_s: float) -> AsyncGenerator[JobView | None]:
        """Yield the job's state now and after each change, until it is finished.

        Slow readers receive only the latest state. None: nothing has changed for `heartbeat_s`.
        """
        ...

    async def wait_for_shape(self, job: Job) -> Job:
        """Return the job with its untextured GLB; see `ResultWaiter.wait_for_shape`."""
        ...

    async def wait_for_texture(self, job: Job, timeout_s: float | None = None) -> Job:
        """Return the job with its textured GLB; see `ResultWaiter.wait_for_texture`."""
        ...

    async def create_alias(self, job: Job, delivery: Delivery) -> str:
        """Return another uid of the job, which also stands for what is to be delivered.

        It is stored before it is returned. The same delivery has the same alias.
        """
        ...

    async def add_webhook(self, job: Job, webhook: Webhook) -> None:
        """Send messages about a job to a URL; it is stored before this returns.

        Raises:
            InputError: the URL is not allowed, or the job has too many webhooks.
        """
        ...

    async def delete(self, name: str, caller: Caller = ANONYMOUS) -> None:
        """Cancel the caller's job or, if it is finished, delete it.

        A job that other clients have requested, too, stays theirs.

        Raises:
            JobNotFoundError: the caller has no such job.
            UnavailableError: the job is not served any more, but the store fails: it may be
                served again after a restart.
        """
        ...

    async def get_file(
        self, name: str, file_name: str, caller: Caller = ANONYMOUS
    ) -> tuple[Job, Artifact]:
        """Return the caller's job, and one of its files.

        Raises:
            JobNotFoundError: one of them does not exist.
        """
        ...

    async def read_file(self, artifact: Artifact | None) -> Content:
        """Return the content of a file; see `JobResults.open_file`."""
        ...

    async def find_conversion(self, model: Artifact, file_type: DerivedForm) -> Artifact | None:
        """Return the stored conversion of a model; None: `convert` would have to make it."""
        ...

    async def convert(
        self,
        model: Artifact | None,
        file_type: DerivedForm,
        caller: Caller = ANONYMOUS,
        *,
        is_delivery: bool = False,
    ) -> Content:
        """Return a stored GLB in that file type, or a picture of it; see `JobResults.convert`.

        Args:
            model: the GLB.
            file_type: the type; "glb": as `read_file`.
            caller: the client.
            is_delivery: whether the request has got its job before: it then waits for its turn,
                whatever the limits of the queue and of the client.

        Raises:
            UnavailableError: shutting down, the queue is full, or the client has
                `worker.max_exports_per_client` unfinished exports and conversions.
        """
        ...

    async def export(
        self,
        job: Job,
        options: Options,
        caller: Caller = ANONYMOUS,
        *,
        texture: bool | None,
        file_type: FileForm = "glb",
    ) -> ExportedModel:
        """Return the job's model with other options; see `JobResults.export`.

        Raises:
            UnavailableError: shutting down, the queue is full, or the client has
                `worker.max_exports_per_client` unfinished exports and conversions.
        """
        ...
