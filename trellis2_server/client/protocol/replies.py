"""HTTP replies, and the records read from them; unknown fields are ignored.

Does not know: which request a reply belongs to.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.client.errors import (
    BusyError,
    NotFoundError,
    ProtocolError,
    RefusedError,
    ReplyError,
    UnauthorizedError,
)
from trellis2_server.client.records import Health, JobState

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Error message of a job whose server was stopped; another server may take over the job.
SHUTTING_DOWN: Final = "the server is shutting down"

#: A uid or an image hash, which becomes part of a path here and on the server.
_NAME: Final = re.compile(r"[0-9A-Za-z_-]{1,64}")
_MESSAGE_CHARACTERS: Final = 500
_ERRORS: Final[Mapping[int, type[ReplyError]]] = {
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
#: Temporarily unavailable, including a proxy that cannot reach the server.
_BUSY: Final = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP reply.

    Attributes:
        status: HTTP status code.
        headers: headers, with names in lower case.
        body: complete body; empty for a success that is read in chunks.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    def document(self) -> Mapping[str, Any]:
        """Return the JSON object in the body.

        Raises:
            ProtocolError: the body is not a JSON object.
        """
        return read_object(self.body, self.status)

    def raise_for_status(self) -> None:
        """Raise an exception unless the reply is a success.

        Raises:
            ReplyError: the subclass for the status code.
        """
        if HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES:
            return
        text, code = self._message()
        if self.status in _BUSY:
            raise BusyError(
                text, status=self.status, code=code, retry_after_s=self._retry_after_s()
            )
        if HTTPStatus.MULTIPLE_CHOICES <= self.status < HTTPStatus.BAD_REQUEST:
            target = printable(self.headers.get("location", "another address"))
            raise ProtocolError(f"the server redirects to {target}", status=self.status)
        raise _ERRORS.get(self.status, ReplyError)(text, status=self.status, code=code)

    def _message(self) -> tuple[str, int | None]:
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
        value = self.headers.get("retry-after", "").strip()
        if value.isdecimal():
            return float(value[:9])
        try:
            at = parsedate_to_datetime(value)
        except ValueError:
            return None
        at = at if at.tzinfo else at.replace(tzinfo=timezone.utc)
        return max((at - datetime.now(timezone.utc)).total_seconds(), 0.0)


# ---- from JSON ---------------------------------------------------------------------------


def read_object(text: bytes | str, status: int = HTTPStatus.OK) -> Mapping[str, Any]:
    """Parse a JSON object.

    Raises:
        ProtocolError: the text is not a JSON object.
    """
    try:
        document: object = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ProtocolError("the reply does not belong to this API", status=status)
    return document  # pyright: ignore[reportUnknownVariableType]


def read_name(value: object) -> str:
    """Return a uid or image hash, checked so that it may become part of a path.

    Raises:
        ProtocolError: the value contains other characters, or is not a string.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ProtocolError("not the uid or image hash of a job", status=HTTPStatus.OK)
    return value


def read_state(document: Mapping[str, Any]) -> JobState:
    """Read the state of a job.

    Raises:
        ProtocolError: the object is not the state of a job.
    """
    status = document.get("status")
    if status not in {"shape_processing", "texture_processing", "completed", "error"}:
        raise ProtocolError("the reply does not contain the status of a job", status=200)
    image_hash = document.get("image_hash")
    warnings = document.get("warnings")
    timings, files, parameters, details = (
        _mapping(document.get(key)) for key in ("timings", "files", "parameters", "details")
    )
    return JobState(
        uid=read_name(document.get("uid")),
        status=status,
        image_hash=read_name(image_hash) if image_hash else None,
        engine=_text(document.get("engine")) or "",
        error=_text(document.get("error")),
        queue_position=_integer(document.get("queue_position")),
        stage=_text(document.get("stage")),
        step=_integer(document.get("step")),
        steps=_integer(document.get("steps")),
        progress=_number(document.get("progress")),
        eta_seconds=_number(document.get("eta_seconds")),
        resolution=_integer(document.get("resolution")),
        warnings=tuple(printable(str(line)) for line in warnings)
        if isinstance(warnings, list)
        else (),
        details={
            printable(str(name)): printable(value)
            for name, value in details.items()
            if isinstance(value, str)
        },
        shape_ready=document.get("shape_ready") is True,
        texture_ready=document.get("texture_ready") is True,
        created_at=_number(document.get("created_at")),
        finished_at=_number(document.get("finished_at")),
        background=_text(document.get("background")),
        seed=_integer(document.get("seed")),
        parameters=parameters,
        timings={name: value for name, value in timings.items() if _number(value) is not None},
        files={name: _integer(_mapping(file).get("bytes")) or 0 for name, file in files.items()},
    )


def read_health(reply: Reply) -> Health:
    """Read the state of a server.

    Raises:
        ReplyError: the reply is another error than 404, 405 or 503.
    """
    if reply.status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
        return Health("unknown")
    if reply.status != HTTPStatus.SERVICE_UNAVAILABLE:
        reply.raise_for_status()
    try:
        document = reply.document()
    except ProtocolError:
        reply.raise_for_status()
        raise
    status = document.get("status")
    if status not in {"ok", "loading", "error"}:
        reply.raise_for_status()
        return Health("unknown")
    return Health(
        status,
        _text(document.get("engine")) or "",
        _text(document.get("version")),
        _text(document.get("error")),
        _text(document.get("stage")),
        _number(document.get("progress")),
    )


def printable(text: str) -> str:
    """Return a text as one line without control characters, at most 500 characters."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line[:_MESSAGE_CHARACTERS].strip()


def _text(value: object) -> str | None:
    return printable(value) if isinstance(value, str) and value else None


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None  # pyright: ignore[reportReturnType, reportArgumentType]


def _integer(value: object) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]
