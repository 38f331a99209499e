"""A job manager on an event loop of its own, without HTTP; and a clock that a test sets."""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.server import SMALL, picture, settings
from trellis2_server.inputs.images import Cutout, Cutter
from trellis2_server.jobs.executor import LocalExecutor
from trellis2_server.jobs.job import ANONYMOUS
from trellis2_server.jobs.local_service import LocalJobService
from trellis2_server.jobs.manager import JobManager
from trellis2_server.parameters import Options, read_options
from trellis2_server.reports import no_check
from trellis2_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from trellis2_server.jobs.job import Caller, Job
    from trellis2_server.jobs.service import Health
    from trellis2_server.reports import Check
    from trellis2_server.request_fields import RemoveBackground


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test on an event loop of its own, which must end with nothing left to complain of."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        complaints: list[Any] = []

        async def bounded() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: complaints.append(context))
            await asyncio.wait_for(test(*arguments, **named), PATIENCE_S)

        asyncio.run(bounded())
        gc.collect()
        assert not complaints

    return run


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Leap:
    """Lets the running event loop's time leap: what was to happen until then does now."""

    def __init__(self) -> None:
        self._leapt_s = 0.0
        loop = asyncio.get_running_loop()
        real = loop.time
        loop.time = lambda: real() + self._leapt_s  # type: ignore[method-assign]

    def __call__(self, seconds: float) -> None:
        self._leapt_s += seconds


class HeldCutter(Cutter):
    """Counts what it cuts out, and waits for a gate before."""

    def __init__(self) -> None:
        super().__init__(background="none")
        self.gate = threading.Event()
        self.gate.set()
        self.calls: list[bytes] = []

    def cut_out(
        self,
        data: bytes,
        *,
        remove_background: RemoveBackground = True,
        wait: bool = True,
        check: Check = no_check,
    ) -> Cutout:
        gate = self.gate
        self.calls.append(data)
        assert gate.wait(PATIENCE_S)
        return super().cut_out(data, remove_background=remove_background, wait=wait, check=check)


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 - no event tells of it
        await asyncio.sleep(0.002)


def options(seed: int = 1, **more: Any) -> Options:
    return read_options({"seed": seed, **SMALL, **more}, Settings())


class NoMetrics:
    def render(self, health: Health) -> bytes:
        raise NotImplementedError


class JobsUnderTest(LocalJobService):
    """The service, and what a test asks of it without waiting."""

    def job(self, name: str, caller: Caller = ANONYMOUS) -> Job:
        return self._find(name, caller)

    async def states(self, job: Job, *, heartbeat_s: float) -> AsyncGenerator[Job | None]:
        """What `watch` yields, as records."""
        async with aclosing(self.watch(job, heartbeat_s=heartbeat_s)) as views:
            async for view in views:
                yield view and view.job

    @property
    def queue_length(self) -> int:
        return self.manager.scheduler.length

    def queue_position(self, job: Job) -> int | None:
        return self._view(job).queue_position

    def eta_s(self, job: Job) -> float | None:
        return self._view(job).eta_s

    def cancel(self, job: Job) -> None:
        active = self.manager.active_jobs.get(job.uid)
        if active:
            self.manager.endings.cancel(active)


@asynccontextmanager
async def working(
    engine: GatedEngine, *, cutter: Cutter | None = None, clock: Clock | None = None, **limits: Any
) -> AsyncGenerator[JobsUnderTest]:
    grace = {"shutdown_grace_seconds": limits.pop("grace", 5.0)}
    model = {"idle_unload_seconds": limits.pop("idle_unload_seconds", None)}
    configured = settings(worker=limits, server=grace, model=model)
    executor = LocalExecutor(engine, cutter or Cutter(background="none"), configured)
    manager = JobManager(executor, configured, **({"clock": clock} if clock else {}))
    manager.start()
    if engine.gates["load"].is_set():
        await until(lambda: manager.lifecycle.status != "loading")
    try:
        yield JobsUnderTest(manager, NoMetrics())
    finally:
        engine.open_all()
        await manager.close()
        await until(lambda: manager.is_idle)


async def begin(engine: GatedEngine, stage: str) -> int:
    return await asyncio.to_thread(engine.wait_for, stage)


async def submit(service: JobsUnderTest, seed: int, *, texture: bool | None = None) -> Job:
    return await service.submit(picture(), options(seed), texture=texture)
