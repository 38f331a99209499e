"""Submitting a generation request, and following it to its result."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlencode

from trellis2_server.client.errors import (
    ClientError,
    JobCancelledError,
    JobFailedError,
    JobLostError,
    NotFoundError,
    UsageError,
)
from trellis2_server.client.options import EXTENSIONS, FILE_OPTIONS, MAX_SEED, FileType
from trellis2_server.client.protocol import retry
from trellis2_server.client.protocol.actions import Call, Notice, ReadFile, Report, ShapeReady
from trellis2_server.client.protocol.download import download
from trellis2_server.client.protocol.events import follow
from trellis2_server.client.protocol.hunyuan import poll
from trellis2_server.client.protocol.replies import SHUTTING_DOWN, read_name
from trellis2_server.client.records import Result
from trellis2_server.request_fields import MAX_PICTURES, SIDES

if TYPE_CHECKING:
    from trellis2_server.client.protocol.actions import File, Operation, Pictures
    from trellis2_server.client.protocol.retry import Backoff
    from trellis2_server.client.records import JobState

#: Fields that stand for a picture.
_STAND_INS: Final = ("text", "image_url", "image_urls")
#: How often a job that the server has lost is submitted again.
MAX_RESUBMISSIONS: Final = 3
#: Longest time that cancelling a job on the server may take, seconds.
CANCEL_S: Final = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class GenerationRequest:
    """A picture or what stands for it, and the files that are to be generated from it.

    Attributes:
        picture: image file, or several of one object; None: `fields` has `text`, `image_url` or
            `image_urls`.
        mesh: mesh file that is textured; None: a shape is generated.
        texture: whether a textured model is requested.
        shape: whether an untextured model is requested, too.
        type: file type of the models.
        fields: further fields of the request.

    Raises:
        UsageError: the arguments contradict each other, or the type is unknown.
    """

    picture: Pictures | None
    mesh: File | None
    texture: bool
    shape: bool
    type: FileType
    fields: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.type not in EXTENSIONS:
            raise UsageError(f"type: must be one of {', '.join(EXTENSIONS)}")
        if self.mesh is not None and not self.texture:
            raise UsageError("mesh: requires a texture")
        given = [name for name in _STAND_INS if self.fields.get(name) is not None]
        if self.picture is None and not given:
            raise UsageError("picture: missing; give a picture, text or image_url")
        if len(given) + (self.picture is not None) > 1:
            raise UsageError(f"{given[-1]}: cannot be combined with another picture or text")
        if self.picture is not None:
            _check_pictures(self.picture)

    @property
    def returns_shape(self) -> bool:
        """Whether the result contains an untextured model; an uploaded mesh is not returned."""
        return (self.shape and self.mesh is None) or not self.texture

    def file_name(self, kind: Literal["shape", "textured"]) -> str:
        """Return the name of a model among the job's files, with a query for its placement."""
        # Only the textured OBJ has a material and images, and is zipped with them.
        is_plain = kind == "shape" and self.type == "obj_zip"
        # The axis of a request with a mesh is that of the mesh.
        names = [name for name in FILE_OPTIONS if self.mesh is None or name != "up_axis"]
        placed = {name: self.fields[name] for name in names if self.fields.get(name) is not None}
        query = f"?{urlencode(placed)}" if placed else ""
        return f"{kind}.{'obj' if is_plain else EXTENSIONS[self.type]}{query}"


def _check_pictures(pictures: Pictures) -> None:
    """Raise `UsageError` if there are too many pictures, none, or one of an unknown side."""
    if isinstance(pictures, Mapping):
        for side in pictures:
            if side not in SIDES:
                raise UsageError(f"{side}: no side of an object; must be {', '.join(SIDES)}")
    if isinstance(pictures, bytes | str | os.PathLike):
        return
    if not 0 < len(pictures) <= MAX_PICTURES:
        raise UsageError(f"{len(pictures)} pictures: must be 1 to {MAX_PICTURES}")


def read_body(request: GenerationRequest) -> Operation[dict[str, Any]]:
    """Return the JSON object to send.

    A random seed is drawn here. If the body is sent twice because the first reply was lost, the
    server recognizes it as the same job.

    Raises:
        UsageError: a file cannot be read or is empty.
    """
    pictures: dict[str, Any] = {}
    if request.picture is not None:
        pictures = yield from _read_pictures(request.picture)
    body = {name: value for name, value in request.fields.items() if value is not None}
    if body.get("seed") == -1:
        body["seed"] = secrets.randbelow(MAX_SEED + 1)
    if request.mesh is not None:
        mesh: bytes = yield ReadFile(request.mesh)
        body["mesh"] = base64.b64encode(mesh).decode()
    return {**body, "texture": request.texture, "type": request.type, **pictures}


def _read_pictures(pictures: Pictures) -> Operation[dict[str, Any]]:
    """Return the fields of a request that have its pictures, in base64."""

    def read(file: File) -> Operation[str]:
        content: bytes = yield ReadFile(file)
        return base64.b64encode(content).decode()

    if isinstance(pictures, bytes | str | os.PathLike):
        return {"image": (yield from read(pictures))}
    encoded: list[str] = []
    for file in pictures.values() if isinstance(pictures, Mapping) else pictures:
        encoded.append((yield from read(file)))  # noqa: PERF401 - `yield` in it
    if not isinstance(pictures, Mapping):
        return {"images": encoded}
    return {f"image_{side}": text for side, text in zip(pictures, encoded, strict=True)}


def submit(request: GenerationRequest, backoff: Backoff) -> Operation[str]:
    """Submit a request; return the uid of the job."""
    body = yield from read_body(request)
    return (yield from _submit(body, backoff))


def submit_text(fields: Mapping[str, Any], backoff: Backoff) -> Operation[str]:
    """Submit a request without a picture, of which the server makes one; return the job's uid."""
    body = {name: value for name, value in fields.items() if value is not None}
    if body.get("seed") == -1:
        body["seed"] = secrets.randbelow(MAX_SEED + 1)
    return (yield from _submit(body, backoff))


def _submit(body: Mapping[str, Any], backoff: Backoff) -> Operation[str]:
    """Send a request; return the uid that the list of jobs has, where the server names it."""
    reply = yield from retry.call(Call("POST", "send", body), backoff)
    name = read_name(reply.document().get("uid"))
    own = reply.headers.get("x-job-id")
    return name if own is None else read_name(own)


def _send(body: Mapping[str, Any], backoff: Backoff) -> Operation[str]:
    """Send a request; return a name of its job that also stands for the requested model."""
    reply = yield from retry.call(Call("POST", "send", body), backoff)
    return read_name(reply.document().get("uid"))


def generate(request: GenerationRequest, backoff: Backoff) -> Operation[Result]:
    """Submit a request and wait for its result.

    A job that the server has lost by a restart is submitted again. If the caller raises an
    exception of any other kind, the job is cancelled on the server.

    Raises:
        JobError: the job ended without a model.
        ReplyError: the server replied with an error.
        UnreachableError: the server did not reply within the time limit.
    """
    body = yield from read_body(request)
    resubmissions = 0
    while True:
        uid = yield from _send(body, backoff)
        try:
            return (yield from _wait_for_result(uid, request, backoff))
        except JobLostError:
            resubmissions += 1
            if resubmissions > MAX_RESUBMISSIONS:
                raise
            text = "the server has lost the job, possibly by a restart; submitting it again"
            yield Report(Notice(text))
        except (ClientError, GeneratorExit):
            raise
        except BaseException:
            yield from _cancel(uid)
            raise


def _cancel(uid: str) -> Operation[None]:
    # If this fails, the server itself cancels a job that no client follows.
    with contextlib.suppress(ClientError):
        yield Call("DELETE", f"jobs/{uid}", timeout_s=CANCEL_S)


def _wait_for_result(uid: str, request: GenerationRequest, backoff: Backoff) -> Operation[Result]:
    state: JobState | None = None
    shape: bytes | None = None
    textured: bytes | None = None
    returns_shape = request.returns_shape
    try:
        state = yield from follow(uid, backoff, until_shape=returns_shape and request.texture)
        if not state.is_finished:
            shape = yield from download(uid, request.file_name("shape"), backoff)
            yield Report(ShapeReady(shape))
            state = yield from follow(uid, backoff)
        _raise_for_error(state)
        if returns_shape and shape is None:
            shape = yield from download(uid, request.file_name("shape"), backoff)
        if request.texture:
            textured = yield from download(uid, request.file_name("textured"), backoff)
    except NotFoundError:
        # No events or files: either this is a Hunyuan3D server, or the job is lost.
        polled, model = yield from poll(uid, backoff)
        _raise_for_error(polled)
        state = state or polled
        shape, textured = (shape, model) if request.texture else (model, None)
    return Result(
        uid=state.uid,
        type=request.type,
        shape=shape,
        textured=textured,
        image_hash=state.image_hash,
        seed=state.seed,
        engine=state.engine,
        background=state.background,
        resolution=state.resolution,
        warnings=state.warnings,
        details=state.details,
        timings=state.timings,
    )


def _raise_for_error(state: JobState) -> None:
    if state.status != "error":
        return
    if state.error == SHUTTING_DOWN:
        raise JobLostError(SHUTTING_DOWN, uid=state.uid)
    if state.error == "cancelled":
        raise JobCancelledError("the job was cancelled on the server", uid=state.uid)
    raise JobFailedError(state.error or "the job failed", uid=state.uid)
