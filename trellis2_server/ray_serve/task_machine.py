"""`TaskMachine`: the machine of a Ray task, and whether it was lost.

Ray ends the calls of an actor when the cluster gives up the actor's machine. The calls of a task
end then only if its process closes its connections. If the machine is cut off, or loses its power,
they end when TCP and gRPC give up, minutes later.

Does not know: what a task does.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

import ray
from ray.exceptions import NodeDiedError

from trellis2_server.races import result_unless

if TYPE_CHECKING:
    from collections.abc import Awaitable

T = TypeVar("T")

#: Time between two queries of the machines' state, seconds.
CHECK_INTERVAL_S: Final = 3.0
_LOST: Final = "the machine of a task was lost"


class TaskMachine:
    """The machine of one task.

    Args:
        preferred: Ray's id of the machine on which the task runs unless that is lost; None: any.

    Attributes:
        node: Ray's id of the machine, as far as it is known.
    """

    def __init__(self, preferred: str | None) -> None:
        self.node = None if preferred is None or is_lost(preferred) else preferred

    def note(self, node: str) -> None:
        """Note the machine on which the task has started."""
        self.node = node

    async def watch(self, outcome: Awaitable[T]) -> T:
        """Return the outcome of the task.

        Raises:
            NodeDiedError: the machine was lost; `outcome` is cancelled.
        """
        return await result_unless(outcome, self._wait_until_lost(), NodeDiedError(_LOST))

    async def _wait_until_lost(self) -> None:
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            if self.node is not None and await asyncio.to_thread(is_lost, self.node):
                return

    def get(self, reference: Any) -> Any:
        """Return what a task returns; blocks.

        Raises:
            NodeDiedError: the machine was lost.
        """
        while not ray.wait([reference], timeout=CHECK_INTERVAL_S)[0]:
            if self.node is not None and is_lost(self.node):
                raise NodeDiedError(_LOST)
        return ray.get(reference)


def is_lost(node: str) -> bool:
    """Return whether the cluster has given up a machine.

    Args:
        node: Ray's id of the machine.
    """
    return any(each["NodeID"] == node and not each["Alive"] for each in ray.nodes())
