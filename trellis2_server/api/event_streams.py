"""`EventStreams`: how many event streams each client has open.

Does not know: HTTP, what is sent.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from trellis2_server.errors import TooManyRequestsError

if TYPE_CHECKING:
    from collections.abc import Generator

#: When to try again: streams end with their jobs.
RETRY_AFTER_S: Final = 10


class EventStreams:
    """Counts open streams. Belongs to the event loop's thread.

    Args:
        max_per_client: limit of one client's streams; None: unlimited.
    """

    def __init__(self, max_per_client: int | None) -> None:
        self._max = max_per_client
        self._open: Counter[str] = Counter()

    @contextmanager
    def hold(self, client: str) -> Generator[None]:
        """Count a stream while the context is open.

        Args:
            client: identity of the client, as in `Caller.client`.

        Raises:
            TooManyRequestsError: the client has too many streams.
        """
        if self._max is not None and self._open[client] >= self._max:
            raise TooManyRequestsError(
                f"too many event streams: at most {self._max} at a time",
                retry_after_s=RETRY_AFTER_S,
            )
        self._open[client] += 1
        try:
            yield
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]
