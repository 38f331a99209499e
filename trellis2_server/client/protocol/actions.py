"""Actions, which an operation asks a transport to perform.

An operation is a generator. It yields an action and receives the result at the `yield`; if the
action fails, its exception is raised there. The protocol is thus written once for the blocking
and the asynchronous client.

    ReadFile → bytes   content of a file
    Call     → Reply   send a request and receive the complete reply
    Open     → Reply   send a request and receive the head of the reply, or all of an error
    Read     → bytes   next chunk of the opened reply; empty at its end
    Pause    → None    wait
    Report   → None    pass an update to the caller

Does not know: httpx, asyncio, terminals.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    import os

    from trellis2_server.client.records import Health, JobState
    from trellis2_server.request_fields import Side

T = TypeVar("T")

#: Content of a file, or its path.
File: TypeAlias = "bytes | os.PathLike[str] | str"
#: A picture, or several of one object: a list, the front first, or by side.
Pictures: TypeAlias = "File | Sequence[File] | Mapping[Side, File]"


# ---- actions -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadFile:
    """Read a file."""

    file: File


@dataclass(frozen=True, slots=True)
class Call:
    """Send a request and receive the complete reply.

    Attributes:
        method: HTTP method.
        path: path relative to the server's address.
        body: object that is sent as JSON; None: no body.
        timeout_s: longest time without data, seconds; None: the client's default.
    """

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Open:
    """Send a GET request whose reply is read in chunks; closes the previously opened reply.

    Attributes:
        path: path relative to the server's address.
        headers: additional headers of the request.
    """

    path: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Read:
    """Read the next chunk of the opened reply."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait for a number of seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """Pass an update to the caller."""

    update: Update


# ---- updates -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Notice:
    """A problem that the client is handling, in one sentence."""

    text: str


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """Progress of a download.

    Attributes:
        received: bytes received so far.
        total: size of the file, bytes; None if the server does not say.
    """

    received: int
    total: int | None


@dataclass(frozen=True, slots=True, eq=False)
class ShapeReady:
    """The untextured model, while the texture is still being generated."""

    content: bytes


Update: TypeAlias = "JobState | Health | Notice | DownloadProgress | ShapeReady"
Action: TypeAlias = ReadFile | Call | Open | Read | Pause | Report
Operation: TypeAlias = Generator[Action, Any, T]


# ---- running an operation ------------------------------------------------------------------


class Execution(Generic[T]):
    """An operation in progress.

    Attributes:
        answer: result of the last action; set by the transport.
        failure: exception of the last action; set by the transport if the action failed.
        result: return value of the operation; set once `next_action` has returned None.
    """

    result: T

    def __init__(self, operation: Operation[T]) -> None:
        self._operation = operation
        self.answer: object = None
        self.failure: BaseException | None = None

    def next_action(self) -> Action | None:
        """Resume the operation; return its next action, or None if it has ended."""
        answer, failure = self.answer, self.failure
        self.answer = self.failure = None
        try:
            if failure is not None:
                return self._operation.throw(failure)
            return self._operation.send(answer)
        except StopIteration as end:
            self.result = end.value
            return None


def handle_updates(operation: Operation[T], on_update: Callable[[Update], None]) -> Operation[T]:
    """Call a function with each update of an operation, instead of reporting it.

    An exception of that function is raised inside the operation.
    """
    execution = Execution(operation)
    while action := execution.next_action():
        try:
            if isinstance(action, Report):
                on_update(action.update)
            else:
                execution.answer = yield action
        except BaseException as error:  # noqa: BLE001, PERF203 - the operation handles it
            execution.failure = error
    return execution.result
