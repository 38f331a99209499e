"""What the client does, as steps: generators that say what to send and are told what came.

Each step is a question to whoever drives: send this, read on, wait so long. So what is done
stands here once, for the blocking client and for the asynchronous one, and neither sockets
nor waiting are in here. A step's failure is thrown in where the step was asked for.

    Call   → Reply                 a request, and the whole reply
    Open   → Reply                 a request, and the reply's head; its body where it is no success
    Read   → bytes                 the next piece of what was opened; none: its end
    Pause  → None                  wait
    Say    → None                  to be passed on to the caller

What this module does not know: httpx, asyncio, files, terminals.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import random
import secrets
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, Literal, TypeAlias, TypeVar

from trellis2_server.client.errors import (
    BusyError,
    ClientError,
    JobCancelledError,
    JobFailedError,
    JobLostError,
    NotFoundError,
    ProtocolError,
    UnreachableError,
)
from trellis2_server.client.options import EXTENSIONS, MAX_SEED, FileType
from trellis2_server.client.replies import (
    EventReader,
    Health,
    JobState,
    Reply,
    Result,
    read_health,
    read_name,
    read_object,
    read_state,
)

T = TypeVar("T")

#: Seconds before the first new try; twice as long before each further one.
FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 15.0
#: Seconds between two looks at a job of a server that has no events.
POLL_S: Final = 1.0
#: Seconds between two looks at a server that loads.
LOADING_POLL_S: Final = 1.0
#: How often a job that the server has forgotten is sent again.
MAX_LOSSES: Final = 3
#: Seconds that telling the server of a cancelled job may take.
CANCEL_S: Final = 5.0
#: What a job's error says when its server was stopped; another one takes it up anew.
LEAVING: Final = "the server is shutting down"


# ---- the steps -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call:
    """A request, and the whole reply.

    Attributes:
        method: of HTTP.
        path: relative to the server's address.
        body: sent as JSON.
        timeout_s: between two signs of life; None: the client's.
    """

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Open:
    """A request whose reply is read piece by piece; what was open before is closed."""

    path: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Read:
    """The next piece of the reply that was opened."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing, for a while."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Say:
    """Something for the caller."""

    what: Saying


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that goes wrong and is being dealt with, in one sentence."""

    text: str


@dataclass(frozen=True, slots=True)
class Received:
    """How much of a download is there.

    Attributes:
        name: of the file.
        received: bytes.
        total: bytes; None where the server does not tell.
    """

    name: str
    received: int
    total: int | None


@dataclass(frozen=True, slots=True, eq=False)
class ShapeReady:
    """The untextured model, while its texture is being made."""

    content: bytes


Saying: TypeAlias = "JobState | Health | Notice | Received | ShapeReady"
Step: TypeAlias = Call | Open | Read | Pause | Say
Steps: TypeAlias = Generator[Step, Any, T]


# ---- patience ------------------------------------------------------------------------------


class Patience:
    """How long to go on asking a server that does not answer, or not now.

    Args:
        limit_s: from the first failure of a row; 0: not at all.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since: float | None = None
        self._tries = 0

    def pause_s(self, error: ClientError) -> float:
        """Seconds after which to try again.

        Raises:
            ClientError: that error, when it is enough.
        """
        now = time.monotonic()
        if self._since is None:
            self._since = now
        pause_s = min(FIRST_PAUSE_S * 2 ** min(self._tries, 20), LONGEST_PAUSE_S)
        self._tries += 1
        # Those who were sent away together do not come back together.
        if isinstance(error, BusyError) and error.retry_after_s is not None:
            pause_s = max(error.retry_after_s, FIRST_PAUSE_S) * (1 + random.random() / 10)  # noqa: S311 - no secret
        else:
            pause_s *= 0.75 + random.random() / 2  # noqa: S311 - no secret
        if now + pause_s - self._since > self._limit_s:
            raise error
        return pause_s

    def see(self) -> None:
        """The server has answered; the next pause is still longer than the last."""
        self._since = None

    def renew(self) -> None:
        """Something came of it."""
        self._since = None
        self._tries = 0


def _wait_out(error: UnreachableError | BusyError, patience: Patience) -> Steps[None]:
    pause_s = patience.pause_s(error)
    yield Say(Notice(f"{error}; asking again"))
    yield Pause(pause_s)


def call(step: Call, patience: Patience) -> Steps[Reply]:
    """A success.

    Raises:
        ReplyError: it is none.
        UnreachableError: there was no answer for too long.
    """
    while True:
        try:
            reply: Reply = yield step
            reply.check()
        except (UnreachableError, BusyError) as error:  # noqa: PERF203 - why there is a loop
            yield from _wait_out(error, patience)
        else:
            patience.renew()
            return reply


# ---- a server ------------------------------------------------------------------------------


def health() -> Steps[Health]:
    """What the server says of itself, asked once."""
    reply: Reply = yield Call("GET", "healthcheck")
    return read_health(reply)


def wait_until_ready(limit_s: float) -> Steps[Health]:
    """What the server says of itself once it serves.

    Args:
        limit_s: how long to wait for that.

    Raises:
        BusyError: it loads for longer than that, or cannot serve, and why.
        UnreachableError: there was no answer for longer than that.
    """
    patience = Patience(limit_s)
    begin = time.monotonic()
    while True:
        try:
            said = yield from health()
        except (UnreachableError, BusyError) as error:
            yield from _wait_out(error, patience)
            continue
        yield Say(said)
        if said.status in {"ok", "unknown"}:
            return said
        is_leaving = said.error == LEAVING
        if said.status == "error" and not is_leaving:
            raise BusyError(said.error or "the server cannot serve", status=503)
        if time.monotonic() - begin + LOADING_POLL_S > limit_s:
            raise BusyError(said.error or "the server is still loading its model", status=503)
        patience.renew()
        yield Pause(LOADING_POLL_S)


# ---- a job ---------------------------------------------------------------------------------


def submit(body: Mapping[str, Any], patience: Patience) -> Steps[str]:
    """The new job's name."""
    reply = yield from call(Call("POST", "send", body), patience)
    return read_name(reply.document().get("uid"))


def job(name: str, patience: Patience) -> Steps[JobState]:
    """Where a job is."""
    reply = yield from call(Call("GET", f"jobs/{read_name(name)}"), patience)
    return read_state(reply.document())


def jobs(limit: int, before: str | None, patience: Patience) -> Steps[list[JobState]]:
    """The jobs that the server keeps, the most recent first."""
    after = f"&before={read_name(before)}" if before else ""
    reply = yield from call(Call("GET", f"jobs?limit={limit}{after}"), patience)
    found = reply.document().get("jobs")
    if not isinstance(found, list):
        raise ProtocolError("the server's reply is none of this API", status=reply.status)
    return [read_state(each if isinstance(each, dict) else {}) for each in found]  # pyright: ignore[reportUnknownArgumentType]


def cancel(name: str, patience: Patience) -> Steps[None]:
    """Cancels a job that goes on, deletes one that is done."""
    yield from call(Call("DELETE", f"jobs/{read_name(name)}"), patience)


def follow(name: str, patience: Patience, *, to_shape: bool = False) -> Steps[JobState]:
    """Says each state of a job; returns the last, or the first with its shape.

    A connection that breaks is made again, and goes on with the state at that time.

    Raises:
        NotFoundError: the server has no such job, or no events.
    """
    while True:
        try:
            return (yield from _read_events(name, patience, to_shape=to_shape))
        except (UnreachableError, BusyError) as error:  # noqa: PERF203 - why there is a loop
            yield from _wait_out(error, patience)


def _read_events(name: str, patience: Patience, *, to_shape: bool) -> Steps[JobState]:
    reply: Reply = yield Open(f"events/{read_name(name)}", {"Accept": "text/event-stream"})
    reply.check()
    if not reply.headers.get("content-type", "").startswith("text/event-stream"):
        raise ProtocolError("the server's reply has no events", status=reply.status)
    reader = EventReader()
    is_first = True
    while chunk := (yield Read()):
        for event, data in reader.feed(chunk):
            state = read_state(read_object(data))
            # A server that says one thing and hangs up is not asked ever faster.
            patience.see() if is_first else patience.renew()
            is_first = False
            yield Say(state)
            if event == "end" or (to_shape and state.shape_ready):
                return state
    raise UnreachableError("the server closed the connection")


def download(name: str, file: str, patience: Patience) -> Steps[bytes]:
    """A file of a job. What has come before a connection breaks is not asked for again.

    Raises:
        NotFoundError: there is no such file.
    """
    part = _Part(f"jobs/{read_name(name)}/{file}")
    while True:
        try:
            reply: Reply = yield Open(part.path, part.headers())
            part.begin(reply)
            while chunk := (yield Read()):
                part.content += chunk
                patience.renew()
                yield Say(Received(file, len(part.content), part.total))
            return part.whole()
        except (UnreachableError, BusyError) as error:  # noqa: PERF203 - why there is a loop
            yield from _wait_out(error, patience)


class _Part:
    """What there is of a download.

    Attributes:
        path: of the file, relative to the server's address.
        content: its begin.
        total: bytes of all of it; None where the server does not tell.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.content = bytearray()
        self.total: int | None = None
        self._tag: str | None = None

    def headers(self) -> dict[str, str]:
        """Of a request for the rest."""
        headers = {"Accept-Encoding": "identity"}
        if self.content and self._tag:
            headers |= {"Range": f"bytes={len(self.content)}-", "If-Range": self._tag}
        return headers

    def begin(self, reply: Reply) -> None:
        """Take the head of a reply: the rest follows, or all of it.

        Raises:
            UnreachableError: another part follows.
            ReplyError: nothing does.
        """
        if reply.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self.content.clear()
            raise UnreachableError("the server has another file now")
        reply.check()
        tag = reply.headers.get("etag")
        self._tag = None if tag and tag.startswith("W/") else tag
        total = reply.headers.get("content-length", "")
        if reply.status == HTTPStatus.PARTIAL_CONTENT:
            span, _, total = reply.headers.get("content-range", "").partition("/")
            if not span.startswith(f"bytes {len(self.content)}-"):
                self.content.clear()
                raise UnreachableError("the server sent another part than it was asked for")
        else:
            self.content.clear()
        self.total = int(total) if total.isdecimal() else None

    def whole(self) -> bytes:
        """All of the file.

        Raises:
            UnreachableError: it is not all.
        """
        if self.total is not None and len(self.content) < self.total:
            raise UnreachableError("the connection broke within a download")
        return bytes(self.content)


def _poll(name: str, patience: Patience) -> Steps[tuple[JobState, bytes]]:
    """The last state and the model of a job of a server that has no events: Hunyuan3D's.

    Raises:
        JobLostError: it has no such job either.
    """
    while True:
        try:
            reply = yield from call(Call("GET", f"status/{name}"), patience)
        except NotFoundError as error:
            raise JobLostError(f"the server has lost the job: {error}", uid=name) from error
        said = reply.document()
        status = said.get("status")
        if status == "completed":
            try:
                model = base64.b64decode(said.get("model_base64", ""), validate=True)
            except (binascii.Error, TypeError, ValueError):
                model = b""
            if not model:
                raise ProtocolError("the server's reply has no model", status=reply.status)
            state = JobState(name, "completed")
            yield Say(state)
            return state, model
        if status == "error":
            message = str(said.get("message") or said.get("error") or "the job failed")
            return JobState(name, "error", error=message), b""
        kind = "texture_processing" if status == "texturing" else "shape_processing"
        yield Say(JobState(name, kind, shape_ready=status == "texturing"))
        yield Pause(POLL_S)


# ---- all of it -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """What is to become of a picture.

    Attributes:
        picture: an image file.
        mesh: a mesh file that is to be textured; None: a shape is to be made.
        texture: whether a textured model is wanted.
        shape: whether the untextured one is.
        type: of the files.
        fields: further fields of the request.
    """

    picture: bytes
    mesh: bytes | None
    texture: bool
    shape: bool
    type: FileType
    fields: Mapping[str, Any]

    def body(self) -> dict[str, Any]:
        """The request's.

        A random seed is drawn here: sent twice, because an answer got lost, it is one job.
        """
        body = {name: value for name, value in self.fields.items() if value is not None}
        if body.get("seed") == -1:
            body["seed"] = secrets.randbelow(MAX_SEED + 1)
        if self.mesh is not None:
            body["mesh"] = base64.b64encode(self.mesh).decode()
        image = base64.b64encode(self.picture).decode()
        return {**body, "texture": self.texture, "type": self.type, "image": image}

    def file(self, kind: Literal["shape", "textured"]) -> str:
        """The name under which the server has that model."""
        # OBJ's material and pictures come with a texture only.
        is_plain = kind == "shape" and self.type == "obj_zip"
        return f"{kind}.{'obj' if is_plain else EXTENSIONS[self.type]}"


def generate(order: Order, patience: Patience) -> Steps[Result]:
    """What became of a picture, once it has.

    A job that the server has forgotten, because it was restarted, is sent again. Where the
    caller leaves before the end, by an exception of whatever kind, the job is cancelled.

    Raises:
        JobError: nothing became of it.
        ReplyError: the server refused it.
        UnreachableError: there was no answer for too long.
    """
    body = order.body()
    losses = 0
    while True:
        uid = yield from submit(body, patience)
        try:
            return (yield from _result(uid, order, patience))
        except JobLostError:
            losses += 1
            if losses > MAX_LOSSES:
                raise
            yield Say(Notice("the server has lost the job, by a restart maybe; sent again"))
        except (ClientError, GeneratorExit):
            raise
        except BaseException:
            yield from _cancel_quietly(uid)
            raise


def _cancel_quietly(uid: str) -> Steps[None]:
    # Where that fails, the server gives up by itself what nobody asks for.
    with contextlib.suppress(ClientError):
        yield Call("DELETE", f"jobs/{uid}", timeout_s=CANCEL_S)


def _result(uid: str, order: Order, patience: Patience) -> Steps[Result]:
    state: JobState | None = None
    shape: bytes | None = None
    textured: bytes | None = None
    try:
        state = yield from follow(uid, patience, to_shape=order.shape and order.texture)
        if not state.is_finished:
            shape = yield from download(uid, order.file("shape"), patience)
            yield Say(ShapeReady(shape))
            state = yield from follow(uid, patience)
        _check(state)
        if order.shape and shape is None:
            shape = yield from download(uid, order.file("shape"), patience)
        if order.texture:
            textured = yield from download(uid, order.file("textured"), patience)
    except NotFoundError:
        # No events or files: either it is a server of Hunyuan3D's, or the job is gone.
        polled, model = yield from _poll(uid, patience)
        _check(polled)
        state = state or polled
        shape, textured = (shape, model) if order.texture else (model, None)
    return Result(
        uid=state.uid,
        type=order.type,
        shape=shape,
        textured=textured,
        image_hash=state.image_hash,
        seed=state.seed,
        engine=state.engine,
        background=state.background,
        resolution=state.resolution,
        warnings=state.warnings,
        timings=state.timings,
    )


def _check(state: JobState) -> None:
    if state.status != "error":
        return
    if state.error == LEAVING:
        raise JobLostError(LEAVING, uid=state.uid)
    if state.error == "cancelled":
        raise JobCancelledError("the job was cancelled on the server", uid=state.uid)
    raise JobFailedError(state.error or "the job failed", uid=state.uid)
