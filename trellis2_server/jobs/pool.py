"""`Pool`: the threads of one kind, and how many calls each client has on them.

Does not know: what runs on them, event loops.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection
    from concurrent.futures import ThreadPoolExecutor


@dataclass(slots=True, eq=False)
class Pool:
    """Threads of one kind.

    Attributes:
        executor: runs calls on them.
        size: number of calls that may run at one time.
        spare: number of further calls, each for a client of which no other one runs.
        running: number of calls that have not returned.
        hung: number of those that nobody waits for any more: they exceeded their time limit.
        held: number of the other ones of each client.
    """

    executor: ThreadPoolExecutor
    size: int
    spare: int = 0
    running: int = 0
    hung: int = 0
    held: Counter[str] = field(default_factory=Counter[str])

    @property
    def has_room(self) -> bool:
        """Whether another call may start, of some client."""
        return self.running < self.size + self.spare

    def has_room_for(self, clients: Collection[str]) -> bool:
        """Return whether another call may start that these clients wait for."""
        return self.running < self.size or (self.has_room and self.is_any_idle(clients))

    def is_any_idle(self, clients: Collection[str]) -> bool:
        """Return whether no call runs that one of these clients waits for."""
        return not all(self.held[client] for client in clients or [""])

    def take_place(self, clients: Collection[str]) -> str:
        """Count a call that starts; return the client whose place it takes."""
        client = min(clients or [""], key=self.held.__getitem__)
        self.running += 1
        self.held[client] += 1
        return client

    def leave_place(self, client: str, *, is_hung: bool) -> None:
        """Count a call that has returned, or that nobody waits for any more."""
        self.held[client] -= 1
        if not self.held[client]:
            del self.held[client]
        if is_hung:
            self.hung += 1
        else:
            self.running -= 1

    @property
    def is_stuck(self) -> bool:
        """Whether every thread is in a call that exceeded its time limit."""
        return self.hung >= self.size + self.spare
