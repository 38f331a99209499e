"""`ThreadPools`: the device thread, the CPU pool, and a thread for lookups.

A coroutine function is awaited on the event loop and takes no thread, but counts as a running
step. All exceptions of a call are translated into the project's own errors. A call that exceeds
its time limit fails with `EngineBrokenError`, because a thread cannot be ended; its thread
counts as busy until the call returns.

Does not know: jobs, which step starts next, what a call does.
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
from trellis2_server.inputs.background import ModelPending
from trellis2_server.thread_priority import (
    EXPORT_NICENESS,
    WORKER_NICENESS,
    lower_priority,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from contextvars import Context

    from trellis2_server.jobs.steps import Step

logger = logging.getLogger(__name__)


class StepCancelled(Exception):  # noqa: N818 - no error: unwinds a step whose job has ended
    """Raised by a `report` function inside the engine or the exporter."""


class ThreadPools:
    """Runs calls on threads, and counts them. Belongs to the event loop's thread.

    Args:
        cpu_workers: number of threads of the CPU pool.
        device_steps: the steps that run on the device thread.
        max_steps: limit for the scheduler: number of jobs that may run at one time.
        timeout_s: time limit of a call, seconds; None: no limit.
        device_slots: number of device steps that may run at one time; more than one only where
            they are coroutine functions.
        device_niceness: of the device thread, see `thread_priority`.

    Attributes:
        cpu_running: number of threads of the CPU pool that are busy.
        steps_running: number of steps that run.
        device_is_reserved: whether the device thread takes no step; true until the engine is
            first loaded.
        lookups: number of lookups that run or wait.
        on_free: called when a thread has become free after its call exceeded the time limit.
    """

    def __init__(  # noqa: PLR0913 - six settings
        self,
        cpu_workers: int,
        device_steps: frozenset[Step],
        max_steps: int,
        timeout_s: float | None = None,
        *,
        device_slots: int = 1,
        device_niceness: int = WORKER_NICENESS,
    ) -> None:
        self.on_free: Callable[[], None] = lambda: None
        self._timeout_s = timeout_s
        self.cpu_workers = cpu_workers
        self.device_steps = device_steps
        self.device_slots = device_slots
        self.max_steps = max_steps
        self.cpu_running = 0
        self.steps_running = 0
        self.device_is_reserved = True
        self._device_running = 0
        self.lookups = 0
        self._device = ThreadPoolExecutor(1, "device", lower_priority, (device_niceness,))
        self._cpu = ThreadPoolExecutor(cpu_workers, "cpu", lower_priority, (EXPORT_NICENESS,))
        self._lookup = ThreadPoolExecutor(1, "lookup", lower_priority)

    @property
    def device_is_busy(self) -> bool:
        """Whether the device thread runs a call, or is reserved."""
        return self.device_is_reserved or self._device_running > 0

    @property
    def device_has_room(self) -> bool:
        """Whether another device step may start."""
        return not self.device_is_reserved and self._device_running < self.device_slots

    @property
    def cpu_has_room(self) -> bool:
        """Whether a thread of the CPU pool is free."""
        return self.cpu_running < self.cpu_workers

    def start_step(
        self, step: Step, call: Callable[[], Any], context: Context | None = None
    ) -> asyncio.Future[Any]:
        """Start a step; return the future of its result.

        The call runs in a copy of `context`, or of the current one. The future fails with a
        `ServerError`, a `ModelPending` or `StepCancelled`; with `EngineBrokenError` when the
        time limit is exceeded.
        """
        on_device = step in self.device_steps
        self.steps_running += 1
        if on_device:
            self._device_running += 1
        else:
            self.cpu_running += 1

        def free() -> None:
            self.steps_running -= 1
            if on_device:
                self._device_running -= 1
            else:
                self.cpu_running -= 1

        executor = self._device if on_device else self._cpu
        return self._run(executor, step, call, free, self._timeout_s, context)

    def run_on_device(
        self, what: str, call: Callable[[], Any], *, is_timed: bool = True
    ) -> asyncio.Future[Any]:
        """Run a call that is no step on the device thread, which is reserved meanwhile."""

        def free() -> None:
            self.device_is_reserved = False

        self.device_is_reserved = True
        return self._run(self._device, what, call, free, self._timeout_s if is_timed else None)

    def look_up(self, call: Callable[[], Any]) -> asyncio.Future[Any]:
        """Run a cut-out that only serves to find an image hash; one at a time."""

        def free() -> None:
            self.lookups -= 1

        self.lookups += 1
        return self._run(self._lookup, "cutout", call, free, self._timeout_s)

    def close(self) -> None:
        """Start no more calls; running ones continue."""
        self._device.shutdown(wait=False, cancel_futures=True)
        self._cpu.shutdown(wait=False, cancel_futures=True)
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
            work = context.run(loop.create_task, _translated_coroutine(what, call))
        else:
            work = loop.run_in_executor(executor, context.run, partial(translated, what, call))

        def time_out() -> None:
            logger.critical("Step timed out", extra={"step": what, "seconds": timeout_s})
            _resolve(result, EngineBrokenError(f"{what}: did not end within {timeout_s:g} s"))

        timer = loop.call_later(timeout_s, time_out) if timeout_s else None

        def ended(work: asyncio.Future[Any]) -> None:
            if timer is not None:
                timer.cancel()
            error = None if work.cancelled() else work.exception()
            if result.done():  # it had timed out
                free()
                self.on_free()
            elif work.cancelled():
                result.cancel()
            elif error is not None:
                _resolve(result, error)
            else:
                result.set_result(work.result())

        def settled(_: object) -> None:
            if work.done():  # at the same time as the result is taken
                free()

        result.add_done_callback(settled)
        work.add_done_callback(ended)
        return result


def describe_error(error: BaseException) -> str:
    """Return an exception as one line, without paths of the machine."""
    text = " ".join(str(error).encode(errors="replace").decode().split())[:300]
    text = re.sub(r"(?:[A-Za-z]:)?[\\/](?:[^\s\\/:'\"]+[\\/])+", "", text)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _resolve(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # marks it as retrieved, in case no one awaits the future


def translated(what: str, call: Callable[[], Any]) -> Any:
    """Call a function, and translate its exceptions.

    Args:
        what: the step, for messages.
        call: the function.

    Raises:
        ServerError: the call failed.
        ModelPending: raised by the call.
        StepCancelled: raised by the call.
    """
    with _translating(what):
        return call()


async def _translated_coroutine(what: str, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    with _translating(what, asyncio.CancelledError):
        return await call()


@contextmanager
def _translating(what: str, *known: type[BaseException]) -> Generator[None]:
    """Translate every exception but `known` ones into one of the project's errors."""
    try:
        yield
    except (ServerError, ModelPending, StepCancelled, *known):
        raise
    except MemoryError as error:
        logger.exception("Out of memory", extra={"step": what})
        raise OutOfMemoryError(f"{what}: out of memory") from error
    except BaseException as error:  # sys.exit() in a library included
        logger.exception("Step failed", extra={"step": what})
        raise EngineError(f"{what} failed: {describe_error(error)}") from error
