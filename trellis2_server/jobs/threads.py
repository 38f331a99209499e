"""`ThreadPools`: the device thread, the CPU pool, and a thread for lookups.

The CPU pool has one place more than CPU workers, for a client of which it runs nothing: one client
with slow files, whose threads only wait for decoders, does not keep all others waiting.

A coroutine function is awaited on the event loop and takes no thread, but counts as a running
step. All exceptions of a call are translated into the project's own errors.

A thread cannot be ended. So a call that exceeds its time limit is told to stop and fails with
`StepTimeoutError`, which concerns that call only; its thread counts as busy until the call returns.
On the device thread, a call that does not stop fails with `EngineBrokenError`: no other thread can
use the device.

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
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.errors import (
    EngineError,
    OutOfMemoryError,
    ServerError,
)
from trellis2_server.inputs.background import ModelPending
from trellis2_server.jobs.pool import Pool
from trellis2_server.jobs.time_limits import TimeLimit, resolve
from trellis2_server.thread_priority import (
    EXPORT_NICENESS,
    WORKER_NICENESS,
    lower_priority,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Generator
    from contextvars import Context

    from trellis2_server.jobs.steps import Step

logger = logging.getLogger(__name__)

#: Places of the CPU pool beyond its workers, for clients of which it runs nothing.
SPARE_PLACES: Final = 1


class StepCancelled(Exception):  # noqa: N818 - no error: unwinds a step whose job has ended
    """Raised by a `report` function inside the engine or the exporter."""


class ThreadPools:
    """Runs calls on threads, and counts them. Belongs to the event loop's thread.

    Args:
        cpu_workers: number of calls on the CPU pool at one time; see `cpu_has_room_for`.
        device_steps: the steps that run on the device thread.
        max_steps: limit for the scheduler: number of jobs that may run at one time.
        timeout_s: time limit of a call, seconds; None: no limit.
        device_slots: number of device steps that may run at one time; more than one only where
            they are coroutine functions.
        device_niceness: of the device thread, see `thread_priority`.

    Attributes:
        steps_running: number of steps that run; without those that exceeded the time limit.
        device_is_reserved: whether the device thread takes no step; true until the engine is
            first loaded.
        lookups: number of lookups that run.
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
        self.device_steps = device_steps
        self.max_steps = max_steps
        self.steps_running = 0
        self.device_is_reserved = True
        self.lookups = 0
        self._device = Pool(
            ThreadPoolExecutor(1, "device", lower_priority, (device_niceness,)), device_slots
        )
        self._cpu = Pool(
            ThreadPoolExecutor(
                cpu_workers + SPARE_PLACES, "cpu", lower_priority, (EXPORT_NICENESS,)
            ),
            cpu_workers,
            SPARE_PLACES,
        )
        self._lookup = Pool(ThreadPoolExecutor(1, "lookup", lower_priority), 1)
        self._stuck_since_s: float | None = None

    @property
    def cpu_workers(self) -> int:
        """Number of calls on the CPU pool at one time, without the spare places."""
        return self._cpu.size

    @property
    def cpu_running(self) -> int:
        """Number of threads of the CPU pool that are busy."""
        return self._cpu.running

    @property
    def device_slots(self) -> int:
        """Number of device steps that may run at one time."""
        return self._device.size

    @property
    def hung(self) -> int:
        """Number of calls that run on although their result is not waited for any more."""
        return self._device.hung + self._cpu.hung + self._lookup.hung

    @property
    def device_is_busy(self) -> bool:
        """Whether the device thread runs a call, or is reserved."""
        return self.device_is_reserved or self._device.running > 0

    @property
    def device_has_room(self) -> bool:
        """Whether another device step may start."""
        return not self.device_is_reserved and self._device.has_room

    @property
    def cpu_has_room(self) -> bool:
        """Whether a thread of the CPU pool is free, for some client."""
        return self._cpu.has_room

    def cpu_has_room_for(self, clients: Collection[str]) -> bool:
        """Return whether a call that these clients wait for may start on the CPU pool.

        Beyond `cpu_workers`, one may of which the pool runs nothing else.
        """
        return self._cpu.has_room_for(clients)

    def is_any_idle(self, clients: Collection[str]) -> bool:
        """Return whether the CPU pool does nothing for one of these clients."""
        return self._cpu.is_any_idle(clients)

    @property
    def lookup_has_room(self) -> bool:
        """Whether another lookup may start."""
        return self._lookup.has_room or self._cpu_has_room_for_lookup

    @property
    def _cpu_has_room_for_lookup(self) -> bool:
        """Whether a lookup may use the CPU pool: one thread stays free for the next step.

        But while the lookups' own thread hangs, they share the pool with the steps.
        """
        reserved = 0 if self._lookup.is_stuck else 1
        return self._cpu.running + reserved < self._cpu.size

    def is_cpu_stuck(self, *, for_lookups: bool = False) -> bool:
        """Return whether no thread of the CPU pool has returned for a second time limit.

        Args:
            for_lookups: whether the thread for lookups must hang, too.
        """
        if self._timeout_s is None or self._stuck_since_s is None:
            return False
        stuck_s = asyncio.get_running_loop().time() - self._stuck_since_s
        return stuck_s >= self._timeout_s and (self._lookup.is_stuck or not for_lookups)

    def start_step(
        self,
        step: Step,
        call: Callable[[], Any],
        context: Context | None = None,
        stop: Callable[[], None] | None = None,
        clients: Collection[str] = (),
    ) -> asyncio.Future[Any]:
        """Start a step; return the future of its result.

        The call runs in a copy of `context`, or of the current one. The future fails with a
        `ServerError`, a `ModelPending` or `StepCancelled`; when the time limit is exceeded with
        `StepTimeoutError`, or with `EngineBrokenError` if the step needs the device and does not
        stop within `STOP_GRACE_S`.

        Args:
            step: its name.
            call: does the step.
            context: of the call.
            stop: called when the time limit is exceeded; has the call raise `StepCancelled` soon.
                None: the call cannot be stopped.
            clients: who waits for it; the one with the fewest places is charged.
        """

        def settled() -> None:
            self.steps_running -= 1

        self.steps_running += 1
        pool = self._device if step in self.device_steps else self._cpu
        return self._run(pool, step, call, settled, self._timeout_s, context, stop, clients)

    def run_on_device(
        self, what: str, call: Callable[[], Any], *, is_timed: bool = True
    ) -> asyncio.Future[Any]:
        """Run a call that is no step on the device thread, which is reserved meanwhile."""

        def settled() -> None:
            # After a time-out it stays busy with the call.
            self.device_is_reserved = False

        self.device_is_reserved = True
        return self._run(self._device, what, call, settled, self._timeout_s if is_timed else None)

    def look_up(
        self,
        call: Callable[[], Any],
        context: Context | None = None,
        clients: Collection[str] = (),
    ) -> asyncio.Future[Any]:
        """Run a cut-out that only serves to find an image hash; see `start_step`.

        It runs on a thread of its own, or on the CPU pool if that has room.
        """

        def settled() -> None:
            self.lookups -= 1

        self.lookups += 1
        pool = self._lookup if self._lookup.has_room else self._cpu
        return self._run(pool, "cutout", call, settled, self._timeout_s, context, clients=clients)

    def close(self) -> None:
        """Start no more calls; running ones continue."""
        self._device.executor.shutdown(wait=False, cancel_futures=True)
        self._cpu.executor.shutdown(wait=False, cancel_futures=True)
        self._lookup.executor.shutdown(wait=False)

    def _run(  # noqa: PLR0913, PLR0917 - what a call needs
        self,
        pool: Pool,
        what: str,
        call: Callable[[], Any],
        settled: Callable[[], None],
        timeout_s: float | None,
        context: Context | None = None,
        stop: Callable[[], None] | None = None,
        clients: Collection[str] = (),
    ) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Any] = loop.create_future()
        context = (context or copy_context()).copy()
        work: asyncio.Future[Any]
        is_hung = False
        client = pool.take_place(clients)
        if inspect.iscoroutinefunction(call):
            work = context.run(loop.create_task, _translated_coroutine(what, call))
        else:
            work = loop.run_in_executor(pool.executor, context.run, partial(translated, what, call))
        limit = TimeLimit(what, timeout_s, result, stop, is_device=pool is self._device)

        def ended(work: asyncio.Future[Any]) -> None:
            limit.cancel()
            if not work.cancelled():
                work.exception()  # marks it as retrieved, in case no one takes it
            if is_hung:
                pool.running -= 1
                pool.hung -= 1
                self._note_hung()
                self.on_free()
            elif not result.done():  # otherwise it timed out at this moment, and `count` follows
                _pass_on(work, result, limit.error)

        def count(_: object) -> None:
            nonlocal is_hung
            is_hung = not work.done()
            pool.leave_place(client, is_hung=is_hung)  # at the same time as the result is taken
            if is_hung:
                self._note_hung()
            settled()

        result.add_done_callback(count)
        work.add_done_callback(ended)
        return result

    def _note_hung(self) -> None:
        """Note since when all threads of the CPU pool hang."""
        if not self._cpu.is_stuck:
            self._stuck_since_s = None
        elif self._stuck_since_s is None:
            self._stuck_since_s = asyncio.get_running_loop().time()


def describe_error(error: BaseException) -> str:
    """Return an exception as one line, without paths of the machine."""
    text = " ".join(str(error).encode(errors="replace").decode().split())[:300]
    text = re.sub(r"(?:[A-Za-z]:)?[\\/](?:[^\s\\/:'\"]+[\\/])+", "", text)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _pass_on(
    work: asyncio.Future[Any], result: asyncio.Future[Any], overdue: ServerError | None
) -> None:
    error = None if work.cancelled() else work.exception()
    if work.cancelled():
        result.cancel()
    elif error is not None:
        resolve(result, overdue or error)
    else:
        result.set_result(work.result())


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
