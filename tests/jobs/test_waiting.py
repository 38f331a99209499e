"""Waiting for textures, and requesting them later."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.managers import (
    begin,
    in_a_loop,
    options,
    submit,
    until,
    working,
)
from tests.support.server import picture
from trellis2_server.errors import (
    EngineError,
    TextureTimeoutError,
)
from trellis2_server.jobs.job import Status

if TYPE_CHECKING:
    from tests.support.engines import GatedEngine
    from tests.support.managers import JobsUnderTest
    from trellis2_server.storage.store import Artifact


async def content(service: JobsUnderTest, artifact: Artifact | None) -> bytes:
    return (await service.read_file(artifact)).load()


@in_a_loop
async def test_a_texture_that_was_declined_is_made_when_requested(engine: GatedEngine) -> None:
    async with working(engine) as service:
        shape = await service.wait_for_shape(await submit(service, 1, texture=False))
        assert shape.status is Status.COMPLETED
        assert ("texture", 1) not in engine.calls
        assert (await submit(service, 1, texture=False)).status is Status.COMPLETED
        first, second = await asyncio.gather(
            service.wait_for_texture(shape), service.wait_for_texture(shape)
        )
        assert first.textured_glb is second.textured_glb
        await service.wait_for_shape(await submit(service, 2, texture=False))
        # Asked for again without `texture: false`, it starts by itself.
        assert (await submit(service, 2)).status is Status.TEXTURE_PROCESSING
    assert engine.calls.count(("texture", 1)) == 1


@in_a_loop
async def test_a_texture_requested_during_the_shape_follows_it(engine: GatedEngine) -> None:
    held = engine.hold("shape", 1)
    async with working(engine) as service:
        job = await submit(service, 1, texture=False)
        await begin(engine, "shape")
        waiting = asyncio.ensure_future(service.wait_for_texture(job))
        await asyncio.sleep(0)
        held.set()
        assert (await waiting).textured_glb


@in_a_loop
async def test_a_texture_that_fails_leaves_the_shape_and_its_cause(engine: GatedEngine) -> None:
    engine.failures["texture"] = EngineError("no voxels were left")
    async with working(engine) as service:
        shape = await service.wait_for_shape(await submit(service, 1))
        for _ in range(2):
            with pytest.raises(EngineError, match=r"^no voxels were left$"):
                await service.wait_for_texture(shape)
        failed = service.job(shape.uid)
        assert failed.status is Status.ERROR
        assert failed.shape_glb == shape.shape_glb
        assert (await service.wait_for_shape(failed)).shape_glb
        again = await service.wait_for_texture(await submit(service, 1))
        assert again.uid != shape.uid
        assert await content(service, again.shape_glb) == await content(service, shape.shape_glb)


@in_a_loop
async def test_a_wait_that_times_out_does_not_stop_the_job(engine: GatedEngine) -> None:
    held = engine.hold("texture", 1)
    async with working(engine) as service:
        job = await submit(service, 1)
        patient = asyncio.ensure_future(service.wait_for_texture(job))
        await begin(engine, "texture")
        for _ in range(2):
            with pytest.raises(TextureTimeoutError):
                await service.wait_for_texture(job, 0.01)
        leaving = asyncio.ensure_future(service.wait_for_texture(job))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.sleep(0)
        assert not service.job(job.uid).status.is_finished
        held.set()
        assert (await patient).textured_glb


@in_a_loop
async def test_a_job_that_has_ended_meanwhile_is_still_answered(engine: GatedEngine) -> None:
    """The job that `submit` gave may have gone on before anybody waits for it."""
    engine.failures["shape"] = EngineError("no shape")
    async with working(engine) as service:
        failed = await submit(service, 1)
        await until(lambda: service.job(failed.uid).status is Status.ERROR)
        with pytest.raises(EngineError, match=r"^no shape$"):
            await service.wait_for_shape(failed)
        early = await submit(service, 2)
        await until(lambda: service.job(early.uid).status is Status.COMPLETED)
        assert early.shape_glb is None
        assert (await service.wait_for_shape(early)).shape_glb
        assert (await service.wait_for_texture(early)).textured_glb
        joined = await service.submit(picture(0, file_format="WEBP"), options(2), texture=None)
        await until(lambda: service.job(joined.uid).uid == early.uid)
        assert (await service.wait_for_shape(joined)).uid == early.uid


@in_a_loop
async def test_a_request_that_leaves_takes_the_shape_from_nobody_else(engine: GatedEngine) -> None:
    held = engine.hold("shape", 1)
    async with working(engine) as service:
        job = await submit(service, 1)
        await begin(engine, "shape")
        leaving, patient = (
            asyncio.ensure_future(service.wait_for_shape(job)),
            asyncio.ensure_future(service.wait_for_shape(job)),
        )
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.sleep(0)
        assert leaving.cancelled()
        assert not patient.done()
        held.set()
        assert (await patient).shape_glb
