"""An event loop whose time passes only where a test says so, and whose threads are fibers.

A call that is given to a thread runs in a greenlet, which goes on until it comes to a place where
it waits (`pause`). So everything happens in one order, which is the same in each run, nothing
sleeps, and an example costs no thread, no descriptor and no event loop of the system.

What real threads must not do is noticed: calls of the event loop that are not thread-safe, and
`asyncio.get_running_loop`.

Does not know: jobs, what calls wait for.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import ThreadPoolExecutor

#: Turns after which a loop that is never idle is called endless.
_MAX_TURNS = 100_000


class Fiber:
    """A call that stands in for one on a thread.

    Attributes:
        executor: whose thread it would take; None: asyncio's own.
        is_polling: whether it looks by itself, again and again, whether it may go on.
    """

    def __init__(
        self, loop: VirtualLoop, executor: ThreadPoolExecutor | None, call: Callable[[], Any]
    ) -> None:
        self.executor = executor
        self.result: asyncio.Future[Any] = loop.create_future()
        self.is_polling = False
        self._loop = loop
        self._call = call
        self._greenlet = greenlet(self._run)

    def go_on(self) -> None:
        """Run until the call waits again, or has ended."""
        # As on a thread: it has no running event loop.
        asyncio._set_running_loop(None)
        self._loop.current, self._greenlet.parent = self, getcurrent()
        try:
            self._greenlet.switch()
        finally:
            self._loop.current = None
            asyncio._set_running_loop(self._loop)

    def _run(self) -> None:
        try:
            result, error = self._call(), None
        except BaseException as caught:  # noqa: BLE001 - as a thread's future does
            result, error = None, caught
        self._loop.call_soon_threadsafe(self._end, result, error)

    def _end(self, result: object, error: BaseException | None) -> None:
        self._loop.forget(self)
        if self.result.done():
            return
        if error is None:
            self.result.set_result(result)
        else:
            self.result.set_exception(error)


class VirtualLoop(asyncio.BaseEventLoop):
    """The event loop. Close it when nothing is left.

    Attributes:
        now_s: its time, seconds.
        current: the fiber that runs; None: a callback does.
        fibers: the calls that have begun and not ended.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0
        self.current: Fiber | None = None
        self.fibers: list[Fiber] = []
        self._waiting: deque[Fiber] = deque()
        self._busy: Counter[ThreadPoolExecutor | None] = Counter()
        self._turns = 0
        self._selector = self

    # ---- what the base class needs -------------------------------------------------------

    def time(self) -> float:
        return self.now_s

    def select(self, timeout: float | None) -> list[Any]:
        """End `run_forever` where a real loop would wait: nothing is left to do now."""
        self._turns += 1
        if timeout != 0 or self._turns > _MAX_TURNS:
            self.stop()
        return []

    def _process_events(self, event_list: list[Any]) -> None: ...

    def _write_to_self(self) -> None: ...

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        assert self.current is None, "call_soon on a thread"
        return super().call_soon(callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        assert self.current is None, "call_at on a thread"
        return super().call_at(when, callback, *args, context=context)

    # ---- threads -------------------------------------------------------------------------

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        assert self.current is None, "run_in_executor on a thread"
        if executor is not None and executor._shutdown:
            raise RuntimeError("cannot schedule new futures after shutdown")
        fiber = Fiber(self, executor, lambda: func(*args))
        self._waiting.append(fiber)
        self._begin_next()
        return fiber.result

    def _begin_next(self) -> None:
        for fiber in list(self._waiting):
            executor = fiber.executor
            if executor is None or self._busy[executor] < executor._max_workers:
                self._waiting.remove(fiber)
                self._busy[executor] += 1
                self.fibers.append(fiber)
                self.call_soon(fiber.go_on)

    def forget(self, fiber: Fiber) -> None:
        """Note that a call has ended: its thread is free."""
        self.fibers.remove(fiber)
        self._busy[fiber.executor] -= 1
        self._begin_next()

    def pause(self, *, is_polling: bool = False) -> None:
        """Wait, on a fiber, until `Fiber.go_on`; one that polls goes on with each `settle`."""
        fiber = self.current
        assert fiber is not None, "nothing may block the event loop"
        fiber.is_polling = is_polling
        fiber._greenlet.parent.switch()
        fiber.is_polling = False

    # ---- for tests -----------------------------------------------------------------------

    def settle(self) -> None:
        """Run until nothing happens any more, polling fibers included, at this time."""
        self._run_until_idle()
        while polling := [fiber for fiber in self.fibers if fiber.is_polling]:
            for fiber in polling:
                self.call_soon(fiber.go_on)
            self._run_until_idle()
            if polling == [fiber for fiber in self.fibers if fiber.is_polling]:
                return

    def _run_until_idle(self) -> None:
        self._turns = 0
        self.run_forever()
        assert self._turns <= _MAX_TURNS, "it never comes to rest"

    def do(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine, which must end without the help of time or gates; then settle."""
        task = self.create_task(call)
        self.settle()
        assert task.done(), "it waits for something that does not come"
        return task.result()

    def next_timer_s(self) -> float | None:
        """Return when the next timer is due."""
        return min((timer._when for timer in self._scheduled if not timer._cancelled), default=None)

    def timers(self) -> list[Any]:
        """Return the timers that are set."""
        return [timer for timer in self._scheduled if not timer._cancelled]

    def pass_time(self, seconds: float) -> None:
        """Have each timer of the next seconds fire at its time."""
        end_s = self.now_s + seconds
        self.settle()
        while (due_s := self.next_timer_s()) is not None and due_s <= end_s:
            self.now_s = max(self.now_s, due_s)
            self.settle()
        self.now_s = end_s
        self.settle()
