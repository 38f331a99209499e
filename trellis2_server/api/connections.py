"""Limits per connection, on top of uvicorn's HTTP/1.1.

The request head must arrive within a time limit, bodies must be transferred at a minimum rate,
and the number of connections is limited, also that of one client; when it is exceeded, the
connection that has waited the longest for a request is closed. Slow clients, and clients with many
connections, thus do not block others. A request whose body is not read to its end closes its
connection. What arrives is parsed in bounded turns (`paced_parsing`). Error responses have the
body `{text, error_code}`, like those of the routes.

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

from trellis2_server import request_ids
from trellis2_server.api.client_connections import ClientConnections
from trellis2_server.api.paced_parsing import PacedProtocol, ParsingTurns
from trellis2_server.api.staged_close import StagedTransport
from trellis2_server.api.transfer_allowance import TransferAllowance

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn.protocols.http.h11_impl import RequestResponseCycle

    from trellis2_server.settings import ServerSettings

logger = logging.getLogger(__name__)

#: Interval of the time-limit checks, seconds; shorter if the limit itself is short.
CHECK_INTERVAL_S: Final = 1.0
#: Limit of the request line and headers, bytes.
MAX_HEAD_BYTES: Final = 32_768
#: Bytes of a head that are parsed at once. h11 limits incomplete heads only: one of 256 KiB, the
#: most that is received at once, would pass.
HEAD_SLICE_BYTES: Final = 8_192
#: Seconds after which a connection without a request is closed.
KEEP_ALIVE_S: Final = 30
CONNECTIONS_FULL_RETRY_AFTER_S: Final = 5

_CLOSE: Final = (b"connection", b"close")
_NOT_NOW_CODE: Final = 3
#: Texts for the statuses that h11 hints at; 400 for all other invalid requests.
_INVALID: Final = {
    431: f"the request's head is over the limit of {MAX_HEAD_BYTES} bytes",
    501: "of the transfer codings, only chunked is supported",
}


def uvicorn_config(app: ASGIApp, settings: ServerSettings) -> uvicorn.Config:
    """Return the configuration of uvicorn for an application."""
    connection = partial(
        Connection,
        timeout_s=settings.transfer_timeout_seconds,
        max_connections=settings.max_connections,
        clients=ClientConnections(settings.max_connections_per_client, settings.trusted_proxies),
        turns=ParsingTurns(),
    )
    return uvicorn.Config(
        app,
        host=settings.host[0],  # where no sockets are given
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        # Without a proxy the header is not read at all. Given `None`, uvicorn would trust this
        # machine, or what the environment variable FORWARDED_ALLOW_IPS says.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_graceful_shutdown=round(settings.shutdown_grace_seconds) + 1,
        timeout_keep_alive=KEEP_ALIVE_S,
        http=connection,  # pyright: ignore[reportArgumentType]
        ws="none",
    )


class Connection(PacedProtocol):
    """The connection of one client.

    A connection can be in three limited phases: *waiting* for the head of a request,
    *receiving* a body, or *sending* a response that the client does not read fast enough. Each
    phase may last as long as its `TransferAllowance` of `timeout_s` allows. All other phases have
    no limit.

    Args:
        timeout_s: time limit of a phase in which nothing is transferred, seconds.
        max_connections: limit of the connections of all clients together.
        clients: the connections by client.
        turns: when the connections parse what they have received.
        uvicorn_arguments: arguments of uvicorn's protocol.

    Attributes:
        phase_begin_s: when the current phase began, monotonic seconds.
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        max_connections: int,
        clients: ClientConnections[Connection],
        turns: ParsingTurns,
        **uvicorn_arguments: Any,
    ) -> None:
        super().__init__(turns=turns, max_head_bytes=MAX_HEAD_BYTES, **uvicorn_arguments)
        self.access_log = False  # `RequestContextMiddleware` logs requests, without their query
        self._timeout_s = timeout_s
        self._max_connections = max_connections
        self._clients = clients
        self._phase = ""
        self.phase_begin_s = 0.0
        self._allowance = TransferAllowance(timeout_s)
        self._received = 0
        self._written = 0
        self.app = self._watch_sent(self.app)
        self._next_check: asyncio.TimerHandle | None = None

    def _watch_sent(self, app: ASGIApp) -> ASGIApp:
        """Wrap the application to count what it sends, and to close after certain requests."""

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_and_count(message: Message) -> None:
                if message["type"] == "http.response.start" and self._must_close(scope):
                    headers = [each for each in message["headers"] if each[0] != b"connection"]
                    message = {**message, "headers": [*headers, _CLOSE]}
                await send(message)
                self._written += len(message.get("body", b""))

            await app(scope, receive, send_and_count)

        return watched

    def _must_close(self, scope: Scope) -> bool:
        """Return whether the connection must not be used for another request.

        That is so if the body has not arrived completely: nobody wants the rest of it. And if the
        head has two lengths: another server before this one may have believed the other one, and
        take the end of this request for the next one (RFC 9112, section 6.1).
        """
        names = {name for name, _ in scope["headers"]}
        has_two_lengths = {b"content-length", b"transfer-encoding"} <= names
        return has_two_lengths or self.conn.their_state is h11.SEND_BODY

    # ---- called by uvicorn -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection; if there are too many, close a waiting one, or refuse this one."""
        super().connection_made(transport)
        self._staged = StagedTransport(transport, self._is_client_sending, self.loop)
        self.transport = cast("asyncio.Transport", self._staged)
        self.phase_begin_s = time.monotonic()
        too_many: Iterable[object] = self._clients.add(self._address, self)
        if not too_many and len(self.connections) > self._max_connections:
            too_many = self.connections
        if too_many and not self._close_a_waiting_one(too_many):
            is_one_client = too_many is not self.connections
            logger.warning(
                "Too many connections",
                extra={"client": self._address, "of": "one client" if is_one_client else "all"},
            )
            whose = " from your address" if is_one_client else ""
            self._refuse(503, f"too many connections{whose}", code=_NOT_NOW_CODE)
            return
        self._schedule_check()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time-limit checks."""
        if self._next_check is not None:
            self._next_check.cancel()
        self._staged.closed()
        self._clients.discard(self._address, self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the received bytes and pass them on, unless they are of a refused request."""
        if self._staged.is_lingering:
            self._staged.discard(len(data))
            return
        self._received += len(data)
        at = 0
        while (
            at < len(data) and self.conn.their_state is h11.IDLE and not self._staged.is_closing()
        ):
            super().data_received(data[at : at + HEAD_SLICE_BYTES])
            at += HEAD_SLICE_BYTES
        if at < len(data) and not self._staged.is_closing():
            super().data_received(data[at:])

    def shutdown(self) -> None:
        """Close the connection when the server shuts down, after a response in progress."""
        if self._staged.is_lingering:
            self.drop("shutting down")
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Refuse invalid HTTP; called while the parser's error is handled."""
        del msg
        status: int = getattr(sys.exc_info()[1], "error_status_hint", 400)
        if status in _INVALID:
            self._refuse(status, _INVALID[status])
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
        """Whether the connection waits for the head of its next request, or only for its end."""
        return self.conn.our_state is h11.IDLE or self._staged.is_lingering

    def _is_client_sending(self) -> bool:
        return self.conn.their_state in {h11.SEND_BODY, h11.ERROR}

    def _close_a_waiting_one(self, connections: Iterable[object]) -> bool:
        """Close the one that has waited the longest; return whether there was one."""
        waiting = [
            other
            for other in connections
            if isinstance(other, Connection) and other is not self and other.is_waiting
        ]
        if not waiting:
            return False
        min(waiting, key=lambda other: other.phase_begin_s).drop("replaced by a newer connection")
        return True

    def _current_phase(self) -> str:
        if self.transport.get_write_buffer_size():
            return "sending"
        if self.has_more_to_parse:  # the server has more to parse than it has time for
            return ""
        if self._staged.is_lingering:  # it has a limit of its own
            return ""
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
            self._phase, self.phase_begin_s = phase, now
            self._allowance.restart(now, moved)
        elif not self._allowance.go_on(now, moved) and phase:
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
        # At once, not when it is lost: the next one must not take it for one that still waits.
        self.connections.discard(self)
        self._clients.discard(self._address, self)
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
            _CLOSE,
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
