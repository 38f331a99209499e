"""`ThreadPools`: the engine's lane, the pool of everything else, and a lane for lookups.

A call that is a coroutine function is awaited on the event loop and takes no thread: it
counts all the same. Whatever a call raises comes out as one of our own errors. A call that
takes longer than it may is given up: its result fails as broken for good, since a thread
cannot be ended, and its thread counts as working until it ends by itself.

What this module does not know: jobs, the order of the work, what a call does.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from trellis2_server.errors import (
    EngineBrokenError,
    EngineError,
    OutOfMemoryError,
    ServerError,
)
from trellis2_server.inputs.background_model import ModelPending
from trellis2_server.thread_priority import lower_priority

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from contextvars import Context

    from trellis2_server.jobs.progress import Step

logger = logging.getLogger(__name__)


class StepCancelled(Exception):  # noqa: N818 - no error: unwinds a step that nobody wants any more
    """Raised by a `report` inside the engine or the exporter."""


class ThreadPools:
    """Who works. Its face belongs to the event loop's thread.

    Args:
        pool_size: how many threads the pool has.
        lane_steps: which steps the lane does.
        timeout_s: how long a call may take; None: as long as it likes.
        lane_width: how many steps the lane does at one time; more than one where they are
            coroutine functions only.

    Attributes:
        pool_size: how many threads the pool has.
        lane_steps: which steps the lane does.
        lane_width: how many of them at one time.
        pool_running: how many threads of the pool work.
        steps_running: how many steps run, on the lane and in the pool.
        lane_is_held: whether the lane takes no step; from the start, until somebody loads the
            engine.
        lookups: how many lookups run or wait.
        on_free: called when a thread has ended after its call was given up.
    """

    def __init__(
        self,
        cpu_workers: int,
        device_steps: frozenset[Step],
        timeout_s: float | None = None,
        *,
        device_slots: int = 1,
    ) -> None:
        self.on_free: Callable[[], None] = lambda: None
        self._timeout_s = timeout_s
        self.cpu_workers = cpu_workers
        self.device_steps = device_steps
        self.device_slots = device_slots
        self.pool_running = 0
        self.steps_running = 0
        self.device_is_held = True
        self._device_running = 0
        self.lookups = 0
        self._device = ThreadPoolExecutor(1, "lane", lower_priority)
        self._pool = ThreadPoolExecutor(cpu_workers, "pool", lower_priority)
        self._lookup = ThreadPoolExecutor(1, "lookup", lower_priority)

    @property
    def device_is_busy(self) -> bool:
        """Whether the lane does something, or may not."""
        return self.device_is_held or self._device_running > 0

    @property
    def device_has_room(self) -> bool:
        """Whether it takes another step."""
        return not self.device_is_held and self._device_running < self.device_slots

    def begin(
        self, step: Step, call: Callable[[], Any], context: Context | None = None
    ) -> asyncio.Future[Any]:
        """A step's result, to come; its thread counts as working until then.

        It runs in a copy of `context`, or of the current one. The future fails with a
        `ServerError`, a `ModelPending` or `StepCancelled`; with `EngineBrokenError` on a timeout.
        """
        on_device = step in self.device_steps
        self.steps_running += 1
        if on_device:
            self._device_running += 1
        else:
            self.pool_running += 1

        def free() -> None:
            self.steps_running -= 1
            if on_device:
                self._device_running -= 1
            else:
                self.pool_running -= 1

        executor = self._device if on_device else self._pool
        return self._run(executor, step, call, free, self._timeout_s, context)

    def on_device(
        self, what: str, call: Callable[[], Any], *, is_timed: bool = True
    ) -> asyncio.Future[Any]:
        """The result of a call that is no step, where the engine works; the lane is busy then."""

        def free() -> None:
            self.device_is_held = False

        self.device_is_held = True
        return self._run(self._device, what, call, free, self._timeout_s if is_timed else None)

    def look_up(self, call: Callable[[], Any]) -> asyncio.Future[Any]:
        """The result of a cut-out for its hash alone; these run one at a time."""

        def free() -> None:
            self.lookups -= 1

        self.lookups += 1
        return self._run(self._lookup, "cutout", call, free, self._timeout_s)

    def close(self) -> None:
        """Begin nothing more; what runs goes on."""
        self._device.shutdown(wait=False, cancel_futures=True)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._lookup.shutdown(wait=False)

    def _run(  # noqa: PLR0913, PLR0917 - what a call needs
        self,
        executor: ThreadPoolExecutor,
        what: str,
        call: Callable[[], Any],
        free: Callable[[], None],
        timeout_s: float | None,
        context: Context | None = None,
    ) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Any] = loop.create_future()
        context = (context or copy_context()).copy()
        work: asyncio.Future[Any]
        if inspect.iscoroutinefunction(call):
            work = context.run(loop.create_task, _guarded_coroutine(what, call))
        else:
            work = loop.run_in_executor(executor, context.run, partial(guarded, what, call))

        def overdue() -> None:
            logger.critical("A step hangs", extra={"step": what, "seconds": timeout_s})
            _resolve(result, EngineBrokenError(f"{what}: did not end within {timeout_s:g} s"))

        timer = loop.call_later(timeout_s, overdue) if timeout_s else None

        def ended(work: asyncio.Future[Any]) -> None:
            if timer is not None:
                timer.cancel()
            error = None if work.cancelled() else work.exception()
            if result.done():  # it was overdue
                free()
                self.on_free()
            elif work.cancelled():
                result.cancel()
            elif error is not None:
                _resolve(result, error)
            else:
                result.set_result(work.result())

        def settled(_: object) -> None:
            if work.done():  # together with whoever takes the result
                free()

        result.add_done_callback(settled)
        work.add_done_callback(ended)
        return result


def one_line(error: BaseException) -> str:
    """An exception in one line, without the machine's paths."""
    text = " ".join(str(error).encode(errors="replace").decode().split())[:300]
    text = re.sub(r"(?:[A-Za-z]:)?[\\/](?:[^\s\\/:'\"]+[\\/])+", "", text)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _resolve(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # seen, though nobody may wait for it any more


def guarded(what: str, call: Callable[[], Any]) -> Any:
    """What the call gives, or one of our own errors: the border of a thread.

    Raises:
        ServerError: it failed.
        ModelPending: as it came.
        Stopped: as it came.
    """
    with _translated(what):
        return call()


async def _guarded_coroutine(what: str, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    with _translated(what, asyncio.CancelledError):
        return await call()


@contextmanager
def _translated(what: str, *known: type[BaseException]) -> Generator[None]:
    """A call's border: whatever else comes out is one of our own errors."""
    try:
        yield
    except (ServerError, ModelPending, StepCancelled, *known):
        raise
    except MemoryError as error:
        logger.exception("Out of memory", extra={"step": what})
        raise OutOfMemoryError(f"{what}: out of memory") from error
    except BaseException as error:  # a library's sys.exit() comes by too
        logger.exception("Step failed", extra={"step": what})
        raise EngineError(f"{what} failed: {one_line(error)}") from error
