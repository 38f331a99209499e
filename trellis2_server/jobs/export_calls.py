"""`ExportCalls`: exports and conversions that requests wait for, on the CPU pool, beside steps.

Requests for the same file share a call. Clients take turns: of a client that has had its turn, the
next call is due later than everything that waits for its own first turn.

Does not know: what is exported, which job it belongs to.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.errors import (
    EngineBrokenError,
    JobCancelledError,
    ServerError,
    TooManyRequestsError,
)
from trellis2_server.jobs.threads import StepCancelled
from trellis2_server.storage.content import BytesContent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Hashable

    from trellis2_server.jobs.availability import Availability
    from trellis2_server.jobs.endings import JobEndings
    from trellis2_server.jobs.threads import ThreadPools
    from trellis2_server.reports import Report
    from trellis2_server.settings import WorkerSettings
    from trellis2_server.storage.content import Content

#: How much later than its client's last turn a further call is due, seconds. Not less than the
#: scheduler's `TEXTURE_PATIENCE_S`: further calls must not go before textures that wait.
NEXT_TURN_S: Final = 60.0
#: `Retry-After` of a client with too many calls, seconds.
RETRY_AFTER_S: Final = 5


@dataclass(frozen=True, slots=True)
class ExportWork:
    """What a call does.

    Attributes:
        call: makes the file; gets a `report` function.
        key: requests with the same key share a call; None: they do not.
        finish: gets the bytes of the file; returns the content for the requests.
    """

    call: Callable[[Report], bytes | Awaitable[bytes]]
    key: Hashable = None
    finish: Callable[[bytes], Content] = BytesContent


@dataclass(slots=True, eq=False)
class ExportCall:
    """One export or conversion that requests wait for.

    Attributes:
        work: what it does.
        done: future that resolves to the file.
        clients: time of the first request of each client, seconds of the manager's clock.
        requests: number of requests of each client that wait for it.
        is_stopped: set when the last request has gone; the call stops at its next report.
    """

    work: ExportWork
    done: asyncio.Future[Content]
    clients: dict[str, float] = field(default_factory=dict[str, float])
    requests: Counter[str] = field(default_factory=Counter[str])
    is_stopped: bool = False


class ExportCalls:
    """The calls that wait and run. Belongs to the event loop's thread.

    Args:
        threads: where they run.
        availability: whether new work is accepted.
        endings: for fatal errors.
        clock: monotonic seconds.
        limits: maximum number of unfinished calls of one client.

    Attributes:
        on_change: called when a call was added, has ended or was withdrawn.
        can_start: returns whether there is room for a call that these clients wait for.
    """

    def __init__(
        self,
        threads: ThreadPools,
        availability: Availability,
        endings: JobEndings,
        clock: Callable[[], float],
        limits: WorkerSettings,
    ) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self.can_start: Callable[[Collection[str]], bool] = lambda _: True
        self._threads = threads
        self._availability = availability
        self._endings = endings
        self._clock = clock
        self._max_per_client = limits.max_exports_per_client
        self._waiting: list[ExportCall] = []
        self._running: set[ExportCall] = set()
        #: When a call of each client with unfinished calls last started or ended.
        self._last_turns: dict[str, float] = {}

    # ---- state ---------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Number of calls that wait; of one client, not more than its limit."""
        limit = self._max_per_client
        if limit is None:
            return len(self._waiting)
        seen: Counter[str] = Counter()
        counted = 0
        for call in self._waiting:
            counted += any(seen[client] < limit for client in call.clients)
            seen.update(call.clients.keys())
        return counted

    @property
    def unfinished(self) -> int:
        """Number of calls that run or wait."""
        return len(self._waiting) + len(self._running)

    @property
    def running(self) -> int:
        """Number of calls that run."""
        return len(self._running)

    @property
    def next_deadline(self) -> float | None:
        """Deadline of the call that starts next; None: none can start."""
        return min(map(self._deadline, self._startable()), default=None)

    def _startable(self) -> list[ExportCall]:
        return [call for call in self._waiting if self.can_start(call.clients)]

    def _deadline(self, call: ExportCall) -> float:
        return min(self._due(client, since) for client, since in call.clients.items())

    def _due(self, client: str, since: float) -> float:
        """Return when a call that a client has waited for since then is due."""
        last_turn = self._last_turns.get(client)
        if last_turn is None:
            return since
        is_first = last_turn < since and not any(client in call.clients for call in self._running)
        return since if is_first else max(since, last_turn) + NEXT_TURN_S

    # ---- requests ------------------------------------------------------------------------

    async def run(self, work: ExportWork, client: str = "", *, may_refuse: bool = True) -> Content:
        """Queue a call, or join the unfinished one with the same key; return its file.

        When the last request is cancelled, a waiting call is withdrawn, and a running one stops
        at its next report.

        Args:
            work: what the call does.
            client: identity of the client, for limits and turns.
            may_refuse: whether the limit applies; otherwise the call waits for its turn.

        Raises:
            TooManyRequestsError: the client has as many unfinished calls as it may have.
            ServerError: the call failed, or was not started.
        """
        self._availability.check()
        call = self._find(work.key)
        if may_refuse and (call is None or client not in call.clients):
            self._check_limit(client)
        if call is None:
            call = ExportCall(work, asyncio.get_running_loop().create_future())
            self._waiting.append(call)
        call.clients.setdefault(client, self._clock())
        call.requests[client] += 1
        self.on_change()
        try:
            return await asyncio.shield(call.done)
        except ServerError as error:
            raise copy.copy(error) from None  # each request raises its own
        finally:
            self._leave(call, client)

    def _find(self, key: Hashable) -> ExportCall | None:
        if key is None:
            return None
        calls = (call for call in (*self._waiting, *self._running) if not call.is_stopped)
        return next((call for call in calls if call.work.key == key), None)

    def _check_limit(self, client: str) -> None:
        own = sum(client in call.clients for call in (*self._waiting, *self._running))
        if self._max_per_client is not None and own >= self._max_per_client:
            raise TooManyRequestsError(
                f"{own} of your exports and conversions are not finished yet, and this server "
                f"takes {self._max_per_client} at a time",
                retry_after_s=RETRY_AFTER_S,
            )

    def _leave(self, call: ExportCall, client: str) -> None:
        call.requests[client] -= 1
        is_waiting = call in self._waiting
        if not call.requests[client]:
            del call.requests[client]
            if is_waiting:  # otherwise it uses a thread for that client still
                del call.clients[client]
        if not call.requests:
            call.is_stopped = True
            if is_waiting:
                self._waiting.remove(call)
                self._forget_idle_clients()
                self.on_change()

    # ---- running -------------------------------------------------------------------------

    def start_next(self) -> None:
        """Start the call that is due first; of several, the one that has waited longest.

        Raises:
            ValueError: none can start.
        """
        call = min(self._startable(), key=self._deadline)
        self._waiting.remove(call)

        def report(stage: str, done: int, of: int) -> None:
            del stage, done, of
            if call.is_stopped:
                raise StepCancelled

        self._running.add(call)
        self._note_turn(call)
        future = self._threads.start_step(
            "shape_export", partial(call.work.call, report), clients=call.clients
        )
        future.add_done_callback(partial(self._ended, call))

    def _note_turn(self, call: ExportCall) -> None:
        self._last_turns.update(dict.fromkeys(call.clients, self._clock()))
        self._forget_idle_clients()

    def _forget_idle_clients(self) -> None:
        busy = {client for each in (*self._waiting, *self._running) for client in each.clients}
        self._last_turns = {client: at for client, at in self._last_turns.items() if client in busy}

    def _ended(self, call: ExportCall, future: asyncio.Future[bytes]) -> None:
        self._running.discard(call)
        self._note_turn(call)
        error = None if future.cancelled() else future.exception()
        if not call.done.done():
            if error is None and not future.cancelled():
                call.done.set_result(call.work.finish(future.result()))
            elif isinstance(error, ServerError):
                # Without its traceback, whose frames would hold the export's arrays.
                _fail(call, error)
            else:
                _fail(call, JobCancelledError("cancelled"))
        if isinstance(error, EngineBrokenError):
            self._endings.fail_permanently(str(error))
        self.on_change()

    def fail_all(self, error: ServerError, *, running: bool) -> None:
        """Answer all requests with the error: those of waiting calls, or of running ones too."""
        for call in [*self._waiting, *(self._running if running else ())]:
            if not call.done.done():
                _fail(call, error)
        self._waiting.clear()
        self._forget_idle_clients()


def _fail(call: ExportCall, error: ServerError) -> None:
    call.done.set_exception(copy.copy(error))
    call.done.exception()  # marks it as retrieved, in case no request is left


def with_contents(
    call: Callable[..., bytes | Awaitable[bytes]], *contents: Content | None
) -> Callable[[Report], bytes | Awaitable[bytes]]:
    """Return a call that reads files when it starts, so that waiting calls hold no bytes.

    Args:
        call: takes the bytes of the contents, and `report` by its name; may be a coroutine
            function.
        contents: the files; None stays None.
    """
    if inspect.iscoroutinefunction(call):
        coroutine: Callable[..., Awaitable[bytes]] = call

        async def read_and_await(report: Report) -> bytes:
            read: list[Any] = [content and await content.read() for content in contents]
            return await coroutine(*read, report=report)

        return read_and_await

    def load_and_call(report: Report) -> Any:
        return call(*[content and content.load() for content in contents], report=report)

    return load_and_call
