"""`TransferAllowance`: how long a transfer may go on, depending on its rate.

Does not know: connections, what is transferred.
"""

from __future__ import annotations

from typing import Final

#: Minimum transfer rate: this many bytes allow one more second.
MIN_BYTES_PER_S: Final = 16_384


class TransferAllowance:
    """A bucket of seconds, full at first: time empties it, transferred bytes fill it.

    It holds no more than it had at first. So a transfer that stops ends after that time, whatever
    was transferred before, and one at the minimum rate may go on without end.

    Args:
        capacity_s: seconds that the bucket holds.
    """

    def __init__(self, capacity_s: float) -> None:
        self._capacity_s = self._left_s = capacity_s
        self._now_s = 0.0
        self._moved_bytes = 0

    def restart(self, now_s: float, moved_bytes: int) -> None:
        """Begin a transfer.

        Args:
            now_s: the time, monotonic seconds.
            moved_bytes: bytes that were transferred before.
        """
        self._left_s = self._capacity_s
        self._now_s, self._moved_bytes = now_s, moved_bytes

    def go_on(self, now_s: float, moved_bytes: int) -> bool:
        """Count time and bytes since the last call; return whether the transfer may go on.

        Args:
            now_s: the time, monotonic seconds.
            moved_bytes: bytes that have been transferred altogether.
        """
        gained_s = max(0, moved_bytes - self._moved_bytes) / MIN_BYTES_PER_S
        left_s = self._left_s + gained_s - (now_s - self._now_s)
        self._left_s = min(self._capacity_s, left_s)
        self._now_s, self._moved_bytes = now_s, moved_bytes
        return self._left_s >= 0
