"""Limits per connection, on top of uvicorn's HTTP/1.1.

The request head must arrive within a time limit, bodies must be transferred at a minimum rate,
and the number of connections is limited; when it is exceeded, the connection that has waited
the longest for a request is closed. Slow clients, and clients with many connections, thus do
not block others. Error responses have the body `{text, error_code}`, like those of the routes.

Does not know: routes, API keys.
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

#: Minimum transfer rate: each time this number of bytes is transferred, the time limit grows by
#: one second.
MIN_BYTES_PER_S: Final = 16_384
#: Interval of the time-limit checks, seconds; shorter if the limit itself is short.
CHECK_INTERVAL_S: Final = 1.0
#: Limit of the request line and headers, bytes.
MAX_HEAD_BYTES: Final = 32_768
#: Seconds after which a connection without a request is closed.
KEEP_ALIVE_S: Final = 30
CONNECTIONS_FULL_RETRY_AFTER_S: Final = 5

_HEADERS_TOO_LARGE: Final = 431
_NOT_NOW_CODE: Final = 3


def uvicorn_config(app: ASGIApp, settings: ServerSettings) -> uvicorn.Config:
    """Return the configuration of uvicorn for an application."""
    connection = partial(
        Connection,
        timeout_s=settings.transfer_timeout_seconds,
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
    """The connection of one client.

    A connection can be in three limited phases: *waiting* for the head of a request,
    *receiving* a body, or *sending* a response that the client does not read fast enough. Each
    phase may last `timeout_s`, plus one second per `MIN_BYTES_PER_S` transferred. All other
    phases have no limit.

    Args:
        timeout_s: time limit of a phase, seconds.
        max_connections: limit of the connections of all clients together.
        uvicorn_arguments: arguments of uvicorn's protocol.

    Attributes:
        phase_begin_s: when the current phase began, monotonic seconds.
    """

    def __init__(self, *, timeout_s: float, max_connections: int, **uvicorn_arguments: Any) -> None:
        super().__init__(**uvicorn_arguments)
        self.access_log = False  # `RequestContextMiddleware` logs requests, without their query
        self._timeout_s = timeout_s
        self._max_connections = max_connections
        self._phase = ""
        self.phase_begin_s = 0.0
        self._moved_before = 0
        self._received = 0
        self._written = 0
        self.app = self._count_sent(self.app)
        self._next_check: asyncio.TimerHandle | None = None

    def _count_sent(self, app: ASGIApp) -> ASGIApp:
        """Wrap the application to count the bytes that it sends."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_and_count(message: Message) -> None:
                await send(message)
                self._written += len(message.get("body", b""))

            await app(scope, receive, send_and_count)

        return counted

    # ---- called by uvicorn -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection; if there are too many, close a waiting one, or refuse this one."""
        super().connection_made(transport)
        self.phase_begin_s = time.monotonic()
        if len(self.connections) > self._max_connections and not self._close_a_waiting_one():
            logger.warning("Too many connections", extra={"client": self._address})
            self._refuse(503, "too many connections", code=_NOT_NOW_CODE)
            return
        self._schedule_check()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time-limit checks."""
        if self._next_check is not None:
            self._next_check.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the received bytes and pass them on."""
        self._received += len(data)
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Refuse invalid HTTP; called while the parser's error is handled."""
        del msg
        error = sys.exc_info()[1]
        if getattr(error, "error_status_hint", 400) == _HEADERS_TOO_LARGE:
            self._refuse(
                _HEADERS_TOO_LARGE,
                f"the request's head is over the limit of {MAX_HEAD_BYTES} bytes",
            )
        else:
            self._refuse(400, "this is not a valid HTTP request")

    def _should_upgrade(self) -> bool:
        return False  # no upgrade is supported; uvicorn would log a warning for each request

    # ---- the limits --------------------------------------------------------------------------

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def is_waiting(self) -> bool:
        """Whether the connection waits for the head of its next request."""
        return self.conn.our_state is h11.IDLE

    def _close_a_waiting_one(self) -> bool:
        """Close the connection that has waited the longest; return whether there was one."""
        waiting = [
            other
            for other in self.connections
            if isinstance(other, Connection) and other is not self and other.is_waiting
        ]
        if not waiting:
            return False
        min(waiting, key=lambda other: other.phase_begin_s).drop("replaced by a newer connection")
        return True

    def _current_phase(self) -> str:
        if self.transport.get_write_buffer_size():
            return "sending"
        if self.conn.their_state is h11.SEND_BODY:
            return "receiving"
        if self.is_waiting and self.timeout_keep_alive_task is None:
            return "waiting"
        return ""

    def _schedule_check(self) -> None:
        interval_s = min(CHECK_INTERVAL_S, self._timeout_s / 4)
        self._next_check = self.loop.call_later(interval_s, self._check)

    def _check(self) -> None:
        self._schedule_check()  # also while closing: the response may not be sent completely
        now, phase = time.monotonic(), self._current_phase()
        moved = self._received + self._written - self.transport.get_write_buffer_size()
        if phase != self._phase:
            self._phase, self.phase_begin_s, self._moved_before = phase, now, moved
        extra_s = max(0, moved - self._moved_before) / MIN_BYTES_PER_S
        if phase and now - self.phase_begin_s > self._timeout_s + extra_s:
            self._time_out(phase)

    def _time_out(self, phase: str) -> None:
        logger.info("Connection too slow", extra={"client": self._address, "phase": phase})
        if phase == "receiving" and self.conn.our_state is h11.SEND_RESPONSE:
            self._refuse(408, "the request's body arrived too slowly")
        else:
            self.drop("too slow")

    def drop(self, why: str) -> None:
        """Close the connection at once, without a response."""
        logger.debug("Connection dropped", extra={"client": self._address, "why": why})
        self.transport.abort()

    def _refuse(self, status: int, text: str, *, code: int = 1) -> None:
        """Send an error response and close; if a response has started, only close."""
        request_id = request_ids.choose(None)
        logger.info(
            "Request refused",
            extra={"client": self._address, "status": status, "request_id": request_id},
        )
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None before the first
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started:
                self.transport.abort()
                return
            cycle.disconnected = True  # the application sees a disconnected client
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
        if code == _NOT_NOW_CODE:
            headers.append((b"retry-after", str(CONNECTIONS_FULL_RETRY_AFTER_S).encode()))
        # Written without h11, whose state may not allow a response.
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(head + lines + b"\r\n" + body)
        self.transport.close()
