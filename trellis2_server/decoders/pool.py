"""`DecoderPool`: decoder processes that are started when they are needed, reused and replaced.

Does not know: what is decoded, how a process is confined.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, Final, Protocol

from trellis2_server.decoders.process import (
    DEFAULT_TRANSPORT,
    TASKS,
    DecoderEndedError,
    DecoderProcess,
)
from trellis2_server.decoders.transport import CHECK_INTERVAL_S
from trellis2_server.errors import (
    InputError,
    ServerError,
    TooLargeError,
    UnavailableError,
    shutting_down,
)
from trellis2_server.reports import no_check

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from trellis2_server.decoders.limits import DecoderLimits
    from trellis2_server.decoders.process import Decoded, Reason, Transport
    from trellis2_server.reports import Check

logger = logging.getLogger(__name__)

#: How long a process waits for its next call before it ends, seconds; the first one does not end.
IDLE_S: Final = 60.0
#: How often a call is tried whose process crashes, which may have other reasons than the file.
_ATTEMPTS: Final = 2
#: How often a process is started that ends before it has read anything: no file is to blame.
_STARTS: Final = 10


class DecoderObserver(Protocol):
    """Is notified of what decoders do, on the thread that calls."""

    def note_decoding(self, task: str, seconds: float) -> None:
        """Note that a call has ended, whether or not it succeeded."""
        ...

    def note_decoder_end(self, reason: Reason) -> None:
        """Note that a decoder was killed, or has crashed, in a call."""
        ...

    def note_decoders(self, count: int) -> None:
        """Note how many decoders there are."""
        ...


class DecoderPool:
    """Decoder processes; their number is limited. Thread-safe.

    Args:
        limits: of each process.
        size: maximum number of processes.
        tasks: table of their tasks; see `DecoderProcess`.
        transport: see `DecoderProcess`.

    Attributes:
        observer: is notified of what happens; None: nobody is.
        counts: number of processes `started`, and of those that ended in a call, by reason.
    """

    def __init__(
        self,
        limits: DecoderLimits,
        size: int,
        *,
        tasks: str = TASKS,
        transport: Transport = DEFAULT_TRANSPORT,
    ) -> None:
        self.observer: DecoderObserver | None = None
        self.counts: Counter[str] = Counter()
        self._limits = limits
        self._start = partial(DecoderProcess, limits, tasks=tasks, transport=transport)
        # Free places, in order: the process at the first one is used the most and kept.
        self._free: list[int] = list(range(size))
        self._processes: dict[int, DecoderProcess] = {}
        self._is_closed = False
        self._changed = threading.Condition()

    @property
    def running(self) -> int:
        """Number of processes, busy or not."""
        with self._changed:
            return sum(process.is_alive for process in self._processes.values())

    @property
    def pids(self) -> list[int]:
        """Process IDs of the processes."""
        with self._changed:
            return [process.pid for process in self._processes.values() if process.is_alive]

    def confinement(self) -> tuple[str, ...]:
        """Return which of `confinement.PROPERTIES` hold for the processes here; start one to see.

        Raises:
            UnavailableError: no process can be started.
        """
        with self._place(no_check) as place:
            return self._process(place, no_check).confinement

    def call(  # noqa: PLR0913 - what a task gets, and its limits
        self,
        task: str,
        content: bytes | memoryview,
        arguments: Mapping[str, object],
        *,
        field: str = "image",
        timeout_s: float | None = None,
        result_bytes: int | None = None,
        check: Check = no_check,
    ) -> Decoded:
        """Do a task in a process that is free; block until it has ended.

        A call whose process crashes is tried once more, in a new process.

        Args:
            task: its name.
            content: a client's file.
            arguments: JSON values.
            field: field of the request, for messages.
            timeout_s: time limit, seconds; None: that of the limits.
            result_bytes: maximum size of the arrays that the task returns, bytes; None: that of
                the limits.
            check: called at least every 50 ms; what it raises is raised as soon as the process is
                free again, or has been killed since it took longer, see `DecoderProcess`.

        Raises:
            InputError: the file is refused: by the task, because of its time, or because the
                process crashes twice.
            TooLargeError: it takes more memory than is allowed.
            UnavailableError: no process can be started.
            ShuttingDownError: the pool was closed.
        """
        started = time.monotonic()
        try:
            with self._place(check) as place:
                call = methodcaller(
                    "call",
                    task=task,
                    content=content,
                    arguments=arguments,
                    field=field,
                    timeout_s=timeout_s,
                    result_bytes=result_bytes,
                    idle_s=IDLE_S if place else None,
                    check=check,
                )
                return self._call_at(place, call, task, field, check)
        finally:
            self._forget_ended()
            if self.observer is not None:
                self.observer.note_decoding(task, time.monotonic() - started)

    def _call_at(
        self,
        place: int,
        call: Callable[[DecoderProcess], Decoded],
        task: str,
        field: str,
        check: Check,
    ) -> Decoded:
        attempt = 0
        while True:
            attempt += 1
            process = self._process(place, check)
            try:
                return call(process)
            except DecoderEndedError as error:
                if self._is_closed:
                    raise shutting_down() from error
                self.note_end(error.reason, task, str(error))
                if error.reason != "crash" or attempt == _ATTEMPTS:
                    raise _refusal(field, error) from error
            except (ServerError, MemoryError) as error:
                if isinstance(error, TooLargeError) and process.is_spent:
                    self.note_end("memory", task, str(error))
                raise
            except BaseException:
                if process.is_spent:
                    self.note_end("cancelled", task, "")
                raise
            finally:
                if process.is_spent:
                    self._discard(place)

    def _process(self, place: int, check: Check) -> DecoderProcess:
        """Return the process at a place, ready; start it if there is none."""
        for attempt in range(_STARTS):
            with self._changed:
                process = self._processes.get(place)
            if process is not None and not process.is_alive:
                self._discard(place)
                process = None
            try:
                if process is None:
                    process = self._start()
                    with self._changed:
                        self._processes[place] = process
                        if self._is_closed:
                            process.stop()
                    self.counts["started"] += 1
                    self._note_count()
                process.wait_until_ready(check)
            except (OSError, DecoderEndedError) as error:
                self._discard(place)
                if self._is_closed:
                    raise shutting_down() from error
                logger.warning(
                    "A decoder could not be started",
                    extra={"attempt": attempt + 1, "cause": str(error)},
                )
            except BaseException:
                if process is None or process.is_spent:
                    self._discard(place)
                raise
            else:
                return process
        raise UnavailableError("no process could be started to decode the file", retry_after_s=10)

    @contextlib.contextmanager
    def _place(self, check: Check) -> Generator[int]:
        """Take the first free place; wait until there is one."""
        with self._changed:
            while not self._free and not self._is_closed:
                check()
                self._changed.wait(CHECK_INTERVAL_S)
            if self._is_closed:
                raise shutting_down()
            place = min(self._free)
            self._free.remove(place)
        try:
            yield place
        finally:
            with self._changed:
                self._free.append(place)
                self._changed.notify()
            if self._is_closed:
                self._discard(place)

    def _discard(self, place: int) -> None:
        with self._changed:
            process = self._processes.pop(place, None)
        if process is not None:
            process.kill()
            self._note_count()

    def _forget_ended(self) -> None:
        """Free what belongs to processes that have ended because they had no work."""
        with self._changed:
            ended = [
                self._processes.pop(place)
                for place in self._free
                if place in self._processes and not self._processes[place].is_alive
            ]
        for process in ended:
            process.kill()
        if ended:
            self._note_count()

    def note_end(self, reason: Reason, task: str, text: str) -> None:
        """Count and log a decoder that has ended in a call, also one outside of the pool."""
        self.counts[reason] += 1
        logger.warning("Decoder ended", extra={"reason": reason, "task": task, "text": text})
        if self.observer is not None:
            self.observer.note_decoder_end(reason)

    def _note_count(self) -> None:
        if self.observer is not None:
            self.observer.note_decoders(self.running)

    def close(self) -> None:
        """Kill all processes; calls that run or wait fail. None is started any more."""
        with self._changed:
            self._is_closed = True
            busy = [self._processes[at] for at in self._processes if at not in self._free]
            idle = [at for at in self._processes if at in self._free]
            self._changed.notify_all()
        for process in busy:
            process.stop()  # the thread of its call frees the rest
        for place in idle:
            self._discard(place)


def _refusal(field: str, error: DecoderEndedError) -> InputError:
    """Return the error for the client whose file ended a decoder."""
    if error.reason == "timeout":
        return InputError(f"{field}: decoding it {error}")
    if error.reason == "memory":
        return TooLargeError(f"{field}: decoding it takes more memory than is allowed")
    return InputError(f"{field}: decoding it {error}, also when it was tried again")
