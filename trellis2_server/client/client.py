"""`Client` and `AsyncClient`: drivers of the same steps, over httpx.

What this module does not know: what the steps are for, files, terminals.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from urllib.parse import urlsplit

import httpx

from trellis2_server import __version__
from trellis2_server.client import steps
from trellis2_server.client.errors import UnreachableError, UsageError
from trellis2_server.client.options import EXTENSIONS, check_names
from trellis2_server.client.progress import Tracker
from trellis2_server.client.replies import Health, JobState, Reply, Result, printable
from trellis2_server.client.steps import Call, Open, Order, Patience, Pause, Say, ShapeReady

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Callable,
        Generator,
        Iterator,
        Mapping,
    )

    from typing_extensions import Self, Unpack

    from trellis2_server.client.options import FileType, Options
    from trellis2_server.client.progress import Progress
    from trellis2_server.client.steps import Saying, Step, Steps

    File = bytes | os.PathLike[str] | str
    OnProgress = Callable[[Progress], None]
    OnShape = Callable[[bytes], None]
    Hear = Callable[[Saying], None]

T = TypeVar("T")

DEFAULT_SERVER: Final = "http://127.0.0.1:8082"
#: Environment variables that are read where nothing is said.
SERVER_VARIABLE: Final = "TRELLIS2_SERVER"
KEY_VARIABLE: Final = "TRELLIS2_SERVER_API_KEY"
#: Seconds to connect in.
CONNECT_S: Final = 10.0
#: Seconds without a sign of life; events have one every 15 s.
TIMEOUT_S: Final = 60.0
#: How a refused connection is told of: by the system, by anyio, by Windows.
_REFUSED: Final = ("refused", "All connection attempts failed", "10061")
#: Seconds to go on asking.
PATIENCE_S: Final = 300.0


class _Connection:
    """What both clients know: where the server is, and how to ask it.

    Args:
        server: its address; None: of `TRELLIS2_SERVER`, or this machine's port 8082.
        api_key: None: of `TRELLIS2_SERVER_API_KEY`, or none. It is never shown.
        timeout_s: without a sign of life, after which a connection counts as broken.
        patience_s: how long to go on asking a server that does not answer, or not now.

    Raises:
        UsageError: the address is none, or the key cannot be sent.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.server = _address(server or os.environ.get(SERVER_VARIABLE) or DEFAULT_SERVER)
        self._patience_s = patience_s
        self._timeout_s = timeout_s
        key = os.environ.get(KEY_VARIABLE) if api_key is None else api_key
        self._headers = {"User-Agent": f"trellis2-server-client/{__version__}"}
        if key:
            if not key.isascii() or not key.isprintable() or " " in key:
                raise UsageError("the API key has characters that cannot be sent")
            self._headers["Authorization"] = f"Bearer {key}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.server!r})"

    def _httpx(self) -> dict[str, Any]:
        return {
            "base_url": self.server,
            "headers": self._headers,
            "timeout": httpx.Timeout(self._timeout_s, connect=CONNECT_S, pool=None),
            "limits": httpx.Limits(max_connections=None),
            # A proxy of the environment does not reach this machine's own ports.
            "trust_env": not _is_local(self.server),
        }

    def _request(self, step: Call | Open) -> dict[str, Any]:
        if isinstance(step, Open):
            return {"method": "GET", "url": step.path, "headers": dict(step.headers)}
        timeout = httpx.Timeout(step.timeout_s) if step.timeout_s else httpx.USE_CLIENT_DEFAULT
        request: dict[str, Any] = {"method": step.method, "url": step.path, "timeout": timeout}
        return request if step.body is None else {**request, "json": step.body}

    def _patience(self) -> Patience:
        return Patience(self._patience_s)

    def _order(  # noqa: PLR0913, PLR0917 - what both clients are asked for
        self,
        picture: File,
        mesh: File | None,
        options: Options,
        texture: bool,  # noqa: FBT001 - this and the next as in `Client.generate`
        shape: bool,  # noqa: FBT001
        file_type: FileType,
        extra: Mapping[str, Any] | None,
    ) -> Order:
        check_names(options)
        if file_type not in EXTENSIONS:
            raise UsageError(f"type: must be one of {', '.join(EXTENSIONS)}")
        if mesh is not None and not texture:
            raise UsageError("mesh: nothing would be done with it without a texture")
        return Order(
            picture=_content(picture),
            mesh=None if mesh is None else _content(mesh),
            texture=texture,
            # A mesh that was sent is not sent back.
            shape=(shape and mesh is None) or not texture,
            type=file_type,
            fields={**options, **(extra or {})},
        )

    def _translated(self, error: BaseException) -> BaseException:
        if not isinstance(error, httpx.HTTPError):
            return error
        unreachable = UnreachableError(f"{self.server}: {self._cause(error)}")
        unreachable.__cause__ = error
        return unreachable

    @staticmethod
    def _cause(error: httpx.HTTPError) -> str:
        said = printable(str(error))
        if isinstance(error, httpx.ConnectTimeout):
            return "it cannot be connected to in time"
        if isinstance(error, httpx.TimeoutException):
            return "no sign of life in time"
        if isinstance(error, httpx.ConnectError):
            is_refused = not said or any(words in said for words in _REFUSED)
            return "nobody listens there" if is_refused else said
        if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
            return "the connection broke"
        return said or type(error).__name__


class _Walk(Generic[T]):
    """A way through steps: what is to be done next, and what came of the last.

    Attributes:
        answer: what the last step gave.
        failure: why it gave nothing.
        result: what the steps return in the end.
    """

    result: T

    def __init__(self, work: Steps[T]) -> None:
        self._work = work
        self.answer: object = None
        self.failure: BaseException | None = None

    def next(self) -> Step | None:
        """The next step; None after the last."""
        answer, failure = self.answer, self.failure
        self.answer = self.failure = None
        try:
            return self._work.send(answer) if failure is None else self._work.throw(failure)
        except StopIteration as end:
            self.result = end.value
            return None


def _ignore(said: Saying) -> None:
    del said


class Client(_Connection):
    """Asks a server, and waits for what it answers.

        with Client() as client:
            result = client.generate("photo.jpg", seed=7)
            Path("photo.glb").write_bytes(result.model)

    It may be used by several threads at once. Further down in the tree of errors than what
    a method names there is nothing that it raises, but what a callback raises.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        super().__init__(server, api_key=api_key, timeout_s=timeout_s, patience_s=patience_s)
        self._client = httpx.Client(**self._httpx())
        self._waiting = threading.Event()

    __init__.__doc__ = _Connection.__doc__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def generate(  # noqa: PLR0913 - what there is to say, by name
        self,
        picture: File,
        *,
        mesh: File | None = None,
        texture: bool = True,
        shape: bool = True,
        type: FileType = "glb",  # noqa: A002 - as the API calls it
        on_progress: OnProgress | None = None,
        on_shape: OnShape | None = None,
        extra: Mapping[str, Any] | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """The models of a picture.

        What breaks on the way is taken up again: connections, downloads where they were
        cut, and a job that the server has lost by a restart. Left by an exception, a
        KeyboardInterrupt say, it cancels its job on the server.

        Args:
            picture: an image file, or the path of one.
            mesh: a mesh file (GLB, OBJ, PLY, STL), or the path of one, that is textured
                after the picture instead of a shape being made.
            texture: whether a textured model is wanted.
            shape: whether the untextured model is wanted beside the textured one.
            type: of the files.
            on_progress: is told how far it is.
            on_shape: is given the untextured model while its texture is being made.
            extra: fields that a newer server may know.
            **options: see `Options`.

        Raises:
            UsageError: an option that there is not, or a file that cannot be read.
            UnreachableError: there was no answer for `patience_s`.
            ReplyError: the server refused it.
            JobError: the job failed, was cancelled, or got lost again and again.
        """
        order = self._order(picture, mesh, options, texture, shape, type, extra)
        hear = _listener(on_progress, on_shape, texture=texture)
        return self._run(steps.generate(order, self._patience()), hear)

    def submit(
        self,
        picture: File,
        *,
        mesh: File | None = None,
        texture: bool = True,
        type: FileType = "glb",  # noqa: A002 - as the API calls it
        extra: Mapping[str, Any] | None = None,
        **options: Unpack[Options],
    ) -> str:
        """The uid of a new job, for which nobody waits; the arguments are `generate`'s."""
        order = self._order(picture, mesh, options, texture, not texture, type, extra)
        return self._run(steps.submit(order.body(), self._patience()))

    def events(self, uid: str) -> Generator[JobState]:
        """The job's state, and each one that follows, to the last.

        Raises:
            NotFoundError: the server has no such job, or no events.
        """
        with contextlib.closing(self._say(_Walk(steps.follow(uid, self._patience())))) as saying:
            for said in saying:
                if isinstance(said, JobState):
                    yield said

    def job(self, uid: str) -> JobState:
        """Where a job is."""
        return self._run(steps.job(uid, self._patience()))

    def jobs(self, *, limit: int = 20, before: str | None = None) -> list[JobState]:
        """The jobs that the server keeps, the most recent first.

        Args:
            limit: 1 … 100.
            before: those after that uid in the list, for the next page.
        """
        return self._run(steps.jobs(limit, before, self._patience()))

    def download(self, uid: str, file: str = "textured.glb") -> bytes:
        """A file of a job: one of `JobState.files`, or a model as another type."""
        return self._run(steps.download(uid, file, self._patience()))

    def cancel(self, uid: str) -> None:
        """Cancel a job that goes on; delete one that is done, with its files."""
        self._run(steps.cancel(uid, self._patience()))

    def health(self) -> Health:
        """What the server says of itself, asked once."""
        return self._run(steps.health())

    def wait_until_ready(
        self, limit_s: float = float("inf"), on_progress: OnProgress | None = None
    ) -> Health:
        """What the server says of itself once it serves.

        Raises:
            BusyError: it loads for longer than that, or cannot serve, and why.
            UnreachableError: there was no answer for longer than that.
        """
        hear = _listener(on_progress, None, texture=True)
        return self._run(steps.wait_until_ready(limit_s), hear)

    # ---- driving --------------------------------------------------------------------------

    def _run(self, work: Steps[T], hear: Hear = _ignore) -> T:
        walk = _Walk(work)
        for _ in self._say(walk, hear):
            pass
        return walk.result

    def _say(self, walk: _Walk[Any], hear: Hear | None = None) -> Generator[Saying]:
        """Walks to the end; passes on what is said where nobody hears it."""
        with contextlib.ExitStack() as opened:
            pieces: Iterator[bytes] = iter(())
            while step := walk.next():
                try:
                    if isinstance(step, Say):
                        if hear is None:
                            yield step.what
                        else:
                            hear(step.what)
                    elif isinstance(step, Pause):
                        self._waiting.wait(step.seconds)
                    elif isinstance(step, Call):
                        walk.answer = _reply(self._client.request(**self._request(step)))
                    elif isinstance(step, Open):
                        opened.close()
                        reply = opened.enter_context(self._client.stream(**self._request(step)))
                        if not reply.is_success:
                            reply.read()
                        walk.answer, pieces = _reply(reply), reply.iter_bytes()
                    else:
                        walk.answer = next(pieces, b"")
                except BaseException as error:  # noqa: BLE001, PERF203 - the steps decide what it means
                    walk.failure = self._translated(error)


class AsyncClient(_Connection):
    """`Client` for asyncio: the same methods, to be awaited; what they do is said there.

        async with AsyncClient() as client:
            results = await asyncio.gather(*(client.generate(name) for name in names))

    A `generate` that is cancelled cancels its job on the server.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        super().__init__(server, api_key=api_key, timeout_s=timeout_s, patience_s=patience_s)
        self._client = httpx.AsyncClient(**self._httpx())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the connections back."""
        await self._client.aclose()

    async def generate(  # noqa: PLR0913 - as above
        self,
        picture: File,
        *,
        mesh: File | None = None,
        texture: bool = True,
        shape: bool = True,
        type: FileType = "glb",  # noqa: A002 - as the API calls it
        on_progress: OnProgress | None = None,
        on_shape: OnShape | None = None,
        extra: Mapping[str, Any] | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """The models of a picture; see `Client.generate`."""
        order = await asyncio.to_thread(
            self._order, picture, mesh, options, texture, shape, type, extra
        )
        hear = _listener(on_progress, on_shape, texture=texture)
        return await self._run(steps.generate(order, self._patience()), hear)

    async def submit(
        self,
        picture: File,
        *,
        mesh: File | None = None,
        texture: bool = True,
        type: FileType = "glb",  # noqa: A002 - as the API calls it
        extra: Mapping[str, Any] | None = None,
        **options: Unpack[Options],
    ) -> str:
        """The uid of a new job; see `Client.submit`."""
        order = await asyncio.to_thread(
            self._order, picture, mesh, options, texture, not texture, type, extra
        )
        return await self._run(steps.submit(order.body(), self._patience()))

    async def events(self, uid: str) -> AsyncGenerator[JobState]:
        """The job's state, and each one that follows; see `Client.events`."""
        walk = _Walk(steps.follow(uid, self._patience()))
        async with contextlib.aclosing(self._say(walk)) as saying:
            async for said in saying:
                if isinstance(said, JobState):
                    yield said

    async def job(self, uid: str) -> JobState:
        """Where a job is."""
        return await self._run(steps.job(uid, self._patience()))

    async def jobs(self, *, limit: int = 20, before: str | None = None) -> list[JobState]:
        """The jobs that the server keeps; see `Client.jobs`."""
        return await self._run(steps.jobs(limit, before, self._patience()))

    async def download(self, uid: str, file: str = "textured.glb") -> bytes:
        """A file of a job; see `Client.download`."""
        return await self._run(steps.download(uid, file, self._patience()))

    async def cancel(self, uid: str) -> None:
        """Cancel a job that goes on; delete one that is done, with its files."""
        await self._run(steps.cancel(uid, self._patience()))

    async def health(self) -> Health:
        """What the server says of itself, asked once."""
        return await self._run(steps.health())

    async def wait_until_ready(
        self, limit_s: float = float("inf"), on_progress: OnProgress | None = None
    ) -> Health:
        """What the server says of itself once it serves; see `Client.wait_until_ready`."""
        hear = _listener(on_progress, None, texture=True)
        return await self._run(steps.wait_until_ready(limit_s), hear)

    # ---- driving --------------------------------------------------------------------------

    async def _run(self, work: Steps[T], hear: Hear = _ignore) -> T:
        walk = _Walk(work)
        async for _ in self._say(walk, hear):
            pass
        return walk.result

    async def _say(self, walk: _Walk[Any], hear: Hear | None = None) -> AsyncGenerator[Saying]:
        """Walks to the end; passes on what is said where nobody hears it."""
        async with contextlib.AsyncExitStack() as opened:
            pieces: AsyncIterator[bytes] = _nothing()
            while step := walk.next():
                try:
                    if isinstance(step, Say):
                        if hear is None:
                            yield step.what
                        else:
                            hear(step.what)
                    elif isinstance(step, Pause):
                        await asyncio.sleep(step.seconds)
                    elif isinstance(step, Call):
                        walk.answer = _reply(await self._client.request(**self._request(step)))
                    elif isinstance(step, Open):
                        await opened.aclose()
                        stream = self._client.stream(**self._request(step))
                        reply = await opened.enter_async_context(stream)
                        if not reply.is_success:
                            await reply.aread()
                        walk.answer, pieces = _reply(reply), reply.aiter_bytes()
                    else:
                        walk.answer = await anext(pieces, b"")
                except BaseException as error:  # noqa: BLE001, PERF203 - the steps decide what it means
                    walk.failure = self._translated(error)


# ---- what both use -----------------------------------------------------------------------


async def _nothing() -> AsyncGenerator[bytes]:
    for piece in ():
        yield piece


def _reply(reply: httpx.Response) -> Reply:
    # What is read piece by piece has no content yet.
    body = reply.content if reply.is_closed else b""
    return Reply(reply.status_code, {k.lower(): v for k, v in reply.headers.items()}, body)


def _listener(on_progress: OnProgress | None, on_shape: OnShape | None, *, texture: bool) -> Hear:
    """Who hears what the steps say, and tells it in the caller's words."""
    tracker = Tracker(texture=texture)

    def hear(said: Saying) -> None:
        if isinstance(said, ShapeReady) and on_shape is not None:
            on_shape(said.content)
        if on_progress is not None:
            on_progress(tracker.read(said))

    return hear


def _address(server: str) -> str:
    address = server.strip()
    if "://" not in address:
        address = f"http://{address}"
    address = address.rstrip("/")
    try:
        parts = urlsplit(address)
        is_meant = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        httpx.URL(address)
    except (ValueError, httpx.InvalidURL):
        is_meant = False
    if not is_meant:
        raise UsageError(f"not the address of a server: {printable(server)}")
    return address


def _is_local(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _content(file: File) -> bytes:
    if isinstance(file, bytes):
        content = file
    else:
        try:
            content = Path(file).read_bytes()
        except OSError as error:
            raise UsageError(f"{file}: {error.strerror}") from error
    if not content:
        raise UsageError("the file is empty" if isinstance(file, bytes) else f"{file}: it is empty")
    return content
