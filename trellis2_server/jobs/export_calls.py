"""`ExportCalls`: exports that a request waits for, on the CPU pool, beside the jobs' steps.

Does not know: what is exported, which job it belongs to.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from trellis2_server.errors import EngineBrokenError, JobCancelledError, ServerError
from trellis2_server.jobs.threads import StepCancelled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trellis2_server.jobs.availability import Availability
    from trellis2_server.jobs.endings import JobEndings
    from trellis2_server.jobs.threads import ThreadPools
    from trellis2_server.reports import Report


@dataclass(slots=True, eq=False)
class ExportCall:
    """One export that a request waits for.

    Attributes:
        call: does the export; gets a `report` function.
        done: future that resolves to the file.
        deadline: seconds of the manager's clock.
        is_stopped: set when the request has gone; the call stops at its next report.
    """

    call: Callable[[Report], bytes | Awaitable[bytes]]
    done: asyncio.Future[bytes]
    deadline: float
    is_stopped: bool = False


class ExportCalls:
    """The export calls that wait and run. Belongs to the event loop's thread.

    Args:
        threads: where they run.
        availability: whether new work is accepted.
        endings: for fatal errors.
        clock: monotonic seconds.

    Attributes:
        on_change: called when a call was added, has ended or was withdrawn.
    """

    def __init__(
        self,
        threads: ThreadPools,
        availability: Availability,
        endings: JobEndings,
        clock: Callable[[], float],
    ) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._threads = threads
        self._availability = availability
        self._endings = endings
        self._clock = clock
        self._waiting: deque[ExportCall] = deque()
        self._running: set[ExportCall] = set()

    @property
    def waiting(self) -> int:
        """Number of calls that wait."""
        return len(self._waiting)

    @property
    def unfinished(self) -> int:
        """Number of calls that run or wait."""
        return len(self._waiting) + len(self._running)

    @property
    def next_deadline(self) -> float | None:
        """Deadline of the call that starts next; None: none waits."""
        return self._waiting[0].deadline if self._waiting else None

    async def run(self, call: Callable[[Report], bytes | Awaitable[bytes]]) -> bytes:
        """Queue a call, wait for its file and return it.

        The call stops at its next report when the caller is cancelled.

        Raises:
            ServerError: the export failed, or was not started.
        """
        self._availability.check()
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        export_call = ExportCall(call, done, self._clock())
        self._waiting.append(export_call)
        self.on_change()
        try:
            return await done
        finally:
            export_call.is_stopped = True
            if export_call in self._waiting:
                self._waiting.remove(export_call)
                self.on_change()

    def start_next(self) -> None:
        """Start the call that has waited longest."""
        export_call = self._waiting.popleft()

        def report(stage: str, done: int, of: int) -> None:
            del stage, done, of
            if export_call.is_stopped:
                raise StepCancelled

        self._running.add(export_call)
        future = self._threads.start_step("shape_export", partial(export_call.call, report))
        future.add_done_callback(partial(self._ended, export_call))

    def _ended(self, export_call: ExportCall, future: asyncio.Future[bytes]) -> None:
        self._running.discard(export_call)
        error = None if future.cancelled() else future.exception()
        if not export_call.done.done():
            if error is None and not future.cancelled():
                export_call.done.set_result(future.result())
            elif isinstance(error, ServerError):
                # Without its traceback, whose frames would hold the export's arrays.
                export_call.done.set_exception(copy.copy(error))
            else:
                export_call.done.set_exception(JobCancelledError("cancelled"))
        if isinstance(error, EngineBrokenError):
            self._endings.fail_permanently(str(error))
        self.on_change()

    def fail_all(self, error: ServerError, *, running: bool) -> None:
        """Answer all requests with the error: those of waiting calls, or of running ones too."""
        for export_call in [*self._waiting, *(self._running if running else ())]:
            if not export_call.done.done():
                export_call.done.set_exception(copy.copy(error))
        self._waiting.clear()
