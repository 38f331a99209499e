"""Exports that wait at the gates of a `GatedEngine`, and fail when it says so."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from tests.support.managers import JobsUnderTest, begin, submit, until
from trellis2_server import pipeline
from trellis2_server.parameters import Options

if TYPE_CHECKING:
    import pytest

    from tests.support.engines import GatedEngine
    from trellis2_server.jobs.job import Job


def gate_exports(engine: GatedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make exports stages of the engine: "shape_export" and "texture_export", on two threads."""

    def gated(stage: str, export: Any) -> Any:
        def run(*arguments: Any) -> Any:
            [options] = [each for each in arguments if isinstance(each, Options)]
            engine.run_stage(stage, options.seed, arguments[-1])
            return export(*arguments)

        return run

    monkeypatch.setattr("os.cpu_count", lambda: 2)  # as many threads of the CPU pool
    for stage, name in (("shape_export", "export_shape"), ("texture_export", "export_model")):
        engine.gates[stage] = gate = threading.Event()
        gate.set()
        monkeypatch.setattr(pipeline, name, gated(stage, getattr(pipeline, name)))


async def has_ended(service: JobsUnderTest, job: Job, step: str) -> None:
    """Wait until that step of the job has succeeded."""
    await until(lambda: step in service.job(job.uid).timings)


async def both_run(service: JobsUnderTest, engine: GatedEngine, seed: int = 1) -> Job:
    """A job whose shape is exported while its texture is made; both stand at their gates."""
    for stage in ("shape_export", "texture"):
        engine.hold(stage, seed)
    job = await submit(service, seed)
    await until(lambda: {("shape_export", seed), ("texture", seed)} <= set(engine.calls))
    return job


async def texture_waits(service: JobsUnderTest, engine: GatedEngine, other: int = 2) -> Job:
    """A job whose shape is exported, while its texture waits for another job's shape.

    Both stand at their gates.
    """
    first = engine.hold("shape", 1)
    engine.hold("shape_export", 1)
    engine.hold("shape", other)
    job = await submit(service, 1)
    await begin(engine, "shape")
    await has_ended(service, await submit(service, other), "cutout")
    first.set()
    await until(lambda: {("shape_export", 1), ("shape", other)} <= set(engine.calls))
    assert ("texture", 1) not in engine.calls
    return job


async def shape_export_waits(service: JobsUnderTest, engine: GatedEngine) -> Job:
    """A job whose texture is made, while its shape waits for the exports of others, 8 and 9.

    These exports and the texture stand at their gates. There are two threads for exports.
    """
    assert service.manager.threads.cpu_workers == 2
    last = engine.hold("shape", 9)
    for stage, seed in (("shape_export", 8), ("shape_export", 9), ("texture", 1)):
        engine.hold(stage, seed)
    await submit(service, 8, texture=False)
    await until(lambda: ("shape_export", 8) in engine.calls)
    await submit(service, 9, texture=False)
    await until(lambda: ("shape", 9) in engine.calls)
    job = await submit(service, 1)
    await has_ended(service, job, "cutout")
    last.set()
    await until(lambda: {("shape_export", 9), ("texture", 1)} <= set(engine.calls))
    assert ("shape_export", 1) not in engine.calls
    return job
