"""Several processes: which one does a call, and what becomes of those that end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.decoder_tasks import TABLE
from tests.support.engines import PATIENCE_S
from tests.support.server import until
from trellis2_server import errors
from trellis2_server.decoders import DecoderLimits, DecoderPool, process
from trellis2_server.decoders import pool as pool_module

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")

LIMITS = DecoderLimits(2**28, 30.0)


@pytest.fixture
def pool() -> Generator[DecoderPool]:
    made = DecoderPool(LIMITS, 2, tasks=TABLE)
    yield made
    made.close()


@pytest.fixture
def threads() -> Generator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


def waits_in(pool: DecoderPool, count: int) -> bool:
    """Whether that many processes are in a call."""
    return len(pool.pids) == count and len(pool._free) == 2 - count


def test_no_process_starts_before_the_first_call(pool: DecoderPool) -> None:
    assert pool.running == 0


def test_a_process_that_is_killed_in_a_call_is_replaced_and_the_call_done_again(
    pool: DecoderPool, threads: ThreadPoolExecutor
) -> None:
    first = pool.call("echo", b"", {}).meta["pid"]
    is_in_call, release = threading.Event(), threading.Event()

    class Leave(Exception):  # noqa: N818 - ends the second try
        pass

    def check() -> None:
        if is_in_call.is_set() and release.is_set():
            raise Leave
        is_in_call.set()

    call: Future[Any] = threads.submit(pool.call, "wait", b"", {}, check=check)
    assert is_in_call.wait(PATIENCE_S)
    os.kill(first, signal.SIGKILL)
    until(lambda: bool(pool.pids) and pool.pids != [first], "a new process")
    release.set()
    with pytest.raises(Leave):
        call.result()
    assert pool.counts["started"] == 2
    assert pool.counts["crash"] == 1


def test_a_process_that_was_killed_without_work_is_replaced_unseen(pool: DecoderPool) -> None:
    first = pool.call("echo", b"", {}).meta["pid"]
    os.kill(first, signal.SIGKILL)
    assert pool.call("echo", b"", {}).meta["pid"] != first


def test_calls_beyond_the_size_wait_and_can_be_cancelled(
    pool: DecoderPool, threads: ThreadPoolExecutor
) -> None:
    stop = threading.Event()

    class Leave(Exception):  # noqa: N818 - ends a call
        pass

    def check() -> None:
        if stop.is_set():
            raise Leave

    busy = [threads.submit(pool.call, "wait", b"", {}, check=check) for _ in range(2)]
    until(lambda: waits_in(pool, 2), "both are busy")

    def leave() -> None:
        raise Leave

    with pytest.raises(Leave):
        pool.call("echo", b"", {}, check=leave)
    waiting: Future[Any] = threads.submit(pool.call, "echo", b"", {})
    stop.set()
    assert waiting.result().meta["arguments"] == {}
    for call in busy:
        with pytest.raises(Leave):
            call.result()


def test_closing_ends_calls_that_run_and_wait(
    pool: DecoderPool, threads: ThreadPoolExecutor
) -> None:
    calls = [threads.submit(pool.call, "wait", b"", {}) for _ in range(3)]
    until(lambda: waits_in(pool, 2), "both are busy")
    pids = pool.pids
    pool.close()
    for call in calls:
        with pytest.raises(errors.ShuttingDownError):
            call.result()
    assert pool.running == 0
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with pytest.raises(errors.ShuttingDownError):
        pool.call("echo", b"", {})


def test_processes_beyond_the_first_end_when_they_have_no_work(
    pool: DecoderPool, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "IDLE_S", 0.05)
    stop = threading.Event()

    class Leave(Exception):  # noqa: N818 - ends a call
        pass

    def check() -> None:
        if stop.is_set():
            raise Leave

    busy = threads.submit(pool.call, "wait", b"", {}, check=check)
    until(lambda: waits_in(pool, 1), "the first one is busy")
    second = pool.call("echo", b"", {}).meta["pid"]
    until(lambda: second not in pool.pids, "the second one has ended")
    stop.set()
    with pytest.raises(Leave):
        busy.result()
    first = pool.call("echo", b"", {}).meta["pid"]
    assert first in pool.pids
    assert pool.counts["crash"] == 0


def test_a_machine_that_starts_no_process_is_busy_not_broken(
    monkeypatch: pytest.MonkeyPatch, pool: DecoderPool
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patched:
        patched.setattr(process.subprocess, "Popen", refuse)
        with pytest.raises(errors.UnavailableError):
            pool.call("echo", b"", {})
    assert pool.call("echo", b"", {})


def test_a_program_that_cannot_start_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    pool = DecoderPool(LIMITS, 1, tasks="tests.support.no_such_module:TASKS")
    with pytest.raises(errors.UnavailableError):
        pool.call("echo", b"", {})
    assert any("ModuleNotFoundError" in str(vars(record)) for record in caplog.records)
    pool.close()


class Observer:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def note_decoding(self, task: str, seconds: float) -> None:
        assert seconds > 0
        self.seen.append(task)

    def note_decoder_end(self, reason: str) -> None:
        self.seen.append(reason)

    def note_decoders(self, count: int) -> None:
        self.seen.append(count)


def test_an_observer_sees_what_happens() -> None:
    pool = DecoderPool(LIMITS, 1, tasks=TABLE)
    observer = pool.observer = Observer()
    pool.call("echo", b"", {})
    with pytest.raises(errors.InputError):
        pool.call("loop", b"", {"holds": False}, timeout_s=0.1)
    pool.close()
    assert observer.seen == [1, "echo", "timeout", 0, "loop"]


def test_an_observer_learns_of_a_process_that_has_ended_without_work(
    pool: DecoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "IDLE_S", 0.05)
    observer = pool.observer = Observer()
    seconds: list[int] = []

    def check() -> None:
        if not seconds:
            seconds.append(0)
            seconds.append(pool.call("echo", b"", {}).meta["pid"])

    pool.call("echo", b"", {}, check=check)
    assert 2 in observer.seen
    until(lambda: seconds[1] not in pool.pids, "the second one has ended")
    pool.call("echo", b"", {})
    # It may have ended before the first call did.
    assert [each for each in observer.seen if isinstance(each, int)][-1] == 1
    assert observer.seen[-1] == "echo"
