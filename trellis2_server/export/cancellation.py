"""Stop an export, whatever it is doing, when its report raises.

    with cancellable(report, "unwrap") as watched:   a public function of the exporter
        watched("unwrap", 0, 4)    between steps
        flag()                     an argument of every compiled loop, which polls it
        check()                    between other calls that take long

Within `cancellable`, a thread calls the report again every `INTERVAL_S`, with the latest progress.
When it raises, the flag is set, compiled loops return early, and `check` raises the exception. The
results of a loop that has returned early are useless: `parallel_for` and `call` check after it.

Does not know: what is exported, jobs.
"""

from __future__ import annotations

import contextvars
import io
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from trellis2_server.reports import no_report

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from numpy.typing import NDArray

    from trellis2_server.reports import Report

_T = TypeVar("_T")

#: Time between two calls of the report while a step runs, seconds.
INTERVAL_S: Final = 0.05
#: Values of `flag()[0]`. OBSERVED: as RUNNING, but `flag()[1]` counts how often loops poll.
RUNNING, CANCELLED, OBSERVED = 0, 1, 2


def new_flag() -> NDArray[np.int64]:
    """Return a flag that is not set: the state, and the counter of OBSERVED."""
    # Alone in its cache line, so that no write of other threads slows loops down.
    return np.zeros(48, np.int64)[16:18]


_NEVER: Final = new_flag()


class _Watch:
    """Calls a report while an export runs, and remembers the exception that it raised.

    Args:
        report: of the export.
        stage: reported until the first progress.
    """

    def __init__(self, report: Report, stage: str) -> None:
        self.flag = new_flag()
        self.error: BaseException | None = None
        self._report = report
        self._latest = (stage, 0, 1)
        self._lock = threading.Lock()
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="export-watch", daemon=True)

    def start(self) -> None:
        """Call the report from now on."""
        self._thread.start()

    def end(self) -> None:
        """Return when no call of the report runs any more."""
        self._has_ended.set()
        self._thread.join()

    def report(self, stage: str, step: int, steps: int) -> None:
        """Report progress; raises what the report raises now or has raised before."""
        self._latest = (stage, step, steps)
        self._call()
        self.check()

    def check(self) -> None:
        """Raise the exception of the report if it has raised one."""
        if self.error is not None:
            raise self.error

    def _watch(self) -> None:
        while self.error is None and not self._has_ended.wait(INTERVAL_S):
            self._call()

    def _call(self) -> None:
        with self._lock:
            if self.error is not None:
                return
            try:
                self._report(*self._latest)
            except BaseException as error:  # noqa: BLE001 - raised again by `check`
                self.error = error
                self.flag[0] = CANCELLED


_current: contextvars.ContextVar[_Watch | None] = contextvars.ContextVar("watch", default=None)


@contextmanager
def cancellable(report: Report | None, stage: str) -> Generator[Report]:
    """Watch a report while the block runs.

    Args:
        report: called on two threads, one at a time; None: nothing can stop the block, unless it is
            part of another one.
        stage: reported until the first progress.

    Yields:
        What the block has to report to.
    """
    if report is None or _current.get() is not None:
        yield report or no_report
        return
    watch = _Watch(report, stage)
    token = _current.set(watch)
    watch.start()
    try:
        yield watch.report
        watch.check()
    finally:
        # Threads of the export that still run stop, too.
        watch.flag[0] = CANCELLED
        _current.reset(token)
        watch.end()


def flag() -> NDArray[np.int64]:
    """Return the flag of the current export, int64 [2], which compiled loops poll."""
    watch = _current.get()
    return _NEVER if watch is None else watch.flag


def check() -> None:
    """Raise the exception of the report, if it has raised one."""
    watch = _current.get()
    if watch is not None:
        watch.check()


def call(kernel: Callable[..., _T], *arguments: Any) -> _T:
    """Call a compiled loop with the flag as its last argument, and return its result."""
    result = kernel(*arguments, flag())
    check()
    return result


def checked(chunks: Iterable[_T]) -> Iterator[_T]:
    """Yield the chunks, checking before each."""
    for chunk in chunks:
        check()
        yield chunk


class CheckedStream(io.BytesIO):
    """Bytes in memory that another library reads or writes in parts, checking before each."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read bytes."""
        check()
        return super().read(size)

    def write(self, content: Any, /) -> int:
        """Write bytes."""
        check()
        return super().write(content)
