"""How connections are served: uvicorn's HTTP/1.1, with limits that it does not have.

A client has so long for a request's head; a body must come, and a reply be taken, at a pace;
and there is room for so many connections, of which those that ask for nothing give way first.
So a client that holds a connection open, or many, holds up nobody else. Refusals have the
form of every other one.

What this module does not know: routes, who is served.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from trellis2_server import request_ids

if TYPE_CHECKING:
    import asyncio

    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn.protocols.http.h11_impl import RequestResponseCycle

    from trellis2_server.settings import ServerSettings

logger = logging.getLogger(__name__)

#: Each so many bytes that come or go give a connection a second more.
LEAST_BYTES_PER_S: Final = 16_384
#: How often connections are looked at, in seconds; less where the limit itself is short.
LOOK_INTERVAL_S: Final = 1.0
#: A request's line and headers, bytes.
MAX_HEAD_BYTES: Final = 32_768
#: Seconds that a connection is kept without a request.
KEEP_ALIVE_S: Final = 30
RETRY_AFTER_FULL_S: Final = 5

_TOO_LARGE: Final = 431


def uvicorn_config(app: ASGIApp, settings: ServerSettings) -> uvicorn.Config:
    """How uvicorn is to serve that app."""
    connection = partial(
        Connection,
        patience_s=settings.transfer_timeout_seconds,
        max_connections=settings.max_connections,
    )
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_graceful_shutdown=round(settings.shutdown_grace_seconds) + 1,
        timeout_keep_alive=KEEP_ALIVE_S,
        http=connection,  # pyright: ignore[reportArgumentType]
        ws="none",
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )


class Connection(H11Protocol):
    """One client's connection.

    A connection is *waiting* for a request's head, *receiving* its body, or *sending* a
    reply that its client is slow to take; in any other state it may stay. Each of the three
    may last `patience_s` and a second more for each `LEAST_BYTES_PER_S` that it moves.

    Args:
        patience_s: seconds.
        max_connections: of all clients together.
        given: uvicorn's own.
    """

    def __init__(self, *, patience_s: float, max_connections: int, **given: Any) -> None:
        super().__init__(**given)
        self.access_log = False  # `middleware` has a line for each request, without its query
        self._patience_s = patience_s
        self._max_connections = max_connections
        self._phase = ""
        self._since = 0.0
        self._moved_before = 0
        self._received = 0
        self._written = 0
        self.app = self._counted(self.app)
        self._look: asyncio.TimerHandle | None = None

    def _counted(self, app: ASGIApp) -> ASGIApp:
        """The app, with what it sends counted."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            async def count(message: Message) -> None:
                await send(message)
                self._written += len(message.get("body", b""))

            await app(scope, receive, count)

        return counted

    # ---- uvicorn's calls -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a client in, in the place of one that asks for nothing if need be."""
        super().connection_made(transport)
        self._since = time.monotonic()
        if len(self.connections) > self._max_connections and not self._make_room():
            logger.warning("Too many connections", extra={"client": self._address})
            self._refuse(503, "too many connections", code=3)
            return
        self._look_again()

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came, and count it."""
        self._received += len(data)
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; called while the parser's error is handled."""
        del msg
        error = sys.exc_info()[1]
        if getattr(error, "error_status_hint", 400) == _TOO_LARGE:
            self._refuse(
                _TOO_LARGE, f"the request's head is over the limit of {MAX_HEAD_BYTES} bytes"
            )
        else:
            self._refuse(400, "this is no HTTP request")

    def _should_upgrade(self) -> bool:
        return False  # there is nothing to upgrade to, and it is no reason for a warning

    # ---- the limits --------------------------------------------------------------------------

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def is_waiting(self) -> bool:
        """Whether no request is being answered, nor has one come whole."""
        return self.conn.our_state is h11.IDLE

    def _age_key(self) -> float:
        return self._since

    def _make_room(self) -> bool:
        """Close the connection that has waited the longest; False: every one is at work."""
        waiting = [
            other
            for other in self.connections
            if isinstance(other, Connection) and other is not self and other.is_waiting
        ]
        if not waiting:
            return False
        min(waiting, key=Connection._age_key).drop("a newer one took its place")
        return True

    def _present(self) -> str:
        if self.transport.get_write_buffer_size():
            return "sending"
        if self.conn.their_state is h11.SEND_BODY:
            return "receiving"
        if self.is_waiting and self.timeout_keep_alive_task is None:
            return "waiting"
        return ""

    def _look_again(self) -> None:
        interval_s = min(LOOK_INTERVAL_S, self._patience_s / 4)
        self._look = self.loop.call_later(interval_s, self._look_at)

    def _look_at(self) -> None:
        self._look_again()  # even where it is closing: the end of a reply may be on its way
        now, phase = time.monotonic(), self._present()
        moved = self._received + self._written - self.transport.get_write_buffer_size()
        if phase != self._phase:
            self._phase, self._since, self._moved_before = phase, now, moved
        more_s = max(0, moved - self._moved_before) / LEAST_BYTES_PER_S
        if phase and now - self._since > self._patience_s + more_s:
            self._time_out(phase)

    def _time_out(self, phase: str) -> None:
        logger.info("Connection too slow", extra={"client": self._address, "phase": phase})
        if phase == "receiving" and self.conn.our_state is h11.SEND_RESPONSE:
            self._refuse(408, "the request's body came too slowly")
        else:
            self.drop("too slow")

    def drop(self, why: str) -> None:
        """Close it at once."""
        logger.debug("Connection dropped", extra={"client": self._address, "why": why})
        self.transport.abort()

    def _refuse(self, status: int, text: str, *, code: int = 1) -> None:
        """Reply that and close; where a reply has begun already, close."""
        request_id = request_ids.choose(None)
        logger.info(
            "Refused",
            extra={"client": self._address, "status": status, "request_id": request_id},
        )
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None before the first
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started:
                self.transport.abort()
                return
            cycle.disconnected = True  # for the app, the client has left
            cycle.message_event.set()
        body = json.dumps({"text": text, "error_code": code}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
            (b"x-request-id", request_id.encode()),
        ]
        if code == 3:  # noqa: PLR2004 - not now
            headers.append((b"retry-after", str(RETRY_AFTER_FULL_S).encode()))
        # Not by way of the parser, which may be in a state that allows no reply.
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(head + lines + b"\r\n" + body)
        self.transport.close()
