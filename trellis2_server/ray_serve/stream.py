"""Streams: how a step in another process sends its progress and its outcome.

    ("machine", node)                   the first item of a task: Ray's id of its machine
    ("progress", stage, step, steps)    any number of times, `PROGRESS_INTERVAL_S` apart
    ("result", value, n)                followed by n large items, one by one; or
    ("error", a ServerError)

The reader receives large items as references, without fetching them: they stay on the machine
that made them.

Does not know: what a step does, in which process it runs.
"""

from __future__ import annotations

import asyncio
import copy
import queue
import threading
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from trellis2_server.errors import EngineError, ServerError
from trellis2_server.jobs.threads import StepCancelled, translated

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator

    from trellis2_server.reports import Report

T = TypeVar("T")

#: Minimum time between two progress items, seconds.
PROGRESS_INTERVAL_S: Final = 0.05
#: Maximum time between two calls of a reader's `report`, which may cancel the step, seconds.
REPORT_INTERVAL_S: Final = 0.25
#: The reported stage while no process has started the step.
QUEUED: Final = "engine"


class Outcome(NamedTuple):
    """What a step returns.

    Attributes:
        value: sent by value.
        large: sent as one reference each.
    """

    value: Any
    large: tuple[Any, ...] = ()


class Throttle:
    """Allows one progress item per `PROGRESS_INTERVAL_S`. For one thread."""

    def __init__(self) -> None:
        self._last = -PROGRESS_INTERVAL_S

    def admit(self) -> bool:
        """Return whether an item may be sent now."""
        now = time.monotonic()
        if now - self._last < PROGRESS_INTERVAL_S:
            return False
        self._last = now
        return True


# ---- writing -----------------------------------------------------------------------------


def stream_call(what: str, call: Callable[[Report], Outcome]) -> Generator[tuple[Any, ...] | Any]:
    """Run a call on a new thread; yield its stream.

    Closing the generator cancels the call at its next report, and waits for its end.

    Args:
        what: the step, for messages.
        call: takes a `report` function.
    """
    items: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
    is_cancelled = threading.Event()
    throttle = Throttle()
    ends: list[Outcome | ServerError] = []

    def report(stage: str, step: int, steps: int) -> None:
        if is_cancelled.is_set():
            raise StepCancelled
        if throttle.admit():
            items.put(("progress", stage, step, steps))

    def run() -> None:
        try:
            ends.append(translated(what, lambda: call(report)))
        except ServerError as error:
            ends.append(error)
        except StepCancelled:
            pass
        finally:
            items.put(None)

    thread = threading.Thread(target=run, name=what)
    thread.start()
    try:
        while (item := items.get()) is not None:
            yield item
    finally:
        is_cancelled.set()
        thread.join()
    yield from end_items(ends[0])


async def stream_future(
    start: Callable[[Report], asyncio.Future[Outcome]],
) -> AsyncGenerator[tuple[Any, ...] | Any]:
    """Start a call; yield its stream. Belongs to the event loop's thread.

    Closing the generator cancels the call at its next report, and waits for its end.

    Args:
        start: takes a `report` function, which any thread may call; returns the call's future.
    """
    items: asyncio.Queue[tuple[Any, ...] | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    is_cancelled = threading.Event()
    throttle = Throttle()

    def report(stage: str, step: int, steps: int) -> None:
        if is_cancelled.is_set():
            raise StepCancelled
        if throttle.admit():
            loop.call_soon_threadsafe(items.put_nowait, ("progress", stage, step, steps))

    future = start(report)
    future.add_done_callback(lambda _: items.put_nowait(None))
    try:
        while (item := await items.get()) is not None:
            yield item
    finally:
        is_cancelled.set()
        if not future.done():
            await asyncio.wait({future})
    error = future.exception()
    if error is None:
        end: Outcome | ServerError = future.result()
    elif isinstance(error, ServerError):
        end = error
    else:
        end = EngineError("the step was stopped")
    for item in end_items(end):
        yield item


def end_items(end: Outcome | ServerError) -> Generator[tuple[Any, ...] | Any]:
    """Yield the last items of a stream."""
    if isinstance(end, ServerError):
        yield "error", portable(end)
        return
    yield "result", end.value, len(end.large)
    for item in end.large:  # noqa: UP028 - Ray sends values into a generator; a tuple takes none
        yield item


def portable(error: ServerError) -> ServerError:
    """Return a copy without cause and traceback, whose frames refer to arrays."""
    return copy.copy(error)


# ---- reading -----------------------------------------------------------------------------


async def read_stream(
    opening: Awaitable[Any],
    report: Report,
    note_machine: Callable[[str], None] | None = None,
) -> tuple[Any, list[Any]]:
    """Read a stream to its end; return the value, and references to the large items.

    Args:
        opening: returns the stream, Ray's generator of references.
        report: called with each progress, and at least every `REPORT_INTERVAL_S`, so that it
            can raise `StepCancelled`.
        note_machine: called with Ray's id of the machine, if the stream names it.

    Raises:
        ServerError: the stream ends with it.
        StepCancelled: raised by `report`.
    """
    progress: tuple[str, int, int] = (QUEUED, 0, 1)

    async def reporting(awaitable: Awaitable[T]) -> T:
        future = asyncio.ensure_future(awaitable)
        try:
            while not (await asyncio.wait({future}, timeout=REPORT_INTERVAL_S))[0]:
                report(*progress)
        finally:
            future.cancel()
        return future.result()

    items = await reporting(opening)
    while True:
        kind, *rest = await reporting(_next(items))
        if kind == "progress":
            progress = (rest[0], rest[1], rest[2])
            report(*progress)
        elif kind == "machine":
            if note_machine is not None:
                note_machine(rest[0])
        elif kind == "error":
            raise rest[0]
        else:
            value, n_large = rest
            # `anext` would also fetch the object that the reference refers to.
            return value, [await asyncio.to_thread(next, items) for _ in range(n_large)]


async def _next(items: Any) -> tuple[Any, ...]:
    return await (await anext(items))
