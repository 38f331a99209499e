"""Steps that fail, and what they leave in memory."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from concurrent.futures import Future
from typing import Any

import pytest

from tests.support.engines import GatedEngine
from tests.support.managers import (
    begin,
    in_a_loop,
    submit,
    until,
    working,
)
from trellis2_server.errors import (
    EngineError,
    OutOfMemoryError,
    ServerError,
)
from trellis2_server.inputs.background import ModelPending
from trellis2_server.inputs.images import Cutout, Cutter
from trellis2_server.jobs.job import Status


@pytest.mark.parametrize("stage", ["shape", "texture"])
@pytest.mark.parametrize(
    ("failure", "kind", "said"),
    [
        (ValueError("/home/me/x.py broke\nbadly"), EngineError, "ValueError: x.py broke badly"),
        (RuntimeError(), EngineError, "failed: RuntimeError"),
        (OSError("\udcff"), EngineError, "OSError: ?"),
        (MemoryError(), OutOfMemoryError, "out of memory"),
        (OutOfMemoryError("the device is full"), OutOfMemoryError, "the device is full"),
        (SystemExit(1), EngineError, "SystemExit: 1"),
        (KeyboardInterrupt(), EngineError, "KeyboardInterrupt"),
        (asyncio.CancelledError(), EngineError, "CancelledError"),
        (StopIteration(), EngineError, "StopIteration"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
@in_a_loop
async def test_any_exception_of_a_step_ends_only_its_job(
    stage: str, failure: BaseException, kind: type[ServerError], said: str
) -> None:
    engine = GatedEngine()
    engine.failures[stage] = failure
    async with working(engine) as service:
        job = await submit(service, 1)
        with pytest.raises(kind) as caught:
            await service.wait_for_texture(job)
        assert said in str(caught.value)
        assert "/" not in str(caught.value)
        assert service.job(job.uid).status is Status.ERROR
        assert (await service.wait_for_texture(await submit(service, 2))).textured_glb


@pytest.mark.parametrize("stage", ["shape", "texture"])
@in_a_loop
async def test_an_engine_that_returns_nothing_ends_only_its_job(stage: str) -> None:
    engine = GatedEngine()
    engine.returns[stage] = None
    async with working(engine) as service:
        with pytest.raises(EngineError):
            await service.wait_for_texture(await submit(service, 1))
        assert (await service.wait_for_texture(await submit(service, 2))).textured_glb


@pytest.mark.parametrize("failing", [None, "shape", "texture", "cancelled"])
@in_a_loop
async def test_no_data_of_the_engine_is_kept_after_a_job(failing: str | None) -> None:
    engine = GatedEngine()
    logging.disable()  # pytest keeps every record, and with it the stack
    try:
        async with working(engine) as service:
            if failing in engine.gates:
                engine.failures[failing] = ValueError("no")
            held = engine.hold("texture", 1)
            job = await submit(service, 1)
            if failing == "cancelled":
                await begin(engine, "texture")
                service.cancel(job)
            held.set()
            result = await asyncio.gather(service.wait_for_texture(job), return_exceptions=True)
            assert isinstance(result[0], BaseException) == (failing is not None)
            error = service.job(job.uid).error
            assert error is None or (error.__traceback__, error.__cause__) == (None, None)
            del result, error
            await until(lambda: service.manager.is_idle)
            await service.wait_for_shape(
                await submit(service, 2, texture=False)
            )  # the threads let go
            gc.collect()
            kept = [ref for ref in engine.made if ref() is not None]
            assert len(kept) == 2  # the second job's mesh, whose texture may be asked for
    finally:
        logging.disable(logging.NOTSET)


class PendingCutter(Cutter):
    """Has a background model that does not get loaded."""

    def __init__(self) -> None:
        super().__init__(background="none")
        self.loaded: Future[None] = Future()

    def cut_out(self, *_: Any, **__: Any) -> Cutout:
        raise ModelPending(self.loaded, 1000.0)


@in_a_loop
async def test_a_job_that_is_cancelled_while_its_background_model_loads_leaves_no_picture() -> None:
    cutter = PendingCutter()
    async with working(GatedEngine(), cutter=cutter) as service:
        job = await submit(service, 1)
        active = service.manager.active_jobs.get(job.uid)
        assert active is not None
        await until(lambda: active.waits_for("cutout") and not service.manager.queue)
        call = weakref.ref(active.steps["cutout"].call)
        assert call() is not None
        service.cancel(job)

        def is_gone() -> bool:
            gc.collect()
            return call() is None

        await until(is_gone)  # a thread holds what it ran for a moment longer
        cutter.loaded.set_result(None)
