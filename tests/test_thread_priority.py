from __future__ import annotations

import asyncio
import os
import sys
import threading

import numpy as np
import pytest

from tests.support.engines import GatedEngine
from trellis2_server.export import parallel
from trellis2_server.inputs.images import Cutter
from trellis2_server.jobs.executor import LocalExecutor
from trellis2_server.jobs.manager import JobManager
from trellis2_server.settings import Settings
from trellis2_server.thread_priority import device_niceness, lower_priority

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only on Linux does each thread have its own niceness"
)


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


class EngineOn(GatedEngine):
    def __init__(self, device: str) -> None:
        super().__init__()
        self._device = device

    def describe(self) -> dict[str, object]:
        return {"device": self._device}


async def niceness_of_steps(device: str) -> list[int]:
    settings = Settings()
    manager = JobManager(LocalExecutor(EngineOn(device), Cutter(), settings), settings)
    try:
        return [await manager.threads.start_step(step, niceness) for step in ("shape", "cutout")]
    finally:
        await manager.close()


def test_the_thread_that_drives_a_gpu_has_the_event_loops_priority_and_exports_a_low_one() -> None:
    own = niceness()
    device, cpu = asyncio.run(niceness_of_steps("cuda:1"))
    assert device == own == 0
    assert cpu == 10


def test_an_engine_on_the_cpu_does_not_slow_the_event_loop_down() -> None:
    device, cpu = asyncio.run(niceness_of_steps("cpu"))
    assert 0 < device < cpu


def test_the_threads_of_an_export_have_a_low_priority_whoever_starts_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parallel, "_THREADS", 2)
    found = np.zeros(100, int)

    def note(start: int, stop: int, flag: object) -> None:
        del flag
        found[start:stop] = niceness()

    parallel.parallel_for(note, 100, grain=1)
    assert set(found) == {10}


def test_a_priority_that_is_lower_already_stays() -> None:
    found: list[int] = []

    def lower_twice() -> None:
        for each in (7, 3):
            lower_priority(each)
            found.append(niceness())

    thread = threading.Thread(target=lower_twice)
    thread.start()
    thread.join()
    assert found == [7, 7]


def test_a_priority_that_the_system_refuses_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    lower_priority()
    assert device_niceness({"device": "mps"}) == 0
