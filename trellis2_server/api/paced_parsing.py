"""Parse what clients send in bounded turns, so that no client holds the event loop.

A body may consist of chunks of one byte: 256 KiB, the most that is received at once, are then
forty thousand events of h11, each of which costs as much as one of a large chunk. So parsing stops
after a number of events and goes on in the next turn of the event loop; meanwhile nothing more is
read from the connection. All connections share the events of a turn.

Does not know: what is done with a request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import h11
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

#: Events of all connections in one turn of the event loop; about 2 ms.
EVENTS_A_TURN: Final = 256
#: Time between two turns of which the first one was not enough, seconds: as long as a turn, so that
#: threads get the interpreter, which a busy event loop would keep from them.
PAUSE_S: Final = 0.002
#: An event with that much of a body is worth its cost, and is not counted. There are 256 of them
#: at most in what is received at once.
LARGE_BYTES: Final = 1_024
#: Events that a connection may always have when something arrives: those of an ordinary request,
#: which thus never waits for others.
FREE_EVENTS: Final = 16


class ParsingTurns:
    """Shares the events of each turn of the event loop between connections. Belongs to its thread.

    Connections that have more to parse go on in the order in which they had to stop.
    """

    def __init__(self) -> None:
        self._left = EVENTS_A_TURN
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_scheduled = False

    @property
    def is_over(self) -> bool:
        """Whether no more events may be parsed in this turn."""
        return self._left <= 0

    def count_event(self) -> None:
        """Count an event of this turn."""
        self._schedule()
        self._left -= 1

    def go_on_later(self, parse: Callable[[], None]) -> None:
        """Call `parse` in a later turn."""
        self._waiting.append(parse)
        self._schedule()

    def forget(self, parse: Callable[[], None]) -> None:
        """Do not call it any more, if it waits."""
        if parse in self._waiting:
            self._waiting.remove(parse)

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            loop = asyncio.get_running_loop()
            # When the loop is late, what arrives has just been parsed in the same round: who waits
            # for it goes first.
            loop.call_later(PAUSE_S, loop.call_soon, self._begin_turn)

    def _begin_turn(self) -> None:
        self._is_scheduled = False
        self._left = EVENTS_A_TURN
        for _ in range(len(self._waiting)):
            if self._left <= 0:
                break
            self._waiting.popleft()()
        if self._waiting:
            self._schedule()


class PacedParser(h11.Connection):
    """h11's state of a server's connection, which says that it needs data when its turn is over.

    Args:
        max_incomplete_event_size: see `h11.Connection`.
        turns: shared by all connections.

    Attributes:
        is_paused: whether the turn was over while there may have been more to parse.
    """

    def __init__(self, max_incomplete_event_size: int, turns: ParsingTurns) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size)
        self.is_paused = False
        self._turns = turns
        self._free_events = 0

    def begin_turn(self, *, is_first: bool) -> None:
        """Begin to parse what has arrived, or go on with it."""
        self.is_paused = False
        self._free_events = FREE_EVENTS if is_first else 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        """Return the next event; `NEED_DATA` if there is none, or none more in this turn."""
        if not self._free_events and self._turns.is_over:
            self.is_paused = True
            return h11.NEED_DATA
        event = super().next_event()
        if isinstance(event, h11.Data) and len(event.data) >= LARGE_BYTES:
            return event
        if self._free_events:
            self._free_events -= 1
        else:
            self._turns.count_event()
        return event


class SharedFlow(FlowControl):
    """Flow control of a connection that the parser can hold, too.

    Attributes:
        is_held: whether nothing is read, whatever the application wants.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self.is_held = False

    def resume_reading(self) -> None:
        """Read on, unless the parser holds the connection: then as soon as it is released."""
        if self.is_held:
            self.read_paused = False
        else:
            super().resume_reading()

    def hold(self) -> None:
        """Read nothing more."""
        self.is_held = True
        self._transport.pause_reading()

    def release(self) -> None:
        """Read on, if the application wants that."""
        self.is_held = False
        if not self.read_paused:
            self._transport.resume_reading()


class PacedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, with parsing in turns.

    Args:
        turns: shared by all connections.
        max_head_bytes: maximum size of a request's line and headers, bytes.
        uvicorn_arguments: arguments of uvicorn's protocol.
    """

    def __init__(
        self, *, turns: ParsingTurns, max_head_bytes: int, **uvicorn_arguments: Any
    ) -> None:
        super().__init__(**uvicorn_arguments)
        self._turns = turns
        self._parser = PacedParser(max_head_bytes, turns)
        self.conn = self._parser

    @property
    def has_more_to_parse(self) -> bool:
        """Whether the connection waits for its turn."""
        return self._flow.is_held

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection."""
        super().connection_made(transport)
        self._flow = SharedFlow(transport)
        self.flow = self._flow

    def connection_lost(self, exc: Exception | None) -> None:
        """Parse no more."""
        self._turns.forget(self._parse_on)
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Parse what has been received, and start or continue its request."""
        if self._flow.is_held:
            return  # `_parse_on` follows
        self._parser.begin_turn(is_first=True)
        super().handle_events()
        if self._parser.is_paused and not self.transport.is_closing():
            self._flow.hold()
            self._turns.go_on_later(self._parse_on)

    def _parse_on(self) -> None:
        """Parse more of what has been received; when that is done, receive more."""
        if self.transport.is_closing():
            return
        self._parser.begin_turn(is_first=False)
        super().handle_events()
        if self.transport.is_closing():
            return
        if self._parser.is_paused:
            self._turns.go_on_later(self._parse_on)
        else:
            self._flow.release()
