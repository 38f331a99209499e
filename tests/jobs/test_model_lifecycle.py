"""When the engine is loaded again, and what is known of its memory; no thread, no engine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.managers import Clock, in_a_loop
from tests.support.server import settings
from trellis2_server.errors import EngineBrokenError, EngineError, LoadingError
from trellis2_server.jobs.model_lifecycle import ModelLifecycle
from trellis2_server.jobs.threads import StepCancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MB = 1_000_000


class Engine:
    """Loads in no time, and has the memory that a test says."""

    name = "engine"

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.memory: dict[str, int] = {"used": 100 * MB, "weights": 10 * MB, "total": 10**12}
        self.error: Exception | None = None
        self.on_load: Callable[[Any], None] = lambda _: None

    def load(self, report: Any) -> None:
        self.calls.append("load")
        self.on_load(report)
        if self.error is not None:
            raise self.error

    def unload(self) -> None:
        self.calls.append("unload")

    def device_memory(self) -> Mapping[str, int]:
        return dict(self.memory)


class Threads:
    """Runs calls at once."""

    def __init__(self, clock: Clock) -> None:
        self.device_is_reserved = True
        self.timed: list[tuple[str, bool]] = []
        self._clock = clock

    def run_on_device(
        self, what: str, call: Callable[[], Any], *, is_timed: bool = True
    ) -> asyncio.Future[Any]:
        self.timed.append((what, is_timed))
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            result = call()
        except Exception as error:  # noqa: BLE001 - passed on
            future.set_exception(error)
        else:
            self.device_is_reserved = False
            self._clock.now += 3.0
            future.set_result(result)
        return future


class Loaded:
    def __init__(self, **worker: Any) -> None:
        self.clock, self.engine = Clock(), Engine()
        self.clock.now = 100.0
        self.threads = Threads(self.clock)
        executor: Any = self.engine
        threads: Any = self.threads
        self.lifecycle = ModelLifecycle(executor, threads, settings(worker=worker), self.clock)

    def step(self, name: str, **memory: int) -> None:
        """Have a step leave this memory."""
        self.engine.memory |= memory
        self.lifecycle._note(name, self.engine.device_memory())


@in_a_loop
async def test_requests_are_refused_until_the_engine_is_loaded() -> None:
    parts = Loaded()
    lifecycle = parts.lifecycle
    assert (lifecycle.status, lifecycle.is_resident, lifecycle.seconds) == ("loading", False, None)
    assert (lifecycle.seconds_left, lifecycle.stage, lifecycle.fraction) == (0.0, "", 0.0)
    with pytest.raises(LoadingError, match="the model is loading") as caught:
        lifecycle.check()
    assert caught.value.retry_after_s == 5
    parts.engine.on_load = lambda report: report("weights", 1, 4)
    await lifecycle.load()
    lifecycle.check()
    assert (lifecycle.status, lifecycle.is_resident, lifecycle.stage) == ("ok", True, "")
    assert (lifecycle.seconds, lifecycle.fraction, lifecycle.error) == (3.0, 0.25, None)
    assert lifecycle.memory == parts.engine.memory
    assert parts.threads.timed == [("load", False)]  # the first load downloads weights
    assert not lifecycle.is_due


@pytest.mark.parametrize("error", [EngineError("no weights"), StepCancelled("stopped")])
@in_a_loop
async def test_an_engine_that_cannot_be_loaded_takes_no_step(error: Exception) -> None:
    parts = Loaded()
    parts.engine.error = error
    parts.threads.device_is_reserved = False
    await parts.lifecycle.load()
    assert parts.threads.device_is_reserved
    assert (parts.lifecycle.status, parts.lifecycle.error) == ("error", str(error))
    with pytest.raises(LoadingError, match=f"could not be loaded: {error}") as caught:
        parts.lifecycle.check()
    assert caught.value.retry_after_s == 60
    assert not parts.lifecycle.is_due


@in_a_loop
async def test_a_device_that_broke_is_said_to_the_caller() -> None:
    parts = Loaded()
    parts.engine.error = EngineBrokenError("no device")
    with pytest.raises(EngineBrokenError):
        await parts.lifecycle.load()
    assert parts.lifecycle.status == "error"


@in_a_loop
async def test_a_load_stops_at_its_next_report_when_the_server_stops() -> None:
    parts = Loaded()
    reports: list[float] = []

    def load(report: Any) -> None:
        for step, steps in ((0, 0), (1, 2)):
            report("weights", step, steps)
            reports.append(parts.lifecycle.fraction)
        parts.lifecycle.is_stopped = True
        report("weights", 2, 2)
        raise AssertionError

    parts.engine.on_load = load
    await parts.lifecycle.load()
    assert reports == [0.0, 0.5]
    assert (parts.lifecycle.stage, parts.lifecycle.status) == ("weights", "error")


@in_a_loop
async def test_the_engine_is_due_after_a_number_of_jobs_and_not_before() -> None:
    parts = Loaded(recycle_after_jobs=2)
    lifecycle = parts.lifecycle
    await lifecycle.load()
    for is_due in (False, True, True):
        lifecycle.note_job()
        assert lifecycle.is_due is is_due
    await lifecycle.reload()
    assert parts.engine.calls == ["load", "unload", "load"]
    assert not lifecycle.is_due
    lifecycle.note_job()
    assert not lifecycle.is_due
    never = Loaded()
    await never.lifecycle.load()
    for _ in range(100):
        never.lifecycle.note_job()
    assert not never.lifecycle.is_due


@in_a_loop
async def test_an_unloaded_engine_is_loaded_without_unloading_it_again() -> None:
    parts = Loaded(recycle_after_jobs=1)
    await parts.lifecycle.load()
    parts.lifecycle.note_job()
    await parts.lifecycle.unload()
    assert (parts.lifecycle.is_resident, parts.lifecycle.memory) == (False, {})
    assert not parts.lifecycle.is_due
    assert parts.lifecycle.seconds_left == 3.0  # as the last time
    parts.engine.on_load = lambda _: _check_reloading(parts)
    await parts.lifecycle.reload()
    assert parts.engine.calls == ["load", "unload", "load"]
    assert not parts.lifecycle.is_reloading
    assert parts.lifecycle.seconds_left == 0.0
    assert parts.threads.timed == [("load", False), ("unload", True), ("load", True)]


def _check_reloading(parts: Loaded) -> None:
    lifecycle = parts.lifecycle
    assert (lifecycle.is_reloading, lifecycle.is_resident) == (True, False)
    assert lifecycle.seconds_left == 3.0
    parts.clock.now += 2.0
    assert lifecycle.seconds_left == 1.0
    parts.clock.now += 2.0
    assert lifecycle.seconds_left == 0.0


@pytest.mark.parametrize("kind", ["used", "outside"])
@in_a_loop
async def test_memory_may_grow_by_the_limit_and_no_more(kind: str) -> None:
    parts = Loaded(max_vram_growth_mb=50)
    parts.engine.memory["outside"] = 100 * MB
    await parts.lifecycle.load()
    parts.step("shape", **{kind: 200 * MB})  # what a step leaves the first time is its level
    parts.step("texture", **{kind: 900 * MB})
    parts.step("shape", **{kind: 250 * MB})
    assert not parts.lifecycle.is_due
    parts.step("shape", **{kind: 250 * MB + 1})
    assert parts.lifecycle.is_due
    assert parts.lifecycle.memory[kind] == 250 * MB + 1
    parts.engine.memory[kind] = 100 * MB
    await parts.lifecycle.reload()
    assert not parts.lifecycle.is_due
    parts.step("shape", **{kind: 600 * MB})  # levels begin anew
    assert not parts.lifecycle.is_due


@in_a_loop
async def test_memory_that_shrinks_or_that_is_the_weights_is_no_growth() -> None:
    parts = Loaded(max_vram_growth_mb=1)
    await parts.lifecycle.load()
    parts.step("shape", used=100 * MB, weights=10 * MB)
    parts.step("shape", used=500 * MB, weights=410 * MB)
    parts.step("shape", used=20 * MB, weights=10 * MB)
    assert not parts.lifecycle.is_due
    parts.step("shape", used=100 * MB + 2 * MB, weights=10 * MB)
    assert parts.lifecycle.is_due


@in_a_loop
async def test_without_a_limit_memory_may_grow() -> None:
    parts = Loaded()
    await parts.lifecycle.load()
    parts.step("shape", used=1)
    parts.step("shape", used=10**12)
    assert not parts.lifecycle.is_due
    await parts.lifecycle.reload()


@in_a_loop
async def test_memory_that_is_not_freed_by_loading_again_breaks_the_engine() -> None:
    parts = Loaded(max_vram_growth_mb=50)
    await parts.lifecycle.load()  # 90 MB besides the weights
    parts.engine.memory["used"] = 150 * MB
    await parts.lifecycle.reload()
    parts.engine.memory["used"] = 150 * MB + 1
    with pytest.raises(
        EngineBrokenError, match=r": 140 MB are in use besides weights after loading again, 90 MB"
    ):
        await parts.lifecycle.reload()
    assert not parts.lifecycle.is_reloading
    parts.engine.memory |= {"used": 150 * MB, "outside": 50 * MB}
    await parts.lifecycle.reload()
    parts.engine.memory["outside"] += 1
    with pytest.raises(EngineBrokenError, match="outside of the engine's allocator"):
        await parts.lifecycle.reload()


@in_a_loop
async def test_memory_is_noted_after_each_step_on_the_device_whatever_became_of_it() -> None:
    parts = Loaded()
    await parts.lifecycle.load()

    def fail() -> None:
        parts.engine.memory["used"] = 7
        raise EngineError("no")

    assert parts.lifecycle.watched("shape", lambda: "shape")() == "shape"
    with pytest.raises(EngineError):
        parts.lifecycle.watched("shape", fail)()
    await asyncio.sleep(0)
    assert parts.lifecycle.memory["used"] == 7

    def unreadable() -> Mapping[str, int]:
        raise OSError("no driver")

    parts.engine.device_memory = unreadable  # type: ignore[method-assign]
    assert parts.lifecycle.watched("shape", lambda: "shape")() == "shape"

    async def elsewhere() -> None: ...

    assert parts.lifecycle.watched("shape", elsewhere) is elsewhere


@in_a_loop
async def test_a_failed_load_is_no_load() -> None:
    parts = Loaded()
    await parts.lifecycle.load()
    parts.engine.error = EngineError("no weights")
    with pytest.raises(EngineError):
        await parts.lifecycle.reload()
    assert (parts.lifecycle.is_reloading, parts.lifecycle.is_resident) == (False, False)
