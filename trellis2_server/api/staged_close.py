"""`StagedTransport`: closes a connection in stages, where the client may still be sending.

Does not know: HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from trellis2_server.api.transfer_allowance import MIN_BYTES_PER_S

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

#: Limits of what a closed connection discards: a body that somebody sends by mistake, as slowly as
#: over a telephone's connection. Many clients read the response only after they have sent it all.
LINGER_S: Final = 120.0
LINGER_BYTES: Final = 2**30
#: Seconds during which a client may send as slowly as it likes.
SLOW_S: Final = 5.0
#: Seconds after which a client that sends nothing has read the response, or never will.
QUIET_S: Final = 2.0


class StagedTransport:
    """A transport with another `close`.

    A socket that is closed while bytes of the client are unread is reset, and a reset destroys
    what the client has not read yet: the response that says why its body was refused. So `close`
    ends the response first; then what arrives is discarded, until the client closes, is quiet, or
    exceeds a limit (RFC 9112, section 9.6). A lingering connection gives way to new ones.
    Transports that cannot end one direction only, as with TLS, are closed at once.

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
        self._begin_s = 0.0
        self._received = self._received_since_check = 0
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
        self._begin_s = self._loop.time()
        self._schedule_check()

    def discard(self, size: int) -> None:
        """Count bytes that have arrived and that nobody wants."""
        self._received += size
        self._received_since_check += size

    def closed(self) -> None:
        """Note that the connection is lost."""
        if self._next_check is not None:
            self._next_check.cancel()

    def _schedule_check(self) -> None:
        self._received_since_check = 0
        self._next_check = self._loop.call_later(min(QUIET_S, LINGER_S), self._check)

    def _check(self) -> None:
        is_reading = self._transport.get_write_buffer_size() > 0
        if is_reading or self._may_go_on(self._loop.time() - self._begin_s):
            self._schedule_check()
        else:
            self._transport.abort()

    def _may_go_on(self, lingered_s: float) -> bool:
        if lingered_s >= LINGER_S or self._received > LINGER_BYTES:
            return False
        least = 1 if lingered_s <= SLOW_S else MIN_BYTES_PER_S * QUIET_S
        return self._received_since_check >= least
