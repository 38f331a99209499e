"""Loading the engine again, and unloading it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.engines import GatedEngine
from tests.support.managers import Clock, Leap, begin, in_a_loop, submit, until, working
from tests.support.server import fields, serving, settings
from tests.support.server import until as until_so
from trellis2_server.errors import EngineBrokenError, EngineError, ShuttingDownError, UnhealthyError

TIMEOUT_S = 10.0


def loads(engine: GatedEngine) -> list[str]:
    return [stage for stage, _ in engine.calls if stage in {"load", "unload"}]


@in_a_loop
async def test_after_a_number_of_jobs_the_model_is_loaded_again(engine: GatedEngine) -> None:
    async with working(engine, recycle_after_jobs=2) as service:
        for seed in range(5):
            await service.wait_for_texture(await submit(service, seed))
        await until(lambda: service.manager.is_idle)
    assert loads(engine) == ["load", "unload", "load", "unload", "load"]


@in_a_loop
async def test_jobs_wait_while_the_model_is_loaded_again(engine: GatedEngine) -> None:
    clock = Clock()
    async with working(engine, recycle_after_jobs=1, clock=clock) as service:
        engine.gates["unload"].clear()
        engine.gates["load"].clear()
        await service.wait_for_texture(await submit(service, 1))
        await begin(engine, "unload")
        job = await submit(service, 2)
        await until(lambda: service.job(job.uid).image_hash is not None)
        assert service.manager.lifecycle.is_reloading
        assert service.manager.unavailable_reason is None
        await until(lambda: service.job(job.uid).progress is not None)
        progress = service.job(job.uid).progress
        assert progress
        assert progress.stage == "loading"
        assert service.queue_position(job) == 1
        engine.open_all()
        assert (await service.wait_for_texture(job)).textured_glb


@in_a_loop
async def test_the_model_is_loaded_again_when_memory_grows(engine: GatedEngine) -> None:
    used = {"shape": 500, "texture": 900}
    leaks = False

    def memory() -> dict[str, int]:
        leaked = 51 if leaks and loads(engine) == ["load"] else 0
        stage = engine.calls[-1][0]
        return {"used": (used.get(stage, 100) + leaked) * 1_000_000, "peak": 1, "total": 10**10}

    engine.device_memory = memory
    async with working(engine, max_vram_growth_mb=50) as service:
        for seed in range(3):
            await service.wait_for_texture(await submit(service, seed))
            await until(lambda: service.manager.is_idle)
        assert loads(engine) == ["load"]  # a texture's memory is no growth over a shape's
        assert service.manager.lifecycle.memory["used"] == 900_000_000
        leaks = True
        await service.wait_for_texture(await submit(service, 7))
        assert loads(engine) == ["load", "unload", "load"]
        await service.wait_for_texture(await submit(service, 8))
        assert loads(engine) == ["load", "unload", "load"]
        assert service.manager.availability.fatal_error is None


@in_a_loop
async def test_weights_that_return_to_the_device_are_no_growth(engine: GatedEngine) -> None:
    weights = 0

    def memory() -> dict[str, int]:
        return {"used": weights + 10**8, "weights": weights, "total": 10**11}

    engine.device_memory = memory
    async with working(engine, max_vram_growth_mb=50) as service:
        await service.wait_for_texture(await submit(service, 1))
        weights = 16 * 10**9
        await service.wait_for_texture(await submit(service, 2))
        await service.wait_for_texture(await submit(service, 3))
        assert loads(engine) == ["load"]
        await service.manager.lifecycle.reload()
        assert service.manager.availability.fatal_error is None


@in_a_loop
async def test_memory_that_grows_outside_of_the_engines_allocator_counts_too(
    engine: GatedEngine,
) -> None:
    outside = [0]
    engine.device_memory = lambda: {"used": 10**8, "outside": outside[0], "total": 10**10}
    async with working(engine, max_vram_growth_mb=50) as service:
        await service.wait_for_texture(await submit(service, 1))
        outside[0] = 50_000_000
        await service.wait_for_texture(await submit(service, 2))
        assert loads(engine) == ["load"]
        # Loading again frees nothing of a library's memory: only a new process does.
        outside[0] = 51_000_000
        await service.wait_for_shape(await submit(service, 3, texture=False))
        await service.manager.is_drained.wait()
        assert loads(engine) == ["load", "unload", "load"]
        fatal_error = service.manager.availability.fatal_error
        assert fatal_error
        assert "51 MB are in use outside of the engine's allocator after" in fatal_error


@in_a_loop
async def test_memory_that_is_not_freed_ends_the_server(engine: GatedEngine) -> None:
    engine.memory = {"used": 100_000_000}
    async with working(engine, max_vram_growth_mb=50) as service:
        await service.wait_for_texture(await submit(service, 1))
        engine.memory = {"used": 151_000_000}
        await service.wait_for_shape(await submit(service, 2, texture=False))
        await service.manager.is_drained.wait()
        assert loads(engine) == ["load", "unload", "load"]
        assert service.manager.availability.fatal_error
        assert (
            "151 MB are in use besides weights after loading again, 100 MB were"
            in service.manager.availability.fatal_error
        )
        with pytest.raises(UnhealthyError, match="not freed"):
            await submit(service, 3)


@pytest.mark.parametrize("stage", ["load", "unload"])
@in_a_loop
async def test_a_model_that_cannot_be_loaded_again_ends_the_server(stage: str) -> None:
    engine = GatedEngine()
    async with working(engine, recycle_after_jobs=1) as service:
        engine.failures[stage] = EngineError("the weights are gone")
        await service.wait_for_texture(await submit(service, 1))
        await service.manager.is_drained.wait()
        assert service.manager.availability.fatal_error
        assert "the weights are gone" in service.manager.availability.fatal_error


@in_a_loop
async def test_an_engine_that_breaks_while_it_loads_ends_the_server(engine: GatedEngine) -> None:
    engine.failures["load"] = EngineBrokenError("CUDA: no kernel image")
    async with working(engine) as service:
        await service.manager.is_drained.wait()
        assert service.manager.availability.fatal_error == "CUDA: no kernel image"
        with pytest.raises(UnhealthyError):
            await submit(service, 1)


@in_a_loop
async def test_an_idle_model_is_unloaded_until_the_next_job(
    engine: GatedEngine,
) -> None:
    leap, clock = Leap(), Clock()
    engine.memory = {"used": 5}
    async with working(engine, clock=clock, idle_unload_seconds=10) as service:
        held = engine.hold("shape", 1)
        job = await submit(service, 1)
        await begin(engine, "shape")
        leap(11)
        await asyncio.sleep(0.01)
        held.set()
        await service.wait_for_texture(job)
        await until(lambda: service.manager.is_idle)
        leap(9)
        await asyncio.sleep(0.01)
        assert loads(engine) == ["load"]
        leap(1)
        await begin(engine, "unload")
        await until(lambda: service.manager.is_idle)
        assert not service.manager.lifecycle.is_resident
        assert not service.manager.lifecycle.memory
        assert service.manager.unavailable_reason is None
        service.manager.lifecycle.seconds = 4.0
        engine.gates["load"].clear()
        job = await submit(service, 2)
        await until(lambda: service.manager.lifecycle.is_reloading)
        assert service.manager.lifecycle.seconds_left == 4.0
        eta_s = service.eta_s(job)
        assert eta_s is not None
        assert eta_s >= 4.0
        clock.now = 9.0
        assert service.manager.lifecycle.seconds_left == 0.0
        engine.open_all()
        assert (await service.wait_for_texture(job)).textured_glb
        assert loads(engine) == ["load", "unload", "load"]


@in_a_loop
async def test_files_of_finished_jobs_do_not_load_an_unloaded_model(engine: GatedEngine) -> None:
    leap = Leap()
    async with working(engine, idle_unload_seconds=10) as service:
        job = await service.wait_for_texture(await submit(service, 1))
        await until(lambda: service.manager.is_idle)
        leap(11)
        await begin(engine, "unload")
        await until(lambda: service.manager.is_idle)
        assert await service.convert(job.textured_glb, "obj")
        assert await service.export(job, job.options, texture=None)
        await until(lambda: service.manager.is_idle)
        assert loads(engine) == ["load", "unload"]


@in_a_loop
async def test_a_server_without_any_job_unloads_and_shuts_down_in_time(
    engine: GatedEngine,
) -> None:
    leap = Leap()
    async with working(engine, idle_unload_seconds=10) as service:
        await asyncio.sleep(0)
        leap(11)
        await begin(engine, "unload")
        await until(lambda: service.manager.is_idle)
        engine.gates["load"].clear()
        job = await submit(service, 1)
        asking = asyncio.ensure_future(service.wait_for_shape(job))
        await begin(engine, "load")
        closing = asyncio.ensure_future(service.manager.close())
        with pytest.raises(ShuttingDownError):
            await asking
        engine.open_all()
        await closing
        assert service.manager.is_idle


def test_an_idle_server_is_healthy_and_reports_it(engine: GatedEngine) -> None:
    configured = settings(model={"idle_unload_seconds": 0.05})
    with serving(engine, configured) as server:
        server.wait_until_loaded()

        def health() -> dict[str, Any]:
            reply = server.client.get("/healthcheck")
            assert reply.status_code == 200
            return reply.json()

        until_so(lambda: bool(health().get("idle")), "idle")
        engine.gates["load"].clear()
        uid = server.client.post("/send", json=fields()).json()["uid"]
        until_so(lambda: bool(health().get("reloading")), "reloading")
        assert "idle" not in health()
        until_so(lambda: server.client.get(f"/jobs/{uid}").json().get("stage") == "loading", "said")
        engine.open_all()
        until_so(lambda: server.client.get(f"/jobs/{uid}").json()["shape_ready"], "a shape")
