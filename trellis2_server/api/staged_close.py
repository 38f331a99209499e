"""`StagedTransport`: closes a connection in stages, where the client may still be sending.

Does not know: HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

#: Seconds that a closed connection at most discards what the client still sends.
LINGER_S: Final = 5.0
#: Seconds after which a client that sends nothing has read the response, or never will.
QUIET_S: Final = 1.0


class StagedTransport:
    """A transport with another `close`.

    A socket that is closed while bytes of the client are unread is reset, and a reset destroys
    what the client has not read yet: the response that says why its body was refused. So `close`
    ends the response first; then, for `LINGER_S` at most, what arrives is discarded, until the
    client closes or is quiet (RFC 9112, section 9.6). Transports that cannot end one direction
    only, as with TLS, are closed at once.

    Args:
        transport: the transport.
        is_receiving: whether the client may still be sending.
        loop: the event loop.

    Attributes:
        is_lingering: whether the connection is closed but for discarding what arrives.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        is_receiving: Callable[[], bool],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._transport = transport
        self._is_receiving = is_receiving
        self._loop = loop
        self._next_check: asyncio.TimerHandle | None = None
        self._end_s = 0.0
        self._has_received = False
        self.is_lingering = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Return whether nothing more can be sent."""
        return self.is_lingering or self._transport.is_closing()

    def close(self) -> None:
        """Close after what has been written is sent."""
        if self.is_closing():
            return
        if not (self._is_receiving() and self._transport.can_write_eof()):
            self._transport.close()
            return
        self.is_lingering = True
        self._transport.write_eof()
        self._transport.resume_reading()
        self._end_s = self._loop.time() + LINGER_S
        self._schedule_check()

    def discard(self) -> None:
        """Note that something has arrived which nobody wants."""
        self._has_received = True

    def closed(self) -> None:
        """Note that the connection is lost."""
        if self._next_check is not None:
            self._next_check.cancel()

    def _schedule_check(self) -> None:
        self._has_received = False
        self._next_check = self._loop.call_later(min(QUIET_S, LINGER_S), self._check)

    def _check(self) -> None:
        is_reading = self._transport.get_write_buffer_size() > 0
        if is_reading or (self._has_received and self._loop.time() < self._end_s):
            self._schedule_check()
        else:
            self._transport.abort()
