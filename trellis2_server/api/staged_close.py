"""`StagedTransport`: closes a connection in stages, where the client may still be sending.

Does not know: HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

#: Seconds that a closed connection discards what the client still sends.
LINGER_S: Final = 5.0


class StagedTransport:
    """A transport with another `close`.

    A socket that is closed while bytes of the client are unread is reset, and a reset destroys
    what the client has not read yet: the response that says why its body was refused. So `close`
    ends the response first; then, for `LINGER_S` at most, what arrives is discarded, until the
    client closes (RFC 9112, section 9.6). Transports that cannot end one direction only, as with
    TLS, are closed at once.

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
        self._deadline: asyncio.TimerHandle | None = None
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
        self._schedule_end()

    def closed(self) -> None:
        """Note that the connection is lost."""
        if self._deadline is not None:
            self._deadline.cancel()

    def _schedule_end(self) -> None:
        self._deadline = self._loop.call_later(LINGER_S, self._end)

    def _end(self) -> None:
        if self._transport.get_write_buffer_size():  # the client still reads the response
            self._schedule_end()
        else:
            self._transport.abort()
