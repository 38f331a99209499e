from __future__ import annotations

import asyncio
import gc
import io
import logging
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.managers import (
    Clock,
    HeldCutter,
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
    InputError,
    JobCancelledError,
    JobNotFoundError,
    LoadingError,
    OutOfMemoryError,
    QueueFullError,
    ServerError,
    ShuttingDownError,
    TextureTimeoutError,
)
from trellis2_server.inputs.images import Cutter
from trellis2_server.jobs.estimates import StepDurations, seconds_left
from trellis2_server.jobs.job import Status

if TYPE_CHECKING:
    from tests.support.managers import JobsUnderTest
    from trellis2_server.jobs.job import Job
    from trellis2_server.storage.store import Artifact


async def content(service: JobsUnderTest, artifact: Artifact | None) -> bytes:
    return await service.manager.results.read(artifact)


# ---- one computation -----------------------------------------------------------------------


@in_a_loop
async def test_however_many_ask_at_once_it_is_computed_once(engine: GatedEngine) -> None:
    async with working(engine) as service:

        async def ask() -> Job:
            return await service.wait_for_shape(await submit(service, 1))

        shapes = await asyncio.gather(*(ask() for _ in range(30)))
        models = await asyncio.gather(*(service.wait_for_texture(shapes[0]) for _ in range(30)))
        again = await service.wait_for_texture(await submit(service, 1))
    assert len({job.uid for job in (*shapes, *models, again)}) == 1
    assert {job.shape_glb for job in shapes} == {again.shape_glb}
    assert {job.textured_glb for job in models} == {again.textured_glb}
    assert engine.calls == [("load", -1), ("shape", 1), ("texture", 1)]


@in_a_loop
async def test_another_encoding_of_the_picture_joins_the_job(engine: GatedEngine) -> None:
    held = engine.hold("shape", 1)
    async with working(engine) as service:
        png = await submit(service, 1, texture=False)
        await begin(engine, "shape")
        webp = await service.submit(picture(0, file_format="WEBP"), options(), texture=None)
        assert webp.uid != png.uid
        waiting = asyncio.ensure_future(service.wait_for_texture(webp))
        await until(lambda: service.job(webp.uid).uid == png.uid)
        assert service.queue_length == 1
        held.set()
        done = await waiting
        assert done.uid == (await service.wait_for_shape(webp)).uid == png.uid
        once_more = await service.submit(picture(0, file_format="WEBP"), options(), texture=None)
        assert once_more.uid == png.uid
        assert once_more.image_hash == done.image_hash
    assert engine.calls.count(("shape", 1)) == 1


@in_a_loop
async def test_who_joined_is_told_of_the_failure_too(engine: GatedEngine) -> None:
    engine.failures["shape"] = EngineError("no shape")
    held = engine.hold("shape", 1)
    async with working(engine) as service:
        first = await submit(service, 1)
        await begin(engine, "shape")
        second = await service.submit(picture(0, file_format="WEBP"), options(), texture=None)
        waiting = [asyncio.ensure_future(service.wait_for_shape(job)) for job in (first, second)]
        await until(lambda: service.job(second.uid).uid == first.uid)
        held.set()
        for task in waiting:
            with pytest.raises(EngineError, match=r"^no shape$"):
                await task


@in_a_loop
async def test_what_joins_a_finished_job_is_answered_at_once(engine: GatedEngine) -> None:
    async with working(engine) as service:
        first = await service.wait_for_texture(await submit(service, 1))
        second = await service.submit(picture(0, file_format="WEBP"), options(), texture=True)
        assert (await service.wait_for_texture(second)).textured_glb is first.textured_glb


@in_a_loop
async def test_a_random_seed_matches_nothing(engine: GatedEngine) -> None:
    async with working(engine) as service:
        jobs = [await submit(service, -1) for _ in range(3)]
        done = [await service.wait_for_shape(job) for job in jobs]
        assert len({job.uid for job in done}) == 3
        assert service.job(done[0].image_hash or "").uid == jobs[-1].uid


@in_a_loop
async def test_other_parameters_are_another_job_which_the_hash_then_means(
    engine: GatedEngine,
) -> None:
    async with working(engine) as service:
        first = await service.wait_for_shape(await submit(service, 1))
        other = await service.wait_for_shape(await submit(service, 2))
        assert first.image_hash == other.image_hash
        assert first.uid != other.uid
        assert service.job(other.image_hash or "").uid == other.uid
        assert service.job(first.uid).uid == first.uid
        await submit(service, 1)
        assert service.job(other.image_hash or "").uid == first.uid


@in_a_loop
async def test_what_failed_or_was_cancelled_is_started_anew(engine: GatedEngine) -> None:
    engine.failures["shape"] = EngineError("no")
    async with working(engine) as service:
        failed = await submit(service, 1)
        with pytest.raises(EngineError):
            await service.wait_for_shape(failed)
        held = engine.hold("shape", 1)
        cancelled = await submit(service, 1)
        await begin(engine, "shape")
        await begin(engine, "shape")
        service.cancel(cancelled)
        with pytest.raises(JobCancelledError):
            await service.wait_for_shape(cancelled)
        assert service.job(cancelled.uid).status is Status.CANCELLED
        held.set()
        done = await service.wait_for_shape(await submit(service, 1))
        assert len({done.uid, failed.uid, cancelled.uid}) == 3
        assert service.job(done.image_hash or "").uid == done.uid


# ---- order ---------------------------------------------------------------------------------


@in_a_loop
async def test_the_earliest_deadline_goes_first_and_no_texture_starves(engine: GatedEngine) -> None:
    clock = Clock()
    first, second = engine.hold("shape", 1), engine.hold("shape", 2)
    async with working(engine, clock=clock) as service:
        jobs = [await submit(service, 1)]
        assert await begin(engine, "shape") == 1
        jobs.append(await submit(service, 2))
        await until(lambda: service.job(jobs[1].uid).image_hash is not None)
        first.set()
        assert await begin(engine, "shape") == 2
        await until(lambda: service.job(jobs[0].uid).status is Status.TEXTURE_PROCESSING)
        for seed, clock.now in ((3, 10.0), (4, 70.0)):
            jobs.append(await submit(service, seed))
            await until(lambda: service.job(jobs[-1].uid).image_hash is not None)
        assert [service.queue_position(job) for job in jobs] == [2, None, 1, 3]
        second.set()
        await asyncio.gather(*(service.wait_for_texture(job) for job in jobs))
    # The texture of 1 was due at 60: after what came at 10, before what came at 70.
    assert engine.calls[1:6] == [
        ("shape", 1), ("shape", 2), ("shape", 3), ("texture", 1), ("shape", 4),
    ]  # fmt: skip


@pytest.mark.parametrize("spacing_s", [0.0, 1.0, 12.0, 24.0])
@in_a_loop
async def test_the_order_is_fair_and_the_lane_never_rests_while_work_waits(
    spacing_s: float,
) -> None:
    """Nobody waits longer than half as long again as the jobs ahead at the arrival take."""
    engine, clock, duration_s = GatedEngine(), Clock(), {"shape": 10.0, "texture": 15.0}
    gates = {(stage, seed): engine.hold(stage, seed) for stage in duration_s for seed in range(10)}
    arrivals = [(seed * spacing_s, seed) for seed in range(10)]
    ahead: dict[int, int] = {}
    began: dict[int, float] = {}
    left: dict[int, set[str]] = {}

    async with working(engine, clock=clock, abandoned_job_seconds=86_400) as service:
        await begin(engine, "load")

        async def arrive(until_s: float) -> None:
            while arrivals and arrivals[0][0] <= until_s:
                at_s, seed = arrivals.pop(0)
                clock.now = max(clock.now, at_s)
                ahead[seed], left[seed] = len(left), set(duration_s)
                await submit(service, seed)
                await until(lambda: service.manager.threads.cpu_running == 0)

        await arrive(0.0)
        while left:
            assert service.queue_length  # there is work, and so the lane begins a stage of it
            stage, seed = await asyncio.to_thread(engine.begun.get, timeout=PATIENCE_S)
            began.setdefault(seed, clock.now)
            end_s = clock.now + duration_s[stage]
            await arrive(end_s)
            clock.now = end_s
            left[seed].remove(stage)
            if not left[seed]:
                del left[seed]
            gates[stage, seed].set()
            if not left and arrivals:
                await arrive(arrivals[0][0])
    mean_s = sum(duration_s.values())
    waits = {seed: began[seed] - seed * spacing_s for seed in began}
    assert len(waits) == 10
    assert all(waits[seed] <= 1.5 * ahead[seed] * mean_s for seed in waits)


@pytest.mark.parametrize("limit", [1, 2])
@in_a_loop
async def test_no_more_jobs_are_worked_on_than_the_limit_says(limit: int) -> None:
    engine, cutter = GatedEngine(), HeldCutter()
    held = engine.hold("shape", 1)
    async with working(engine, cutter=cutter, limit_model_concurrency=limit) as service:
        jobs = [await submit(service, 1)]
        await begin(engine, "shape")
        cutter.gate.clear()
        jobs += [await submit(service, seed) for seed in (2, 3, 4)]
        await until(lambda: len(cutter.calls) == limit)
        await asyncio.sleep(0.02)
        assert len(cutter.calls) == limit
        assert service.queue_length == 4
        cutter.gate.set()
        held.set()
        await asyncio.gather(*(service.wait_for_texture(job) for job in jobs))
    assert service.queue_length == 0


@in_a_loop
async def test_a_full_queue_refuses_and_says_when_to_come_back(engine: GatedEngine) -> None:
    held = engine.hold("shape", 1)
    limits = {"limit_model_concurrency": 1, "max_queue_length": 1}
    async with working(engine, **limits) as service:
        first = await submit(service, 1)
        await begin(engine, "shape")
        second = await submit(service, 2)
        with pytest.raises(QueueFullError, match="the queue is full: 1 jobs wait") as caught:
            await submit(service, 3)
        assert caught.value.retry_after_s > 0
        assert (await submit(service, 2)).uid == second.uid  # known ones are answered
        held.set()
        await asyncio.gather(service.wait_for_texture(first), service.wait_for_texture(second))
        await service.wait_for_shape(await submit(service, 3))


@in_a_loop
async def test_what_is_expected_is_learned_from_what_was(engine: GatedEngine) -> None:
    clock = Clock()
    async with working(engine, clock=clock) as service:
        held = engine.hold("shape", 1)
        first = await submit(service, 1, texture=False)
        await begin(engine, "shape")
        assert service.eta_s(first) is None
        clock.now = 8.0
        held.set()
        await service.wait_for_shape(first)
        assert service.eta_s(first) is None  # nothing is being done for it
        held, second = engine.hold("shape", 2), await submit(service, 2, texture=False)
        await begin(engine, "shape")
        third = await submit(service, 3, texture=False)
        await until(lambda: service.job(third.uid).image_hash is not None)
        # This engine says at once that its stage begins, which is after 30 % of the step.
        await until(lambda: service.job(second.uid).progress is not None)
        assert service.eta_s(second) == pytest.approx(5.6)
        assert service.eta_s(third) == pytest.approx(13.6)
        clock.now = 13.0
        assert service.eta_s(second) == pytest.approx(0.6)
        clock.now = 99.0
        assert service.eta_s(second) == 0.0
        other = await service.submit(picture(), options(texture_size=512), texture=False)
        assert service.eta_s(other) is None  # no such job was done
        held.set()


@given(
    expected_s=st.floats(0, 1e4),
    really_s=st.floats(1e-3, 1e4),
    steps=st.integers(1, 50),
)
def test_an_estimate_is_never_negative_and_comes_ever_nearer(
    expected_s: float, really_s: float, steps: int
) -> None:
    """With a clock that goes evenly, whatever was expected before."""
    error = float("inf")
    for step in range(steps + 1):
        now = really_s * step / steps
        left = seconds_left(expected_s, now, step / steps, now)
        assert left >= 0
        assert abs(left - (really_s - now)) <= error + 1e-6
        error = abs(left - (really_s - now))
        late = seconds_left(expected_s, now + really_s, step / steps, now)
        assert 0 <= late <= left
    assert error == pytest.approx(0, abs=1e-6)


def test_a_pace_is_a_moving_mean_for_each_kind_of_job() -> None:
    durations = StepDurations()
    durations.note("shape", options(), 10.0)
    assert durations.expected_s("shape", options()) == 10.0
    durations.note("shape", options(), 0.0)
    assert durations.expected_s("shape", options(7)) == pytest.approx(7.0)
    assert durations.expected_s("texture", options()) is None
    assert durations.expected_s("shape", options(pipeline_type="512")) is None


# ---- textures ------------------------------------------------------------------------------


@in_a_loop
async def test_a_texture_that_was_refused_is_made_when_it_is_asked_for(engine: GatedEngine) -> None:
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
async def test_a_texture_wanted_while_the_shape_is_made_follows_it(engine: GatedEngine) -> None:
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
        anew = await service.wait_for_texture(await submit(service, 1))
        assert anew.uid != shape.uid
        assert await content(service, anew.shape_glb) == await content(service, shape.shape_glb)


@in_a_loop
async def test_a_wait_that_is_over_leaves_the_job_going(engine: GatedEngine) -> None:
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
        assert service.job(job.uid).status is Status.TEXTURE_PROCESSING
        held.set()
        assert (await patient).textured_glb


# ---- failures ------------------------------------------------------------------------------


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
async def test_whatever_a_stage_raises_ends_its_job_and_no_other(
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
async def test_an_engine_that_returns_nothing_ends_its_job_and_no_other(stage: str) -> None:
    engine = GatedEngine()
    engine.returns[stage] = None
    async with working(engine) as service:
        with pytest.raises(EngineError):
            await service.wait_for_texture(await submit(service, 1))
        assert (await service.wait_for_texture(await submit(service, 2))).textured_glb


@in_a_loop
async def test_what_is_no_picture_is_the_clients_error(engine: GatedEngine) -> None:
    async with working(engine) as service:
        job = await service.submit(b"no picture", options(), texture=None)
        with pytest.raises(InputError, match=r"^image: "):
            await service.wait_for_shape(job)
        with pytest.raises(InputError, match=r"^image: "):
            await service.wait_for_texture(job)
        with pytest.raises(InputError, match=r"^image: "):
            await service.identify(b"no picture", remove_background=True)


@in_a_loop
async def test_what_ended_meanwhile_is_still_answered(engine: GatedEngine) -> None:
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


# ---- the picture's name ----------------------------------------------------------------------


@in_a_loop
async def test_a_picture_names_its_job_at_any_time(engine: GatedEngine) -> None:
    cutter = HeldCutter()
    async with working(engine, cutter=cutter) as service:
        cutter.gate.clear()
        job = await submit(service, 1)
        assert await service.identify(picture(), remove_background=True) == job.uid
        cutter.gate.set()
        done = await service.wait_for_shape(job)
        assert await service.identify(picture(), remove_background=True) == done.image_hash
        assert len(cutter.calls) == 1
        webp = picture(0, file_format="WEBP")
        assert await service.identify(webp, remove_background=True) == done.image_hash
        assert await service.identify(webp, remove_background=True) == done.image_hash
        assert len(cutter.calls) == 2


def opaque() -> bytes:
    image = Image.new("RGB", (64, 64), (250, 250, 250))
    image.paste((200, 30, 30), (16, 16, 48, 48))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


class Session:
    def predict(self, img: Image.Image) -> list[Image.Image]:
        mask = Image.new("L", img.size)
        mask.paste(255, (16, 16, 48, 48))
        return [mask]


@in_a_loop
async def test_a_background_model_on_its_way_holds_no_other_job(engine: GatedEngine) -> None:
    there = threading.Event()

    def open_session(name: str) -> Session:
        assert name
        assert there.wait(PATIENCE_S)
        return Session()

    cutter = Cutter(background="rembg", open_session=open_session)
    async with working(engine, cutter=cutter, limit_model_concurrency=1) as service:
        waits = await service.submit(opaque(), options(), texture=None)
        await until(lambda: service.job(waits.uid).progress is not None)
        assert service.queue_position(waits) is None
        assert service.queue_length == 1
        assert (await service.wait_for_texture(await submit(service, 1))).background == "alpha"
        frame = Image.open(io.BytesIO(opaque()))
        frame.save(other := io.BytesIO(), "WEBP", lossless=True)
        names = [
            asyncio.ensure_future(service.identify(content, remove_background=True))
            for content in (other.getvalue(), picture(0, file_format="WEBP"))
        ]
        assert await names[1]  # of a picture with its own alpha: at once
        assert not names[0].done()
        there.set()
        assert await names[0] == (await service.wait_for_shape(waits)).image_hash
        assert (await service.wait_for_texture(waits)).background == "rembg"


# ---- memory and retention ----------------------------------------------------------------------


@pytest.mark.parametrize("failing", [None, "shape", "texture", "cancelled"])
@in_a_loop
async def test_nothing_of_the_engines_is_kept_when_a_job_is_over(failing: str | None) -> None:
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
            assert all(active.cutout is None for active in service.manager.active_jobs)
    finally:
        logging.disable(logging.NOTSET)


@in_a_loop
async def test_only_finished_jobs_age_out_and_nothing_of_them_is_left(engine: GatedEngine) -> None:
    clock = Clock()
    async with working(engine, clock=clock, job_max_age_seconds=100) as service:
        done = await service.wait_for_texture(await submit(service, 1))
        untextured = await service.wait_for_shape(await submit(service, 2, texture=False))
        joined = await service.submit(picture(0, file_format="WEBP"), options(1), texture=None)
        await service.wait_for_shape(joined)
        held = engine.hold("shape", 3)
        running = await submit(service, 3)
        clock.now = 100.0
        service.manager.clean_up()
        assert service.job(done.uid).uid == done.uid
        clock.now = 101.0
        service.manager.clean_up()
        for gone in (done, untextured, joined):
            with pytest.raises(JobNotFoundError):
                service.job(gone.uid)
        assert service.job(running.uid).uid == running.uid
        assert [active.uid for active in service.manager.active_jobs] == [running.uid]
        assert len(service.manager.registry._by_key) <= 2
        assert not service.manager.registry._merged
        held.set()
        assert (await service.wait_for_texture(running)).textured_glb


@in_a_loop
async def test_only_a_job_that_has_not_begun_and_is_unasked_for_is_given_up(
    engine: GatedEngine,
) -> None:
    clock = Clock()
    held = engine.hold("shape", 1)
    async with working(engine, clock=clock, limit_model_concurrency=1) as service:
        begun = await submit(service, 1)
        await begin(engine, "shape")
        left, asked, awaited = [await submit(service, seed) for seed in (2, 3, 4)]
        waiting = asyncio.ensure_future(service.wait_for_shape(awaited))
        clock.now = 119.0
        service.job(asked.uid)
        await submit(service, 3)
        clock.now = 121.0
        service.manager.clean_up()
        assert service.job(left.uid).status is Status.CANCELLED
        with pytest.raises(JobCancelledError, match="nobody asked"):
            await service.wait_for_shape(left)
        assert (await submit(service, 2)).uid != left.uid
        held.set()
        assert (await waiting).shape_glb
        assert (await service.wait_for_shape(asked)).shape_glb
        assert (await service.wait_for_texture(begun)).textured_glb


# ---- begin and end -------------------------------------------------------------------------------


@in_a_loop
async def test_nothing_is_accepted_before_the_engine_is_loaded() -> None:
    engine = GatedEngine("load")
    async with working(engine) as service:
        with pytest.raises(LoadingError, match="the model is loading"):
            await submit(service, 1)
        engine.open_all()
        await until(lambda: service.manager.lifecycle.status == "ok")
        assert service.manager.lifecycle.seconds is not None
        assert (await service.wait_for_shape(await submit(service, 1))).shape_glb


@pytest.mark.parametrize("failure", [EngineError("no weights"), SystemExit("no weights")])
@in_a_loop
async def test_a_load_that_fails_is_the_reason_of_every_refusal(failure: BaseException) -> None:
    engine = GatedEngine()
    engine.failures["load"] = failure
    async with working(engine) as service:
        assert service.manager.lifecycle.status == "error"
        with pytest.raises(LoadingError, match=r"could not be loaded: .*no weights"):
            await submit(service, 1)
        with pytest.raises(LoadingError, match="no weights"):
            await service.identify(picture(), remove_background=True)


@in_a_loop
async def test_at_a_stop_what_runs_ends_and_what_waits_is_told(engine: GatedEngine) -> None:
    held = engine.hold("shape", 1)
    async with working(engine) as service:
        runs = await submit(service, 1, texture=True)
        await begin(engine, "shape")
        waits = await submit(service, 2)
        textured = asyncio.ensure_future(service.wait_for_texture(runs))
        shapes = [asyncio.ensure_future(service.wait_for_shape(job)) for job in (runs, waits)]
        await until(lambda: service.job(waits.uid).image_hash is not None)
        closing = [asyncio.ensure_future(service.manager.close()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(ShuttingDownError):
            await submit(service, 3)
        with pytest.raises(ShuttingDownError):
            await shapes[1]
        held.set()
        assert (await shapes[0]).shape_glb
        with pytest.raises(ShuttingDownError) as caught:
            await textured
        assert caught.value.retry_after_s > 0
        await asyncio.gather(*closing)
        assert service.manager.is_idle
    assert ("texture", 1) not in engine.calls


@in_a_loop
async def test_what_does_not_end_within_the_grace_is_told(engine: GatedEngine) -> None:
    engine.hold("shape", 1)
    async with working(engine, grace=0.05) as service:
        waiting = asyncio.ensure_future(service.wait_for_shape(await submit(service, 1)))
        await begin(engine, "shape")
        await service.manager.close()
        with pytest.raises(ShuttingDownError):
            await waiting
        assert not service.manager.is_idle


@in_a_loop
async def test_a_picture_that_joins_at_a_stop_is_answered(engine: GatedEngine) -> None:
    cutter = HeldCutter()
    async with working(engine, cutter=cutter) as service:
        await service.wait_for_shape(await submit(service, 1, texture=False))
        cutter.gate.clear()
        webp = await service.submit(picture(0, file_format="WEBP"), options(), texture=None)
        waiting = [
            asyncio.ensure_future(call(webp))
            for call in (service.wait_for_shape, service.wait_for_texture)
        ]
        await until(lambda: len(cutter.calls) == 2)
        closing = asyncio.ensure_future(service.manager.close())
        await asyncio.sleep(0)
        cutter.gate.set()
        assert (await waiting[0]).shape_glb
        with pytest.raises(ShuttingDownError):
            await waiting[1]
        await closing


@in_a_loop
async def test_the_whole_worker_can_be_closed_while_it_loads() -> None:
    engine = GatedEngine("load")
    async with working(engine, grace=0.05) as service:
        await begin(engine, "load")
        await service.manager.close()
        assert not service.manager.is_idle
        engine.open_all()
        service.manager.lifecycle.status = "error"  # nobody is left to note it


@in_a_loop
async def test_progress_never_goes_back(engine: GatedEngine) -> None:
    async with working(engine) as service:
        job = await submit(service, 1)
        seen: list[tuple[Status, float]] = []
        while not (now := service.job(job.uid)).status.is_finished:
            if now.progress:
                seen.append((now.status, now.progress.fraction))
            await asyncio.sleep(0)
        for status in (Status.SHAPE_PROCESSING, Status.TEXTURE_PROCESSING):
            fractions = [fraction for at, fraction in seen if at is status]
            assert fractions == sorted(fractions)
            assert all(0 <= fraction <= 1 for fraction in fractions)
