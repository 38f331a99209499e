"""A step that runs elsewhere, as a stream: how far it is, then what it gives.

    ("progress", stage, step, steps)    any number of times, `PROGRESS_INTERVAL_S` apart
    ("result", small, n)                and then n large things, each for itself; or
    ("error", a ServerError)

Whoever follows the stream gets the large things as references, which say where they lie, and
takes none of them in.

What this module does not know: what a step does, who runs it.
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

    from trellis2_server.pipeline import Report

T = TypeVar("T")

#: Between two items that tell of progress.
PROGRESS_INTERVAL_S: Final = 0.05
#: A step that says nothing for so long is asked for again whether it is still wanted.
SILENCE_S: Final = 0.25
#: The stage of a step that no process has taken on yet.
QUEUED: Final = "engine"


class Outcome(NamedTuple):
    """What a step gives.

    Attributes:
        small: what is told.
        large: what is only referred to.
    """

    small: Any
    large: tuple[Any, ...] = ()


class Throttle:
    """Lets one call through, then none for `PROGRESS_INTERVAL_S`. For one thread."""

    def __init__(self) -> None:
        self._last = -PROGRESS_INTERVAL_S

    def is_open(self) -> bool:
        """Whether this call may pass."""
        now = time.monotonic()
        if now - self._last < PROGRESS_INTERVAL_S:
            return False
        self._last = now
        return True


def tell(what: str, call: Callable[[Report], Outcome]) -> Generator[tuple[Any, ...] | Any]:
    """The stream of a call that is made on a thread of its own.

    Closing the generator stops the call at its next report, and waits for that.
    """
    items: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
    is_stopped = threading.Event()
    throttle = Throttle()
    found: list[Outcome | ServerError] = []

    def report(stage: str, step: int, steps: int) -> None:
        if is_stopped.is_set():
            raise StepCancelled
        if throttle.is_open():
            items.put(("progress", stage, step, steps))

    def run() -> None:
        try:
            found.append(translated(what, lambda: call(report)))
        except ServerError as error:
            found.append(error)
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
        is_stopped.set()
        thread.join()
    yield from last_items(found[0])


async def told(begin: Callable[[Report], asyncio.Future[Outcome]]) -> AsyncGenerator[Any]:
    """The same of a call that others begin, on the event loop.

    Closing the generator stops the call at its next report, and waits for that.
    """
    items: asyncio.Queue[tuple[Any, ...] | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    is_stopped = threading.Event()
    throttle = Throttle()

    def report(stage: str, step: int, steps: int) -> None:
        if is_stopped.is_set():
            raise StepCancelled
        if throttle.is_open():
            loop.call_soon_threadsafe(items.put_nowait, ("progress", stage, step, steps))

    work = begin(report)
    work.add_done_callback(lambda _: items.put_nowait(None))
    try:
        while (item := await items.get()) is not None:
            yield item
    finally:
        is_stopped.set()
        if not work.done():
            await asyncio.wait({work})
    error = work.exception()
    if error is None:
        found: Outcome | ServerError = work.result()
    elif isinstance(error, ServerError):
        found = error
    else:
        found = EngineError("the step was stopped")
    for item in last_items(found):
        yield item


def last_items(found: Outcome | ServerError) -> Generator[Any]:
    """What ends a stream."""
    if isinstance(found, ServerError):
        yield "error", bare(found)
        return
    yield "result", found.small, len(found.large)
    for each in found.large:  # noqa: UP028 - Ray sends values into a generator; a tuple takes none
        yield each


def bare(error: ServerError) -> ServerError:
    """An error that can travel: without its traceback, whose frames hold arrays, and its cause."""
    return copy.copy(error)


async def follow(opening: Awaitable[Any], report: Report) -> tuple[Any, list[Any]]:
    """What a stream ends with: what is told, and references to what is large.

    Args:
        opening: gives the stream, Ray's generator of references.
        report: told of progress; also now and then while there is none, so that it can
            raise `StepCancelled`.

    Raises:
        ServerError: as the stream says.
        Stopped: the report did.
    """
    news: tuple[str, int, int] = (QUEUED, 0, 1)

    async def patiently(awaited: Awaitable[T]) -> T:
        coming = asyncio.ensure_future(awaited)
        try:
            while not (await asyncio.wait({coming}, timeout=SILENCE_S))[0]:
                report(*news)
        finally:
            coming.cancel()
        return coming.result()

    items = await patiently(opening)
    while True:
        kind, *rest = await patiently(_next(items))
        if kind == "progress":
            news = (rest[0], rest[1], rest[2])
            report(*news)
        elif kind == "error":
            raise rest[0]
        else:
            small, n_large = rest
            # Asynchronously, Ray would bring here what a reference refers to.
            return small, [await asyncio.to_thread(next, items) for _ in range(n_large)]


async def _next(items: Any) -> tuple[Any, ...]:
    return await (await anext(items))
