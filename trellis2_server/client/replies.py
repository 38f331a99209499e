"""What the server replies, as records; what it sends beyond them is ignored.

What this module does not know: how any of it was asked for.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal

from trellis2_server.client.errors import (
    BusyError,
    NotFoundError,
    ProtocolError,
    RefusedError,
    ReplyError,
    UnauthorizedError,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from trellis2_server.client.options import FileType

#: A uid or a hash becomes part of a path, here and on the server.
_NAME: Final = re.compile(r"[0-9A-Za-z_-]{1,64}")
_SENTENCE_CHARACTERS: Final = 500
_PROBLEMS: Final[Mapping[int, type[ReplyError]]] = {
    400: RefusedError,
    401: UnauthorizedError,
    403: UnauthorizedError,
    404: NotFoundError,
    405: NotFoundError,
    410: NotFoundError,
    413: RefusedError,
    415: RefusedError,
    422: RefusedError,
}
#: Not now, also in the words of a proxy that does not reach the server.
_BUSY: Final = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of HTTP.

    Attributes:
        status: of HTTP.
        headers: names in lower case.
        body: all of it; empty for a success that is read piece by piece.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    def document(self) -> Mapping[str, Any]:
        """The JSON object in the body.

        Raises:
            ProtocolError: it is none.
        """
        return read_object(self.body, self.status)

    def check(self) -> None:
        """Passes if it is a success.

        Raises:
            ReplyError: it is none; the class says which kind.
        """
        if HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES:
            return
        text, code = self._sentence()
        if self.status in _BUSY:
            raise BusyError(
                text, status=self.status, code=code, retry_after_s=self._retry_after_s()
            )
        if HTTPStatus.MULTIPLE_CHOICES <= self.status < HTTPStatus.BAD_REQUEST:
            where = printable(self.headers.get("location", "elsewhere"))
            raise ProtocolError(
                f"the server has another address: it points to {where}", status=self.status
            )
        raise _PROBLEMS.get(self.status, ReplyError)(text, status=self.status, code=code)

    def _sentence(self) -> tuple[str, int | None]:
        try:
            document = self.document()
        except ProtocolError:
            document = {}
        code = document.get("error_code")
        for key in ("text", "detail", "message"):
            if isinstance(document.get(key), str):
                return printable(document[key]), code if isinstance(code, int) else None
        phrase = next((known.phrase for known in HTTPStatus if known == self.status), "")
        return f"the server replied {self.status} {phrase}".rstrip(), None

    def _retry_after_s(self) -> float | None:
        said = self.headers.get("retry-after", "").strip()
        if said.isdecimal():
            return float(said[:9])
        try:
            at = parsedate_to_datetime(said)
        except ValueError:
            return None
        at = at if at.tzinfo else at.replace(tzinfo=timezone.utc)
        return max((at - datetime.now(timezone.utc)).total_seconds(), 0.0)


@dataclass(frozen=True, slots=True)
class JobState:
    """Where a job is.

    Attributes:
        uid: the job's name.
        status: `completed` when all that was asked for is there.
        image_hash: MD5 of what the model sees; None until that is known.
        engine: `trellis2` or `preview`; empty where the server does not say.
        error: why, when the status is `error`; `cancelled` for a cancelled job.
        queue_position: 1: the next to be worked on; None: it does not wait.
        stage: what is being done.
        step: steps of that stage that are done.
        steps: of how many.
        progress: 0 … 1 of the present status.
        eta_seconds: until the present status ends.
        resolution: voxels along an edge, as really used.
        warnings: what the client should know.
        shape_ready: whether the untextured model is there.
        texture_ready: whether the textured model is there.
        created_at: Unix seconds.
        finished_at: Unix seconds; None while it goes on.
        background: how the object was cut out: `alpha`, `rembg`, `grabcut` or `none`.
        seed: as really used.
        parameters: the options, as a client can send them.
        timings: seconds of the steps that ended, by name.
        files: name → size in bytes, of what can be downloaded.
    """

    uid: str
    status: Literal["shape_processing", "texture_processing", "completed", "error"]
    image_hash: str | None = None
    engine: str = ""
    error: str | None = None
    queue_position: int | None = None
    stage: str | None = None
    step: int | None = None
    steps: int | None = None
    progress: float | None = None
    eta_seconds: float | None = None
    resolution: int | None = None
    warnings: tuple[str, ...] = ()
    shape_ready: bool = False
    texture_ready: bool = False
    created_at: float | None = None
    finished_at: float | None = None
    background: str | None = None
    seed: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    timings: Mapping[str, float] = field(default_factory=dict[str, float])
    files: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def is_finished(self) -> bool:
        """Whether nothing more is coming."""
        return self.status in {"completed", "error"}


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a server serves, and with what.

    Attributes:
        status: `unknown` for a server that has no `/healthcheck`: a Hunyuan3D one.
        engine: `trellis2` or `preview`.
        version: of the server, where it tells.
        error: why nothing can be served.
        stage: what is being loaded.
        progress: 0 … 1 of that.
    """

    status: Literal["ok", "loading", "error", "unknown"]
    engine: str = ""
    version: str | None = None
    error: str | None = None
    stage: str | None = None
    progress: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What became of a picture.

    Attributes:
        uid: the job's name on the server.
        type: of the files.
        shape: the untextured model; None where it was not asked for.
        textured: the textured model; None where it was not asked for.
        image_hash: MD5 of what the model saw.
        seed: as really used.
        engine: `trellis2` or `preview`.
        background: how the object was cut out.
        resolution: voxels along an edge, as really used.
        warnings: what the server wants to be known.
        timings: seconds of the server's steps, by name.

    A server of Hunyuan3D's tells none of the last six.
    """

    uid: str
    type: FileType
    shape: bytes | None
    textured: bytes | None
    image_hash: str | None = None
    seed: int | None = None
    engine: str = ""
    background: str | None = None
    resolution: int | None = None
    warnings: tuple[str, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def model(self) -> bytes:
        """The best there is: the textured model, or the untextured one."""
        return self.textured or self.shape or b""


# ---- from JSON ---------------------------------------------------------------------------


def read_object(text: bytes | str, status: int = HTTPStatus.OK) -> Mapping[str, Any]:
    """The JSON object in a text.

    Raises:
        ProtocolError: it is none.
    """
    try:
        document: object = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ProtocolError("the server's reply is none of this API", status=status)
    return document  # pyright: ignore[reportUnknownVariableType]


def read_name(value: object) -> str:
    """A uid or hash that may become part of a path.

    Raises:
        ProtocolError: it may not.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ProtocolError("the server's reply names no job", status=HTTPStatus.OK)
    return value


def read_state(said: Mapping[str, Any]) -> JobState:
    """Where a job is.

    Raises:
        ProtocolError: it is not said.
    """
    status = said.get("status")
    if status not in {"shape_processing", "texture_processing", "completed", "error"}:
        raise ProtocolError("the server's reply does not say where the job is", status=200)
    given = said.get("image_hash")
    warnings = said.get("warnings")
    timings, files, parameters = (
        _mapping(said.get(key)) for key in ("timings", "files", "parameters")
    )
    return JobState(
        uid=read_name(said.get("uid")),
        status=status,
        image_hash=read_name(given) if given else None,
        engine=_text(said.get("engine")) or "",
        error=_text(said.get("error")),
        queue_position=_whole(said.get("queue_position")),
        stage=_text(said.get("stage")),
        step=_whole(said.get("step")),
        steps=_whole(said.get("steps")),
        progress=_number(said.get("progress")),
        eta_seconds=_number(said.get("eta_seconds")),
        resolution=_whole(said.get("resolution")),
        warnings=tuple(printable(str(line)) for line in warnings)
        if isinstance(warnings, list)
        else (),
        shape_ready=said.get("shape_ready") is True,
        texture_ready=said.get("texture_ready") is True,
        created_at=_number(said.get("created_at")),
        finished_at=_number(said.get("finished_at")),
        background=_text(said.get("background")),
        seed=_whole(said.get("seed")),
        parameters=parameters,
        timings={name: value for name, value in timings.items() if _number(value) is not None},
        files={name: _whole(_mapping(about).get("bytes")) or 0 for name, about in files.items()},
    )


def read_health(reply: Reply) -> Health:
    """Whether the server serves.

    Raises:
        ReplyError: it does not say.
    """
    if reply.status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
        return Health("unknown")
    if reply.status != HTTPStatus.SERVICE_UNAVAILABLE:
        reply.check()
    try:
        said = reply.document()
    except ProtocolError:
        reply.check()
        raise
    status = said.get("status")
    if status not in {"ok", "loading", "error"}:
        reply.check()
        return Health("unknown")
    return Health(
        status,
        _text(said.get("engine")) or "",
        _text(said.get("version")),
        _text(said.get("error")),
        _text(said.get("stage")),
        _number(said.get("progress")),
    )


def printable(text: str) -> str:
    """One line of that text which cannot steer a terminal."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line[:_SENTENCE_CHARACTERS].strip()


def _text(value: object) -> str | None:
    return printable(value) if isinstance(value, str) and value else None


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None  # pyright: ignore[reportReturnType, reportArgumentType]


def _whole(value: object) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]


# ---- events ------------------------------------------------------------------------------


class EventReader:
    """Server-sent events out of bytes, however these are cut.

    As WHATWG's HTML standard has them, but that an event's last line must have come whole.
    """

    def __init__(self) -> None:
        self._pending = b""
        self._name = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Generator[tuple[str, str]]:
        """Name and data of each event that these bytes complete."""
        self._pending += chunk
        # A carriage return at the very end may be the first half of a line's end.
        *lines, self._pending = re.split(rb"\r\n|\n|\r(?!\Z)", self._pending)
        for line in lines:
            if line:
                self._read(line.decode("utf-8", "replace"))
            elif self._data:
                yield self._name or "message", "\n".join(self._data)
                self._name, self._data = "", []
            else:
                self._name = ""

    def _read(self, line: str) -> None:
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if key == "event":
            self._name = value
        elif key == "data":
            self._data.append(value)
