"""Following a job by server-sent events."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trellis2_server.client.errors import BusyError, ProtocolError, UnreachableError
from trellis2_server.client.protocol import retry
from trellis2_server.client.protocol.actions import Open, Read, Report
from trellis2_server.client.protocol.replies import read_name, read_object, read_state

if TYPE_CHECKING:
    from collections.abc import Generator

    from trellis2_server.client.protocol.actions import Operation
    from trellis2_server.client.protocol.replies import Reply
    from trellis2_server.client.protocol.retry import Backoff
    from trellis2_server.client.records import JobState


def follow(uid: str, backoff: Backoff, *, until_shape: bool = False) -> Operation[JobState]:
    """Report each state of a job; return the last one.

    A lost connection is opened again and continues with the state at that time.

    Args:
        uid: identifier of the job.
        backoff: delays between retries.
        until_shape: return the first state in which the untextured model exists.

    Raises:
        NotFoundError: the server has no such job, or no events.
    """
    while True:
        try:
            return (yield from _read_events(uid, backoff, until_shape=until_shape))
        except (UnreachableError, BusyError) as error:  # noqa: PERF203 - the reason for the loop
            yield from retry.pause(error, backoff)


def _read_events(uid: str, backoff: Backoff, *, until_shape: bool) -> Operation[JobState]:
    reply: Reply = yield Open(f"events/{read_name(uid)}", {"Accept": "text/event-stream"})
    reply.raise_for_status()
    if not reply.headers.get("content-type", "").startswith("text/event-stream"):
        raise ProtocolError("the reply is not an event stream", status=reply.status)
    parser = EventParser()
    is_first = True
    while chunk := (yield Read()):
        for event, data in parser.feed(chunk):
            state = read_state(read_object(data))
            # A server that closes the connection after one event is retried with growing delays.
            backoff.restart_limit() if is_first else backoff.reset()
            is_first = False
            yield Report(state)
            if event == "end" or (until_shape and state.shape_ready):
                return state
    raise UnreachableError("the server closed the connection")


class EventParser:
    """Incremental parser of server-sent events.

    As in WHATWG's HTML standard, except that an event is only complete if the line break after
    its last line was received.
    """

    def __init__(self) -> None:
        self._pending = b""
        self._name = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Generator[tuple[str, str]]:
        """Yield name and data of each event that these bytes complete."""
        self._pending += chunk
        # A carriage return at the very end may be the first half of a line break.
        *lines, self._pending = re.split(rb"\r\n|\n|\r(?!\Z)", self._pending)
        for line in lines:
            if line:
                self._read_line(line.decode("utf-8", "replace"))
            elif self._data:
                yield self._name or "message", "\n".join(self._data)
                self._name, self._data = "", []
            else:
                self._name = ""

    def _read_line(self, line: str) -> None:
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if key == "event":
            self._name = value
        elif key == "data":
            self._data.append(value)
