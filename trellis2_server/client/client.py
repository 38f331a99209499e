"""`Client` and `AsyncClient`, which a program uses.

Does not know: what an operation consists of, and how it is performed.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, TypeVar, cast

from trellis2_server.client.connection import TIMEOUT_S, Connection
from trellis2_server.client.options import check_names
from trellis2_server.client.progress import update_handler
from trellis2_server.client.protocol import events, generation, health, jobs
from trellis2_server.client.protocol.actions import handle_updates
from trellis2_server.client.protocol.download import download
from trellis2_server.client.protocol.generation import GenerationRequest
from trellis2_server.client.protocol.retry import Backoff
from trellis2_server.client.records import JobState
from trellis2_server.client.transport import AsyncTransport, BlockingTransport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
    from typing import Concatenate, Final, ParamSpec

    from typing_extensions import Self, Unpack

    from trellis2_server.client.options import FileType, Options
    from trellis2_server.client.progress import OnProgress, OnShape
    from trellis2_server.client.protocol.actions import File, Operation, Pictures
    from trellis2_server.client.records import Health, Result

    P = ParamSpec("P")

T = TypeVar("T")

#: How long to retry, seconds.
PATIENCE_S: Final = 300.0


class _BaseClient:
    """Constructor of both clients."""

    def __init__(
        self,
        server: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Prepare a client; connections are opened when they are needed.

        Args:
            server: address of the server; None: `TRELLIS2_SERVER`, or port 8082 of this machine.
            api_key: API key; None: `TRELLIS2_SERVER_API_KEY`, or no key. It is never shown.
            timeout_s: longest time without data before a connection counts as lost, seconds.
            patience_s: how long to retry while the server is unreachable or temporarily
                unavailable, seconds; 0 disables retries.

        Raises:
            UsageError: the address is invalid, or the key contains invalid characters.
        """
        connection = Connection(server, api_key=api_key, timeout_s=timeout_s)
        self.server = connection.server
        self._patience_s = patience_s
        self._open(connection)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.server!r})"

    def _open(self, connection: Connection) -> None:
        """Create the transport."""
        raise NotImplementedError

    def _backoff(self) -> Backoff:
        return Backoff(self._patience_s)


class Client(_BaseClient):
    """Blocking client of a server.

        with Client() as client:
            result = client.generate("photo.jpg", seed=7)
            Path("photo.glb").write_bytes(result.model)

    Several threads may use one client at the same time. All methods raise `ClientError`s only,
    apart from exceptions of a callback; each method documents the most important ones.

    Attributes:
        server: address of the server, without a slash at the end.
    """

    _transport: BlockingTransport

    def _open(self, connection: Connection) -> None:
        self._transport = BlockingTransport(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def generate(  # noqa: PLR0913 - keyword arguments of a public function
        self,
        picture: Pictures | None = None,
        *,
        text: str | None = None,
        image_url: str | None = None,
        mesh: File | None = None,
        texture: bool = True,
        shape: bool = True,
        type: FileType = "glb",  # noqa: A002 - as the API calls it
        on_progress: OnProgress | None = None,
        on_shape: OnShape | None = None,
        extra: Mapping[str, Any] | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Generate 3D models from a picture, or from what stands for it.

        Lost connections and interrupted downloads are resumed, and a job that the server has
        lost by a restart is submitted again. If a callback raises an exception, or the call is
        interrupted (KeyboardInterrupt, a cancelled task), the job is cancelled on the server.

        Args:
            picture: image file, or its path. Several pictures of one object: a list of them, the
                front first, or a mapping with `front`, `left`, `back` and `right`.
            text: words in place of a picture, where the server has a text-to-image model.
            image_url: URL of the picture, where the server may fetch from its host.
            mesh: mesh file (GLB, OBJ, PLY, STL) or its path, which is textured instead of
                generating a shape.
            texture: whether to generate a textured model.
            shape: whether to return the untextured model, too.
            type: file type of the models.
            on_progress: called with each change of the progress.
            on_shape: called with the untextured model while the texture is being generated.
            extra: further fields of the request, such as `webhook`, or of a newer server.
            **options: see `Options`.

        Raises:
            UsageError: an option is unknown, or a file cannot be read.
            UnreachableError: the server did not reply within `patience_s`.
            ReplyError: the server replied with an error.
            JobError: the job failed, was cancelled or was lost repeatedly.
        """
        fields = _merge(options, {"text": text, "image_url": image_url, **(extra or {})})
        request = GenerationRequest(picture, mesh, texture, shape, type, fields)
        operation = generation.generate(request, self._backoff())
        on_update = update_handler(on_progress, on_shape, texture=texture)
        return self._run(handle_updates(operation, on_update))

    def submit(  # noqa: PLR0913 - same
        self,
        picture: Pictures | None = None,
        *,
        text: str | None = None,
        image_url: str | None = None,
        mesh: File | None = None,
        texture: bool = True,
        type: FileType = "glb",  # noqa: A002 - as the API calls it
        extra: Mapping[str, Any] | None = None,
        **options: Unpack[Options],
    ) -> str:
        """Submit a job without waiting for it; return its uid.

        Arguments and exceptions are those of `generate`.
        """
        fields = _merge(options, {"text": text, "image_url": image_url, **(extra or {})})
        request = GenerationRequest(picture, mesh, texture, not texture, type, fields)
        return self._run(generation.submit(request, self._backoff()))

    def submit_text(self, text: str, *, texture: bool = True, **options: Unpack[Options]) -> str:
        """Submit a job from words, on a server that has pictures made; return its uid.

        Raises:
            RefusedError: the server has no text-to-image model.
        """
        fields = {**_merge(options, None), "text": text, "texture": texture}
        return self._run(generation.submit_text(fields, self._backoff()))

    def events(self, uid: str) -> Generator[JobState]:
        """Yield the state of a job and each further state, up to the last one.

        Raises:
            NotFoundError: the server has no such job, or no events.
        """
        updates = self._transport.updates(events.follow(uid, self._backoff()))
        with contextlib.closing(updates):
            for update in updates:
                if isinstance(update, JobState):
                    yield update

    def job(self, uid: str) -> JobState:
        """Return the state of a job."""
        return self._run(jobs.job(uid, self._backoff()))

    def jobs(self, *, limit: int = 20, before: str | None = None) -> list[JobState]:
        """Return one page of the server's jobs, most recent first.

        Args:
            limit: most jobs to return, 1 to 100.
            before: uid of the last job of the previous page.
        """
        return self._run(jobs.jobs(limit, before, self._backoff()))

    def download(self, uid: str, file: str = "textured.glb") -> bytes:
        """Return a file of a job: one of `JobState.files`, or a model in another file type."""
        return self._run(download(uid, file, self._backoff()))

    def export(self, uid: str, fields: Mapping[str, Any] | None = None) -> bytes:
        """Return the model of a finished job, exported again; the engine does not run.

        Args:
            uid: of the job.
            fields: those of `POST /jobs/{id}/export`, such as `type` and `decimation_target`.
        """
        return self._run(jobs.export(uid, fields or {}, self._backoff()))

    def cancel(self, uid: str) -> None:
        """Cancel an unfinished job, or delete a finished one and its files."""
        return self._run(jobs.cancel(uid, self._backoff()))

    def health(self) -> Health:
        """Return the state of the server, without retries."""
        return self._run(health.health())

    def wait_until_ready(
        self, limit_s: float = float("inf"), on_progress: OnProgress | None = None
    ) -> Health:
        """Wait until the server is ready to process requests; return its state.

        Args:
            limit_s: longest time to wait, seconds.
            on_progress: called with each change of the progress of loading.

        Raises:
            BusyError: loading takes longer than that, or has failed.
            UnreachableError: the server did not reply for longer than that.
        """
        operation = health.wait_until_ready(limit_s)
        return self._run(handle_updates(operation, update_handler(on_progress)))

    def _run(self, operation: Operation[T]) -> T:
        return self._transport.run(operation)


def _asynchronous(
    method: Callable[Concatenate[Client, P], T],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """Return the asynchronous form of a method of `Client`, with its signature and docstring.

    Such a method builds an operation and returns what `_run` makes of it: the result in `Client`,
    an awaitable in `AsyncClient`. One body thus serves both classes.
    """

    @functools.wraps(method)
    async def asynchronous(self: AsyncClient, *args: P.args, **kwargs: P.kwargs) -> T:
        return await cast("Any", method)(self, *args, **kwargs)

    return asynchronous


class AsyncClient(_BaseClient):
    """Asynchronous client of a server: the methods of `Client`, as coroutines.

        async with AsyncClient() as client:
            results = await asyncio.gather(*(client.generate(name) for name in names))

    Cancelling `generate` cancels its job on the server.

    Attributes:
        server: address of the server, without a slash at the end.
    """

    _transport: AsyncTransport

    def _open(self, connection: Connection) -> None:
        self._transport = AsyncTransport(connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    generate = _asynchronous(Client.generate)
    submit = _asynchronous(Client.submit)
    submit_text = _asynchronous(Client.submit_text)
    job = _asynchronous(Client.job)
    jobs = _asynchronous(Client.jobs)
    download = _asynchronous(Client.download)
    export = _asynchronous(Client.export)
    cancel = _asynchronous(Client.cancel)
    health = _asynchronous(Client.health)
    wait_until_ready = _asynchronous(Client.wait_until_ready)

    async def events(self, uid: str) -> AsyncGenerator[JobState]:
        """Yield the state of a job and each further state; see `Client.events`."""
        updates = self._transport.updates(events.follow(uid, self._backoff()))
        async with contextlib.aclosing(updates):
            async for update in updates:
                if isinstance(update, JobState):
                    yield update

    async def _run(self, operation: Operation[T]) -> T:
        return await self._transport.run(operation)


def _merge(options: Options, extra: Mapping[str, Any] | None) -> dict[str, Any]:
    check_names(options)
    return {**options, **(extra or {})}
