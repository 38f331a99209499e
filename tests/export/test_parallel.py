from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.support import shapes
from tests.support.engines import PATIENCE_S
from tests.support.interpreter import run_python
from trellis2_server import export
from trellis2_server.export import parallel


def test_every_index_is_visited_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(start: int, stop: int, visits: np.ndarray, _flag: object) -> None:
        visits[start:stop] += 1

    for threads in (1, 3):
        monkeypatch.setattr(parallel, "_THREADS", threads)
        for length in (0, 1, 999, 10_000):
            visits = np.zeros(length, int)
            parallel.parallel_for(count, length, visits, grain=10)
            assert (visits == 1).all()


def test_an_exception_in_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(start: int, _stop: int, _flag: object) -> None:
        if start > 0:
            raise ArithmeticError

    monkeypatch.setattr(parallel, "_THREADS", 3)
    with pytest.raises(ArithmeticError):
        parallel.parallel_for(fail, 100, grain=1)


def test_the_bytes_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    field, original = shapes.field(32), shapes.noisy_blob()
    results = []
    for threads in (1, 2, 7):
        monkeypatch.setattr(parallel, "_THREADS", threads)
        mesh = export.prepare(original, decimation_target=1500)
        results.append(export.textured_glb(mesh, field, original=original, texture_size=256))
    assert results[0] == results[1] == results[2]


def test_exports_at_the_same_time_share_their_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_THREADS", 3)
    together = threading.Barrier(3)
    names: set[str] = set()

    def note(_start: int, _stop: int, _flag: object) -> None:
        names.add(threading.current_thread().name)
        together.wait(timeout=PATIENCE_S)

    # Two exports with six calls each: three of the twelve run at any time.
    with ThreadPoolExecutor(2) as exports:
        for done in [exports.submit(parallel.parallel_for, note, 6, grain=1) for _ in range(2)]:
            done.result()
    assert len(names) == 3


def test_no_call_runs_any_more_when_an_exception_is_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parallel, "_THREADS", 2)
    works, never, running = threading.Event(), threading.Event(), set[int]()

    def fail_or_work(start: int, _stop: int, _flag: object) -> None:
        if start == 0:
            works.wait(timeout=PATIENCE_S)
            raise ArithmeticError
        running.add(start)
        works.set()
        never.wait(timeout=0.2)  # works on after the other call has failed
        running.remove(start)

    with pytest.raises(ArithmeticError):
        parallel.parallel_for(fail_or_work, 8, grain=1)
    assert not running


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_starts_threads_of_its_own() -> None:
    done = run_python(
        "import os\n"
        "from trellis2_server.export import parallel\n"
        "parallel._THREADS = 2\n"
        "def work(start, stop, flag): pass\n"
        "parallel.parallel_for(work, 100, grain=1)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    parallel.parallel_for(work, 100, grain=1)\n"
        "    os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert done.stdout.strip() == "7", done.stderr


@pytest.mark.parametrize(
    ("processors", "threads"), [(1, 1), (2, 2), (3, 3), (4, 3), (7, 6), (8, 6), (16, 14), (64, 16)]
)
def test_large_machines_leave_processors_to_the_device(processors: int, threads: int) -> None:
    assert parallel.thread_count(processors) == threads
