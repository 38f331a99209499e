"""`InflightBodies`: one budget of bytes for all request bodies that are received or parsed.

Bytes are taken before they are read, and given back when a job has the request's files (then
`worker.max_waiting_bytes` counts them) or when the request ends.

Does not know: HTTP, what is in a body.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from trellis2_server.errors import QueueFullError, TooManyRequestsError

#: When to try again. Bodies are received and parsed within seconds.
RETRY_AFTER_S: Final = 5


class InflightBodies:
    """The bytes in use, by client. Belongs to the event loop's thread.

    One client may use half of the budget, so that one client alone cannot have the others
    refused. Its only body may be larger than that: otherwise a body of `server.max_body_bytes`
    could never be received where the budget is small.

    Args:
        max_bytes: the budget.

    Attributes:
        used_bytes: what is in use.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.used_bytes = 0
        self._by_client: defaultdict[str, int] = defaultdict(int)

    def open(self, client: str) -> BodyAccount:
        """Return the account of one request, with no bytes taken.

        Args:
            client: identity of the client, as in `Caller.client`.
        """
        return BodyAccount(self, client)

    def check(self, client: str, own_bytes: int, more_bytes: int) -> None:
        """Check that a client may use more.

        Args:
            client: the client.
            own_bytes: what the same body uses already.
            more_bytes: what it needs beside that.

        Raises:
            QueueFullError: the budget is used up.
            TooManyRequestsError: the client's share is used up.
        """
        used = self._by_client.get(client, 0)
        others = used - own_bytes
        if others and used + more_bytes > self._max_bytes // 2:
            # 429, not 503: it is up to this client, and others are served.
            raise TooManyRequestsError(
                f"you are sending too much at the same time: {others} bytes of your other requests "
                "are being received",
                retry_after_s=RETRY_AFTER_S,
            )
        if self.used_bytes + more_bytes > self._max_bytes:
            raise QueueFullError(
                f"too much is being sent at the same time: {self.used_bytes} bytes of requests are "
                "being received",
                retry_after_s=RETRY_AFTER_S,
            )

    def change(self, client: str, more_bytes: int) -> None:
        """Count bytes that a client takes, or gives back (negative)."""
        self.used_bytes += more_bytes
        self._by_client[client] += more_bytes
        if not self._by_client[client]:
            del self._by_client[client]


class BodyAccount:
    """The bytes of one request's body.

    Args:
        bodies: the budget.
        client: the client.

    Attributes:
        held_bytes: what the request uses.
    """

    def __init__(self, bodies: InflightBodies, client: str) -> None:
        self._bodies = bodies
        self._client = client
        self.held_bytes = 0

    def reserve(self, size_bytes: int) -> None:
        """Take what is missing to hold that many bytes.

        Raises:
            QueueFullError: the budget is used up.
            TooManyRequestsError: the client's share is used up.
        """
        missing = size_bytes - self.held_bytes
        if missing > 0:
            self._bodies.check(self._client, self.held_bytes, missing)
            self._change(missing)

    def shrink(self, size_bytes: int) -> None:
        """Give back what is held beyond that many bytes."""
        self._change(min(size_bytes, self.held_bytes) - self.held_bytes)

    def close(self) -> None:
        """Give back everything."""
        self.shrink(0)

    def _change(self, more_bytes: int) -> None:
        if more_bytes:
            self.held_bytes += more_bytes
            self._bodies.change(self._client, more_bytes)
