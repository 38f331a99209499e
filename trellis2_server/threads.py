"""`Threads`: the one lane of the engine, the pool of everything else, and a lane for lookups.

Whatever a call raises comes out as one of our own errors.

What this module does not know: jobs, the order of the work, what a call does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.errors import EngineError, OutOfMemoryError, ServerError
from trellis2_server.images import ModelPending

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from trellis2_server.steps import Step

logger = logging.getLogger(__name__)

#: Of the threads that work, against the event loop's 0.
THREAD_NICENESS: Final = 5


class Stopped(Exception):  # noqa: N818 - no error: unwinds a step that nobody wants any more
    """Raised by a `report` inside the engine or the exporter."""


class Threads:
    """Who works. Its face belongs to the event loop's thread.

    Attributes:
        pool_size: how many threads the pool has.
        lane_steps: which steps the lane does.
        pool_running: how many of them work.
        lane_is_busy: whether the engine works; from the start, until somebody loads it.
        lookups: how many lookups run or wait.
    """

    def __init__(self, pool_size: int, lane_steps: frozenset[Step]) -> None:
        self.pool_size = pool_size
        self.lane_steps = lane_steps
        self.pool_running = 0
        self.steps_running = 0
        self.lane_is_busy = True
        self.lookups = 0
        self._lane = ThreadPoolExecutor(1, "lane", give_way)
        self._pool = ThreadPoolExecutor(pool_size, "pool", give_way)
        self._lookup = ThreadPoolExecutor(1, "lookup", give_way)

    def begin(
        self, step: Step, call: Callable[[], Any], context: Context | None = None
    ) -> asyncio.Future[Any]:
        """A step's result, to come; its thread counts as working until then.

        It runs in a copy of that context, or else of the present one.

        The future fails with a `ServerError`, a `ModelPending` or `Stopped`.
        """
        on_lane = step in self.lane_steps
        self.steps_running += 1
        if on_lane:
            self.lane_is_busy = True
        else:
            self.pool_running += 1

        def free(_: object) -> None:
            self.steps_running -= 1
            if on_lane:
                self.lane_is_busy = False
            else:
                self.pool_running -= 1

        future = self._run(self._lane if on_lane else self._pool, step, call, context)
        future.add_done_callback(free)
        return future

    def on_lane(self, what: str, call: Callable[[], Any]) -> asyncio.Future[Any]:
        """The result of a call that is no step, where the engine works."""
        return self._run(self._lane, what, call)

    def look_up(self, call: Callable[[], Any]) -> asyncio.Future[Any]:
        """The result of a cut-out for its hash alone; these run one at a time."""

        def ended(future: asyncio.Future[Any]) -> None:
            self.lookups -= 1
            if not future.cancelled():
                future.exception()  # seen, though nobody may wait for it any more

        self.lookups += 1
        future = self._run(self._lookup, "cutout", call)
        future.add_done_callback(ended)
        return future

    def close(self) -> None:
        """Begin nothing more; what runs goes on."""
        self._lane.shutdown(wait=False, cancel_futures=True)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._lookup.shutdown(wait=False)

    @staticmethod
    def _run(
        executor: ThreadPoolExecutor,
        what: str,
        call: Callable[[], Any],
        context: Context | None = None,
    ) -> asyncio.Future[Any]:
        run = (context or copy_context()).copy().run
        guarded = partial(_guarded, what, call)
        return asyncio.get_running_loop().run_in_executor(executor, partial(run, guarded))


def one_line(error: BaseException) -> str:
    """An exception in one line, without the machine's paths."""
    text = " ".join(str(error).encode(errors="replace").decode().split())[:300]
    text = re.sub(r"(?:[A-Za-z]:)?[\\/](?:[^\s\\/:'\"]+[\\/])+", "", text)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def give_way() -> None:
    """Let the event loop's thread go before this one and the threads that it starts.

    Only on Linux has each thread a niceness of its own.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), THREAD_NICENESS)


def _guarded(what: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (ServerError, ModelPending, Stopped):
        raise
    except MemoryError as error:
        logger.exception("Out of memory", extra={"step": what})
        raise OutOfMemoryError(f"{what}: out of memory") from error
    except BaseException as error:  # a thread's border: a library's sys.exit() comes by too
        logger.exception("Step failed", extra={"step": what})
        raise EngineError(f"{what} failed: {one_line(error)}") from error
