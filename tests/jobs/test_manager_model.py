"""Every state of a job against every fault: each ends once, and everybody is answered.

Each step of each job stops at a gate of its own, which the model opens with an outcome. Time
passes only where the model says so. Exports are stood in for by gates too: what they make is
tested elsewhere.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.engines import PATIENCE_S
from tests.support.gates import Compiled, Complaints, Engine, GatedCutter, Gates, Place
from tests.support.managers import Leap, NoMetrics, options
from tests.support.server import picture, settings
from trellis2_server import pipeline
from trellis2_server.errors import (
    EngineBrokenError,
    EngineError,
    JobNotFoundError,
    QueueFullError,
    ServerError,
    UnavailableError,
)
from trellis2_server.jobs.cleanup import ALL_THREADS_HANG
from trellis2_server.jobs.executor import LocalExecutor
from trellis2_server.jobs.job import Caller, Job, Status
from trellis2_server.jobs.local_service import LocalJobService
from trellis2_server.jobs.manager import JobManager
from trellis2_server.jobs.time_limits import STOP_GRACE_S
from trellis2_server.pipeline import Geometry

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from trellis2_server.jobs.executor import Executor
    from trellis2_server.mesh import Shape
    from trellis2_server.settings import Settings

#: What may wait or run at the same time for one job.
ALLOWED_STEPS: list[set[str]] = [
    set(), {"cutout"}, {"shape"}, {"shape_export"}, {"texture"}, {"texture_export"},
    {"shape_export", "texture"},
]  # fmt: skip

DEVICE_STEPS = frozenset({"shape", "texture"})
TIMEOUT_S, GRACE_S, IDLE_S = 1000.0, 10.0, 100.0
JOBS = 5

OUTCOMES: dict[str, Callable[[], BaseException | None]] = {
    "ok": lambda: None,
    "fails": lambda: EngineError("no"),
    "is out of memory": MemoryError,
    "raises": lambda: ValueError("no"),
    "breaks": lambda: EngineBrokenError("broken"),
}


class Asked:
    """A requested job, and the requests that wait for it."""

    def __init__(self, job: Job, seed: int) -> None:
        self.uid = job.uid
        self.seed = seed
        self.for_shape: list[asyncio.Task[Job]] = []
        self.for_texture: list[asyncio.Task[Job]] = []

    @property
    def waiters(self) -> list[asyncio.Task[Job]]:
        return self.for_shape + self.for_texture


class StoppingJobs(RuleBasedStateMachine):
    """A job manager whose steps stop at gates, and what it has told of its jobs."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.complaints: list[Any] = []
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self.log = Complaints(self.complaints)
        logging.getLogger("trellis2_server").addHandler(self.log)
        self.gates = Gates()
        self.engine = Engine(self.gates)
        self.asked: list[Asked] = []
        self.closing: asyncio.Task[None] | None = None
        self.ends: Counter[str] = Counter()
        self.real = (pipeline.export_shape, pipeline.export_model, pipeline.export.compiling)
        pipeline.export_shape = self.export_shape
        pipeline.export_model = self.export_model
        pipeline.export.compiling = Compiled

    def export_shape(
        self, engine: object, shape: Shape, options: Any, report: pipeline.Report
    ) -> tuple[Geometry, bytes]:
        del engine
        self.gates.stand("shape_export", options.seed, report)
        return Geometry(shape, shape.mesh), b"shape %d" % options.seed

    def export_model(self, *arguments: Any) -> bytes:
        geometry, options, report = arguments[1], arguments[3], arguments[5]
        assert isinstance(geometry, Geometry)
        self.gates.stand("texture_export", options.seed, report)
        return b"textured"

    def check_changes(self) -> None:
        """Check each change of a job, and count how often it comes to an end."""
        registry = self.manager.registry
        put = registry.put

        def checked(job: Job) -> Job:
            known = next((known for known in registry if known.uid == job.uid), None)
            if job.status.is_finished and not (known and known.status.is_finished):
                self.ends[job.uid] += 1
            if known and known.status is Status.COMPLETED and not job.status.is_finished:
                self.ends[job.uid] -= 1  # its texture is made after all
            if known and known.status is job.status and known.progress and job.progress:
                assert known.progress.fraction <= job.progress.fraction <= 1
            if job.status is Status.TEXTURE_PROCESSING:
                assert job.shape_glb
            if job.status is Status.COMPLETED:
                assert job.shape_glb or (job.shape_error and job.textured_glb)
            return put(job)

        registry.put = checked  # type: ignore[method-assign]

    def run(self, call: Coroutine[Any, Any, None]) -> None:
        async def settled() -> None:
            await call
            await self.until(self.stands)

        self.loop.run_until_complete(settled())

    async def until(self, is_so: Callable[[], bool]) -> None:
        for _ in range(int(PATIENCE_S / 0.0005)):
            await asyncio.sleep(0)
            if is_so():
                for _ in range(6):  # woken tasks go on
                    await asyncio.sleep(0)
                if is_so():
                    return
            await asyncio.sleep(0.0005)
        raise AssertionError("it never came to rest")

    def stands(self) -> bool:
        """Whether every thread that works stands at a gate."""
        threads, maintenance = self.manager.threads, self.manager.maintenance
        return (
            threads.steps_running + threads.lookups + threads.hung == len(self.gates.at)
            and not maintenance.is_running
        )

    def teardown(self) -> None:
        try:
            if hasattr(self, "manager"):
                self.loop.run_until_complete(self.finish())
        finally:
            pipeline.export_shape, pipeline.export_model, pipeline.export.compiling = self.real
            self.loop.close()
            logging.getLogger("trellis2_server").removeHandler(self.log)
        gc.collect()
        assert not self.complaints

    async def finish(self) -> None:
        self.gates.is_open = True
        for key in list(self.gates.at):
            self.gates.let_go(key, None)
        await self.manager.close()
        await self.until(lambda: self.manager.is_idle)
        self.check_answers()
        for job in self.manager.registry:
            assert job.status.is_finished
            assert self.ends[job.uid] == 1
        background = {self.closing} if self.closing else set()
        left = asyncio.all_tasks() - {asyncio.current_task()} - background
        assert not left, left
        assert not self.manager.subscriptions._by_uid
        self.manager.threads.close()

    def check_answers(self) -> None:
        for asked in self.asked:
            for waiter in asked.waiters:
                assert waiter.done(), f"{asked.seed} was not answered"
                error = waiter.exception()
                assert error is None or isinstance(error, ServerError), error


class Faults(StoppingJobs):
    """All that can happen to jobs."""

    def executor(self, configured: Settings) -> Executor:
        engine = cast("pipeline.Engine", self.engine)
        return LocalExecutor(engine, GatedCutter(self.gates, JOBS), configured)

    @initialize(limit=st.sampled_from([1, 2, 4]))
    def start(self, limit: int) -> None:
        configured = settings(
            worker={
                "limit_model_concurrency": limit,
                "stage_timeout_seconds": TIMEOUT_S,
                "recycle_after_jobs": 2,
                "max_queue_length": 3,
            },
            server={"shutdown_grace_seconds": GRACE_S},
            model={"idle_unload_seconds": IDLE_S},
        )

        async def begin() -> None:
            self.leap = Leap()
            executor = self.executor(configured)
            self.manager = JobManager(executor, configured, clock=self.loop.time)
            self.service = LocalJobService(self.manager, NoMetrics())
            self.check_changes()
            self.manager.start()
            await self.until(lambda: self.manager.lifecycle.status == "ok")

        self.run(begin())

    # ---- what happens ----------------------------------------------------------------------

    @rule(seed=st.integers(0, JOBS - 1), texture=st.sampled_from([None, True, False]))
    def submit(self, seed: int, *, texture: bool | None) -> None:
        async def ask() -> None:
            is_open = self.closing is None and self.manager.availability.fatal_error is None
            try:
                who = Caller(client=str(seed % 2))
                job = await self.service.submit(picture(seed), options(seed), who, texture=texture)
            except QueueFullError:
                return
            except UnavailableError:
                is_open = not is_open
                job = None
            assert is_open
            if job is None:
                return
            asked = Asked(job, seed)
            asked.for_shape.append(asyncio.ensure_future(self.service.wait_for_shape(job)))
            if texture is not False:
                waiter = asyncio.ensure_future(self.service.wait_for_texture(job))
                asked.for_texture.append(waiter)
            self.asked.append(asked)

        self.run(ask())

    @precondition(lambda self: self.gates.at)
    @rule(at=st.integers(0, 9), outcome=st.sampled_from([*["ok"] * 6, *["fails"] * 3, *OUTCOMES]))
    def go_on(self, at: int, outcome: str) -> None:
        keys = sorted(self.gates.at)

        async def let_go() -> None:
            self.gates.let_go(keys[at % len(keys)], OUTCOMES[outcome]())

        self.run(let_go())

    @rule(seed=st.integers(0, JOBS - 1), first=st.sampled_from(["shape_export", "texture"]))
    def reach_both_branches(self, seed: int, first: str) -> None:
        """A job's shape is exported beside its texture; one of both fails."""
        self.submit(seed, texture=True)
        for step, outcome in (("cutout", "ok"), ("shape", "ok"), (first, "fails")):
            for key in [key for key in self.gates.at if key[:2] == (step, seed)]:

                async def let_go(key: Place = key, outcome: str = outcome) -> None:
                    self.gates.let_go(key, OUTCOMES[outcome]())

                self.run(let_go())

    @precondition(lambda self: self.asked)
    @rule(at=st.integers(0, 9))
    def delete(self, at: int) -> None:
        async def delete() -> None:
            asked = self.asked[at % len(self.asked)]
            try:
                await self.service.delete(asked.uid)
            except JobNotFoundError:
                assert asked.uid not in self.manager.registry

        self.run(delete())

    @precondition(lambda self: any(asked.waiters for asked in self.asked))
    @rule(at=st.integers(0, 9))
    def leave(self, at: int) -> None:
        async def leave() -> None:
            waiting = [asked for asked in self.asked if asked.waiters]
            asked = waiting[at % len(waiting)]
            waiter = (asked.for_texture or asked.for_shape).pop()
            waiter.cancel()
            await asyncio.wait([waiter])

        self.run(leave())

    @rule(seconds=st.sampled_from([GRACE_S, IDLE_S]))
    def pass_time(self, seconds: float) -> None:
        async def leap() -> None:
            self.leap(seconds + 1)
            self.manager.clean_up()

        self.run(leap())

    @precondition(lambda self: self.gates.at)
    @rule(is_rare=st.sampled_from([True, False, False, False]))
    def hang(self, *, is_rare: bool) -> None:
        """Whatever runs exceeds its time limit; one on the device ends the server after a grace."""
        is_on_device = any(step in DEVICE_STEPS for step, _, _ in self.gates.at)
        if is_on_device and not is_rare:
            return

        async def leap() -> None:
            self.leap(TIMEOUT_S + 1)
            if is_on_device:
                for _ in range(3):  # until its grace has begun
                    await asyncio.sleep(0)
                self.leap(STOP_GRACE_S + 1)
            await asyncio.sleep(0)

        fatal_error = self.manager.availability.fatal_error
        # A step that hangs still stands at its gate.
        self.run(leap())
        if is_on_device:
            assert self.manager.availability.fatal_error is not None
        else:  # the last resort comes a time limit later
            assert self.manager.availability.fatal_error in {fatal_error, ALL_THREADS_HANG}

    @precondition(lambda self: self.closing is None)
    @rule(is_rare=st.sampled_from([True, False, False, False]))
    def shut_down(self, *, is_rare: bool) -> None:
        if not is_rare:
            return

        async def close() -> None:
            self.closing = asyncio.ensure_future(self.manager.close())
            await asyncio.sleep(0)

        self.run(close())

    # ---- what is always so -----------------------------------------------------------------

    @invariant()
    def each_job_ends_once(self) -> None:
        assert all(0 <= ends <= 1 for ends in self.ends.values())

    @invariant()
    def each_unfinished_job_does_something_and_each_of_its_steps_has_its_input(self) -> None:
        manager = getattr(self, "manager", None)
        for active in manager.active_jobs if manager else ():
            job, steps = manager.registry[active.uid], set(active.steps)
            assert bool(steps) == (not job.status.is_finished)
            assert steps in ALLOWED_STEPS
            assert (manager.active_jobs.present_step(active) is None) == job.status.is_finished
            if "texture_export" in steps:
                assert active.data.field is not None
                assert job.shape_glb or job.shape_error
            if job.status is Status.SHAPE_PROCESSING:
                assert job.shape_glb is None
            if job.status is Status.TEXTURE_PROCESSING:
                assert job.shape_glb
                assert active.shape_done.done()

    @invariant()
    def whoever_can_be_answered_is(self) -> None:
        for asked in self.asked:
            if asked.uid not in self.manager.registry:
                continue
            job = self.manager.registry[asked.uid]
            if job.status in {Status.ERROR, Status.CANCELLED} or job.textured_glb:
                assert all(waiter.done() for waiter in asked.waiters)
            if job.shape_glb:  # whatever becomes of the texture
                assert all(waiter.result().shape_glb for waiter in asked.for_shape)
            elif job.shape_error:
                errors = [str(waiter.exception()) for waiter in asked.for_shape]
                assert errors == [str(job.shape_error)] * len(errors)

    @invariant()
    def no_step_waits_that_could_run(self) -> None:
        manager = getattr(self, "manager", None)
        if manager is None or manager.availability.is_closing or manager.availability.fatal_error:
            return
        scheduler = manager.scheduler
        kinds = scheduler._startable_steps()
        assert scheduler._next_step(kinds) is None
        for step in manager.queue:
            clients = manager.registry.clients(step.active.uid)
            needs_device = step.name in DEVICE_STEPS
            if scheduler._has_room or scheduler._has_spare_room_for(clients):
                has_thread = needs_device or manager.threads.cpu_has_room_for(clients)
                assert not (has_thread and step.name in kinds)
                if needs_device and not manager.threads.device_is_busy:
                    assert manager.lifecycle.is_resident


TestFaults = Faults.TestCase
TestFaults.settings = hypothesis_settings(max_examples=60, stateful_step_count=25, deadline=None)
