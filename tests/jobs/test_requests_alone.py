"""From a request to a job and back, without threads: submitting, matching, looking up, waiting."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support.managers import in_a_loop, options, until
from tests.support.parts import Parts
from trellis2_server.digests import md5
from trellis2_server.errors import (
    EngineBrokenError,
    EngineError,
    InputError,
    JobCancelledError,
    JobNotFoundError,
    ShuttingDownError,
    TextureTimeoutError,
)
from trellis2_server.inputs.background import ModelPending
from trellis2_server.inputs.images import Cutout
from trellis2_server.jobs.job import Caller, Job, Status
from trellis2_server.jobs.lookups import Lookups
from trellis2_server.jobs.matching import JobMatcher, upload_key
from trellis2_server.jobs.queue import job_future
from trellis2_server.jobs.submissions import Submissions
from trellis2_server.jobs.threads import StepCancelled
from trellis2_server.jobs.uploads import Upload, Uploads
from trellis2_server.jobs.waiting import ResultWaiter
from trellis2_server.storage.store import Artifact

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.jobs.queue import ActiveJob

SHAPE, TEXTURED = Artifact("uid", "shape.glb", 1), Artifact("uid", "textured.glb", 1)
ME = Caller("owner", "client")


def cutout(value: int = 0, alpha: int = 255) -> Cutout:
    pixels = np.full((4, 4, 4), value, np.uint8)
    pixels[..., 3] = alpha
    return Cutout(pixels, "alpha")


class Heard:
    """An observer of matches."""

    def __init__(self) -> None:
        self.matches: list[str] = []

    def note_match(self, how: str) -> None:
        self.matches.append(how)


class Threads:
    """Look-ups that end when the test says so."""

    def __init__(self) -> None:
        self.room = 1
        self.running: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self.is_stuck: list[bool] = []

    @property
    def lookup_has_room(self) -> bool:
        return self.room > 0

    def look_up(self, call: Any, context: Any, clients: Any) -> asyncio.Future[Any]:
        del context, clients
        self.room -= 1
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.running.append((call, future))
        return future

    def is_cpu_stuck(self, *, for_lookups: bool = False) -> bool:
        self.is_stuck.append(for_lookups)
        return True


class Desk:
    """All that stands between a request and its job."""

    def __init__(self) -> None:
        self.parts, self.uploads, self.heard, self.threads = Parts(), Uploads(), Heard(), Threads()
        self.registry = self.parts.registry
        observer: Any = self.heard
        threads: Any = self.threads
        executor: Any = SimpleNamespace(cut_out=lambda *_, **__: cutout())
        self.matcher = JobMatcher(self.parts.active_jobs, self.uploads, observer)
        self.lookups = Lookups(
            executor, threads, self.uploads, self.parts.active_jobs, self.parts.endings
        )
        self.checked: list[tuple[Any, ...]] = []
        self.started: list[bytes] = []
        self.textures: list[str] = []
        self.wakes = 0
        admission: Any = SimpleNamespace(
            check_open=lambda: self.checked.append(("open",)),
            check_queue=lambda: self.checked.append(("queue",)),
            check_new_job=lambda size, caller: self.checked.append(("job", size, caller.client)),
            check_upload=lambda size, caller: self.checked.append(("upload", size, caller.client)),
        )
        results: Any = SimpleNamespace(start_job=self._start, request_texture=self._request)
        self.submissions = Submissions(
            self.parts.active_jobs, admission, self.matcher, self.lookups, results
        )
        self.submissions.engine = "engine"
        self.submissions.on_request = self._wake
        self.waiter = ResultWaiter(self.parts.active_jobs, results, self.parts.availability)

    def _start(self, active: ActiveJob, picture: bytes) -> None:
        self.parts.active_jobs.add(active)
        self.started.append(picture)

    def _request(self, job: Job) -> None:
        self.textures.append(job.uid)
        active = self.parts.active_jobs.get(job.uid)
        if active is not None:
            active.wants_texture = True
            active.texture_done = active.texture_done or job_future()

    def _wake(self) -> None:
        self.wakes += 1

    def active(self, job: Job) -> ActiveJob:
        found = self.parts.active_jobs.get(job.uid)
        assert found is not None
        return found

    def change(self, job: Job, **changes: Any) -> Job:
        return self.parts.active_jobs.change(self.active(job), **changes)

    async def submit(
        self, picture: bytes = b"picture", *, texture: bool | None = None, seed: int = 1, **more: Any
    ) -> Job:
        return await self.submissions.submit(picture, options(seed), ME, texture=texture, **more)


# ---- submitting ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("texture", "wants"), [(None, True), (True, True), (False, False)])
@in_a_loop
async def test_a_new_job_has_what_its_request_says(texture: bool | None, *, wants: bool) -> None:
    desk = Desk()
    desk.parts.clock.now = 5.0
    job = await desk.submit(texture=texture, mesh=b"mesh")
    active = desk.active(job)
    assert (job.engine, job.owner, job.created_at, job.options) == ("engine", "owner", 5.0, options(1))
    assert (active.wants_texture, active.mesh, active.deadline) == (wants, b"mesh", 5.0)
    assert active.upload == Upload("owner", md5(b"picture"), options(1).remove_background)
    assert active.last_requested_at == 5.0
    assert desk.started == [b"picture"]
    assert desk.registry.clients(job.uid) == {"client"}
    assert desk.checked == [("open",), ("job", 11, "client")]
    assert (desk.wakes, desk.textures) == (0, [])


@in_a_loop
async def test_the_same_request_gets_the_same_job_and_another_one_does_not() -> None:
    desk = Desk()
    first = await desk.submit(texture=False)
    desk.parts.clock.now = 9.0
    assert (await desk.submissions.submit(
        b"picture", options(1), Caller("owner", "second"), texture=False
    )).uid == first.uid  # fmt: skip
    assert desk.registry.clients(first.uid) == {"client", "second"}
    assert (desk.wakes, desk.heard.matches) == (1, ["upload"])
    assert desk.active(first).last_requested_at == 9.0
    others = [
        await desk.submit(b"other", texture=False), await desk.submit(seed=2, texture=False),
        await desk.submissions.submit(
            b"picture", options(1), Caller("someone", "client"), texture=False
        ),
    ]  # fmt: skip
    assert len({first.uid, *(job.uid for job in others)}) == 4
    random = [await desk.submit(seed=-1, texture=False) for _ in range(2)]
    assert random[0].uid != random[1].uid
    assert desk.checked.count(("open",)) == 7


@in_a_loop
async def test_a_texture_that_was_declined_is_begun_when_somebody_asks_for_it() -> None:
    desk = Desk()
    job = await desk.submit(texture=False)
    await desk.submit(texture=False)
    assert desk.textures == []
    await desk.submit(texture=None)
    assert desk.textures == [job.uid]
    await desk.submit(texture=True)
    assert desk.textures == [job.uid]


# ---- matching --------------------------------------------------------------------------------------


@in_a_loop
async def test_cutouts_that_differ_in_colour_or_in_alpha_alone_are_different_jobs() -> None:
    """`image_hash` is that of what the model sees, on black: of black, alpha is not seen in it."""
    desk = Desk()
    plain, thin, other = cutout(0), cutout(0, alpha=200), cutout(9)
    assert plain.image_hash == thin.image_hash != other.image_hash
    jobs = [await desk.submit(name) for name in (b"a", b"b", b"c", b"d")]
    found = [
        desk.matcher.find_by_cutout(desk.active(job), each)
        for job, each in zip(jobs, (plain, thin, other, cutout(0)), strict=True)
    ]
    assert found[:3] == [None, None, None]
    assert found[3] is not None
    assert found[3].uid == jobs[0].uid
    assert desk.uploads.image_hash(desk.active(jobs[1]).upload) == thin.image_hash


@in_a_loop
async def test_a_job_matches_only_while_it_has_or_will_have_what_is_asked_for() -> None:
    desk = Desk()
    job = await desk.submit(texture=False)
    upload = desk.active(job).upload

    def finds(*, texture: bool) -> bool:
        return desk.matcher.find_by_upload(upload, options(1), texture=texture) is not None

    assert (finds(texture=False), finds(texture=True)) == (True, True)
    active = desk.active(job)
    active.texture_error = EngineError("no texture")
    assert (finds(texture=False), finds(texture=True)) == (True, False)
    active.texture_error = None
    desk.change(job, shape_glb=SHAPE)
    assert (finds(texture=False), finds(texture=True)) == (True, True)
    desk.parts.active_jobs.discard(job.uid)
    assert (finds(texture=False), finds(texture=True)) == (True, False)
    desk.registry.put(replace(desk.registry[job.uid], textured_glb=TEXTURED))
    assert (finds(texture=False), finds(texture=True)) == (True, True)
    desk.registry.put(replace(desk.registry[job.uid], shape_glb=None))
    assert (finds(texture=False), finds(texture=True)) == (False, False)
    desk.registry.put(
        replace(desk.registry[job.uid], shape_glb=SHAPE, shape_error=EngineError("no shape"))
    )
    assert (finds(texture=False), finds(texture=True)) == (False, False)


@in_a_loop
async def test_a_mesh_that_a_job_made_of_that_picture_is_that_job() -> None:
    desk = Desk()
    job = await desk.submit()
    upload = desk.active(job).upload
    desk.uploads.remember(upload, cutout(9))
    desk.change(job, image_hash=cutout(9).image_hash, shape_glb=SHAPE, shape_md5="c" * 32)
    asked = replace(options(5), mesh="c" * 32)

    def found(asked: Any, upload: Upload = upload) -> str | None:
        known = desk.matcher.find_by_upload(upload, asked, texture=True)
        return known and known.uid

    assert found(asked) == job.uid
    assert found(replace(asked, geo_rotation=90.0)) is None
    assert found(replace(asked, mesh="d" * 32)) is None
    assert found(replace(asked, mesh=None)) is None
    assert found(asked, upload._replace(digest="other")) is None
    assert found(asked, upload._replace(owner="other")) is None
    assert upload_key(upload, options(-1)) is None


@in_a_loop
async def test_a_merged_job_follows_the_known_one() -> None:
    desk = Desk()
    known, merged, late = [await desk.submit(name) for name in (b"a", b"b", b"c")]
    active = desk.active(merged)
    with desk.parts.active_jobs.subscriptions.subscribe(merged) as following:
        desk.parts.clock.now = 3.0
        desk.matcher.merge(active, known)
        desk.matcher.follow(active, known)
        assert following.job.uid == known.uid
    assert desk.registry[merged.uid].uid == known.uid
    assert merged.uid not in desk.parts.active_jobs
    assert desk.active(known).last_requested_at == 3.0
    assert (await desk.submit(b"b")).uid == known.uid
    assert not active.shape_done.done()
    done = desk.change(known, shape_glb=SHAPE)
    desk.active(known).shape_done.set_result(done)
    assert await active.shape_done is done
    desk.parts.active_jobs.discard(known.uid)
    third = desk.active(late)
    desk.matcher.merge(third, done)
    desk.matcher.follow(third, done)
    assert third.shape_done.result() is done
    assert desk.heard.matches == ["picture", "upload", "picture"]


# ---- looking up ------------------------------------------------------------------------------------


async def identify(desk: Desk, picture: bytes, caller: Caller = ME) -> asyncio.Task[str]:
    """Begin to ask for the name of a picture; return when it waits, or has its answer."""
    task = asyncio.ensure_future(
        desk.submissions.identify(picture, caller, remove_background=True)
    )
    held_bytes = desk.lookups.held_bytes
    await until(lambda: task.done() or desk.lookups.held_bytes > held_bytes)
    return task


@in_a_loop
async def test_a_picture_that_is_known_is_not_looked_up() -> None:
    desk = Desk()
    upload = Upload("owner", md5(b"known"), remove_background=True)
    desk.uploads.remember(upload, cutout(9))
    assert await (await identify(desk, b"known")) == cutout(9).image_hash
    job = await desk.submit(b"active")
    assert await (await identify(desk, b"active")) == job.uid
    assert not desk.threads.running


@in_a_loop
async def test_a_lookup_ends_with_the_hash_and_counts_until_then() -> None:
    desk = Desk()
    ends: list[int] = []
    desk.lookups.on_end = lambda: ends.append(desk.lookups.held_bytes)
    task = await identify(desk, b"picture")
    upload = Upload("owner", md5(b"picture"), remove_background=True)
    assert desk.checked == [("open",), ("open",), ("queue",), ("upload", 7, "client")]
    assert (desk.lookups.requests_of("client"), desk.lookups.held_bytes) == (1, 7)
    assert desk.lookups.is_active(upload)
    assert desk.lookups.waiting == 0
    shared = await identify(desk, b"picture", Caller("owner", "second"))
    assert desk.checked[4:] == [("open",), ("open",), ("upload", 7, "second")]
    assert (desk.lookups.requests_of("second"), desk.lookups.held_bytes) == (1, 14)
    [(_, future)] = desk.threads.running
    future.set_result(cutout(9))
    assert await task == await shared == cutout(9).image_hash
    assert (desk.lookups.held_bytes, desk.lookups.requests_of("client")) == (0, 0)
    assert not desk.lookups.is_active(upload)
    assert len(ends) == 1


@in_a_loop
async def test_lookups_wait_for_a_thread_in_order() -> None:
    desk = Desk()
    desk.threads.room = 0
    tasks = [await identify(desk, name) for name in (b"a", b"b", b"c")]
    assert (desk.lookups.waiting, desk.lookups.is_stuck) == (3, True)
    assert desk.threads.is_stuck == [True]
    desk.threads.room = 1
    desk.lookups.wake()
    assert (desk.lookups.waiting, len(desk.threads.running)) == (2, 1)
    # Meanwhile a job has cut the second picture out, and another one is made of the third.
    upload = Upload("owner", md5(b"b"), remove_background=True)
    desk.uploads.remember(upload, cutout(7))
    job = await desk.submit(b"c")
    desk.lookups.wake()
    assert await tasks[1] == cutout(7).image_hash
    assert desk.lookups.waiting == 1
    desk.threads.room = 1
    desk.lookups.wake()
    assert await tasks[2] == job.uid
    assert len(desk.threads.running) == 1
    desk.threads.running[0][1].set_result(cutout(9))
    assert await tasks[0] == cutout(9).image_hash
    assert not desk.lookups.is_stuck


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (InputError("no picture"), InputError),
        (StepCancelled(), JobCancelledError),
        (EngineBrokenError("no device"), EngineBrokenError),
    ],
)
@in_a_loop
async def test_a_lookup_that_fails_says_why(error: Exception, raised: type[Exception]) -> None:
    desk = Desk()
    task = await identify(desk, b"picture")
    desk.threads.running[0][1].set_exception(error)
    with pytest.raises(raised):
        await task
    is_broken = isinstance(error, EngineBrokenError)
    assert (desk.parts.availability.fatal_error is not None) is is_broken
    assert desk.lookups.held_bytes == 0


@in_a_loop
async def test_a_lookup_waits_for_its_background_model_on_no_thread() -> None:
    desk = Desk()
    loaded: Future[None] = Future()
    task = await identify(desk, b"picture")
    desk.threads.running[0][1].set_exception(ModelPending(loaded, 1000.0))
    await until(lambda: desk.lookups.waiting == 1)
    desk.threads.room = 1
    desk.lookups.wake()
    assert len(desk.threads.running) == 1
    loaded.set_result(None)
    await until(lambda: len(desk.threads.running) == 2)
    assert desk.lookups.waiting == 0
    desk.threads.running[1][1].set_result(cutout(9))
    assert await task == cutout(9).image_hash


@in_a_loop
async def test_a_cutout_that_nobody_waits_for_stops_and_its_picture_is_forgotten() -> None:
    desk = Desk()
    task = await identify(desk, b"picture")
    call: Any = desk.threads.running[0][0]
    report = call.keywords["report"]
    report("cutout", 0, 1)
    task.cancel()
    await asyncio.wait([task])
    with pytest.raises(StepCancelled):
        report("cutout", 0, 1)
    assert (desk.lookups.held_bytes, desk.lookups.waiting) == (0, 0)
    desk.threads.running[0][1].set_exception(ModelPending(Future(), 1000.0))
    await asyncio.sleep(0)
    assert desk.lookups.waiting == 0


@pytest.mark.parametrize("running", [False, True])
@in_a_loop
async def test_at_the_end_lookups_that_wait_are_answered_and_then_those_that_run(
    *, running: bool
) -> None:
    desk = Desk()
    runs, waits = await identify(desk, b"a"), await identify(desk, b"b")
    desk.lookups.fail_all(ShuttingDownError("bye"), running=running)
    with pytest.raises(ShuttingDownError):
        await waits
    await asyncio.sleep(0)
    assert runs.done() is running
    if running:
        with pytest.raises(ShuttingDownError):
            await runs
    else:
        desk.threads.running[0][1].set_result(cutout(9))
        assert await runs


# ---- waiting ---------------------------------------------------------------------------------------


@in_a_loop
async def test_a_waiter_that_leaves_leaves_the_job_to_the_others() -> None:
    desk = Desk()
    job = await desk.submit()
    active = desk.active(job)
    for wait, result in (
        (desk.waiter.wait_for_shape, {"shape_glb": SHAPE}),
        (desk.waiter.wait_for_texture, {"textured_glb": TEXTURED}),
    ):
        leaving, patient = (asyncio.ensure_future(wait(job)) for _ in range(2))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert active.waiters == 2
        desk.parts.clock.now += 5.0
        leaving.cancel()
        await asyncio.wait([leaving])
        assert (active.waiters, active.last_requested_at) == (1, desk.parts.clock.now)
        done = desk.change(job, **result)
        future = active.shape_done if "shape_glb" in result else active.texture_done
        assert future is not None
        assert not future.done()
        future.set_result(done)
        assert await patient is done
        assert active.waiters == 0
        assert await wait(done) is done


@in_a_loop
async def test_a_texture_is_waited_for_as_long_as_it_is_told() -> None:
    desk = Desk()
    job = await desk.submit()
    active = desk.active(job)
    active.shape_done.set_result(job)
    with pytest.raises(TextureTimeoutError):
        await desk.waiter.wait_for_texture(job, 0.001)
    assert (desk.textures, active.waiters) == ([job.uid], 0)
    assert active.texture_done is not None
    assert not active.texture_done.done()
    active.texture_done.set_result(desk.change(job, textured_glb=TEXTURED))
    assert (await desk.waiter.wait_for_texture(job, 60.0)).textured_glb is TEXTURED


@in_a_loop
async def test_a_job_that_ended_without_a_result_says_why() -> None:
    desk = Desk()
    failed, cut, old, closing = [await desk.submit(name) for name in (b"a", b"b", b"c", b"d")]
    error, no_shape = EngineError("no"), EngineError("no shape")
    desk.parts.endings.fail(desk.active(failed), error)
    desk.change(cut, shape_error=no_shape)
    desk.active(cut).shape_done.set_result(desk.registry[cut.uid])
    for job, kind, message in ((failed, EngineError, "no"), (cut, EngineError, "no shape")):
        raised: list[BaseException] = []
        for _ in range(2):
            with pytest.raises(kind, match=f"^{message}$") as caught:
                await desk.waiter.wait_for_shape(job)
            raised.append(caught.value)
        assert raised[0] is not raised[1]  # each its own
    desk.change(old, status=Status.COMPLETED, shape_glb=SHAPE)
    desk.parts.active_jobs.discard(old.uid)
    with pytest.raises(JobNotFoundError, match="cannot be made any more"):
        await desk.waiter.wait_for_texture(old)
    desk.parts.active_jobs.discard(closing.uid)
    with pytest.raises(ShuttingDownError):
        await desk.waiter.wait_for_shape(closing)
    desk.parts.availability.is_closing = True
    with pytest.raises(ShuttingDownError):
        await desk.waiter.wait_for_texture(old)
