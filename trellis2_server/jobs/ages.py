"""`JobAges`: when each finished job has finished, or was last asked for.

Does not know: jobs, how long one is kept, where times are recorded.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Minimum time between two records of requests for the same job, seconds.
RECORD_INTERVAL_S: Final = 60.0


class JobAges:
    """The finished jobs, by uid, with seconds of the manager's clock."""

    def __init__(self) -> None:
        self._uses: OrderedDict[str, float] = OrderedDict()
        self._are_sorted = True
        self._recorded: dict[str, float] = {}

    def set(self, uid: str, finished_at: float | None) -> None:
        """Note when a job has finished; None: it is not finished, or is removed."""
        if finished_at is None:
            self._uses.pop(uid, None)
            self._recorded.pop(uid, None)
        else:
            self._recorded[uid] = finished_at
            self._note(uid, finished_at)

    def note_request(self, uid: str, now: float) -> bool:
        """Note that a client has asked for a job; return whether to record it.

        That is so at most once in `RECORD_INTERVAL_S`, and for finished jobs only.
        """
        if uid not in self._uses:
            return False
        self._note(uid, max(now, self._uses[uid]))
        if now < self._recorded[uid] + RECORD_INTERVAL_S:
            return False
        self._recorded[uid] = now
        return True

    def restore(self, uses: Mapping[str, float]) -> None:
        """Note when finished jobs were asked for in an earlier process, by uid."""
        for uid, at in uses.items():
            if uid in self._uses:
                self._note(uid, max(at, self._uses[uid]))

    def _note(self, uid: str, at: float) -> None:
        newest = next(reversed(self._uses.values()), at)
        self._are_sorted = self._are_sorted and at >= newest
        self._uses[uid] = at
        self._uses.move_to_end(uid)

    def oldest_first(self) -> Iterator[tuple[str, float]]:
        """Return each finished job and its time; the earliest time first."""
        if not self._are_sorted:  # jobs of an earlier process were restored
            self._uses = OrderedDict(sorted(self._uses.items(), key=lambda use: use[1]))
            self._are_sorted = True
        return iter(self._uses.items())
