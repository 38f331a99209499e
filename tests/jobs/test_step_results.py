"""What follows from the end of each step."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import cube, voxels
from tests.support.managers import in_a_loop, submit, until, working
from tests.support.parts import Parts
from trellis2_server.errors import (
    EngineBrokenError,
    EngineError,
    ServerError,
    ShuttingDownError,
    StepTimeoutError,
)
from trellis2_server.inputs.background import ModelPending
from trellis2_server.jobs.job import Job, Progress, Status
from trellis2_server.jobs.queue import job_future
from trellis2_server.jobs.scheduler import TEXTURE_PATIENCE_S
from trellis2_server.jobs.step_results import StepResults
from trellis2_server.mesh import Shape
from trellis2_server.storage.snapshots import FIELD_SNAPSHOT, SHAPE_SNAPSHOT
from trellis2_server.storage.store import Artifact

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.engines import GatedEngine
    from trellis2_server.jobs.queue import ActiveJob
    from trellis2_server.jobs.steps import Step


@in_a_loop
async def test_a_job_tells_the_warnings_of_all_its_steps_in_their_order(
    engine: GatedEngine,
) -> None:
    engine.returns["shape"] = Shape(cube(), 8, state=None, warnings=("a coarser shape",))
    engine.returns["texture"] = replace(voxels(), warnings=("a coarser texture", "a seam"))
    async with working(engine) as service:
        done = await service.wait_for_texture(await submit(service, 1))
        assert done.warnings == ("a coarser shape", "a coarser texture", "a seam")
        other = await service.wait_for_texture(await submit(service, 2))
        assert other.warnings == ()


# ---- by themselves -----------------------------------------------------------------------------

CUTOUT: Any = SimpleNamespace(
    image_hash="a" * 32, background="alpha", warnings=("dark",), png=lambda: b"png"
)
SHAPE: Any = SimpleNamespace(resolution=512, warnings=("coarse",))
FIELD: Any = SimpleNamespace(warnings=("a seam",))
EXPORTED = ("geometry", b"glTF", "b" * 32)


class Calls:
    """Names each call by its step and what it works with."""

    def __getattr__(self, name: str) -> Any:
        return lambda first, *others: (name, *(others or (first,)))


class Shelf:
    """An archive that notes what is stored."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.deferred: dict[str, tuple[Any, bool]] = {}

    def store_file(self, uid: str, name: str, content: bytes) -> Artifact:
        self.files[name] = content
        return Artifact(uid, name, len(content))

    def store_deferred(self, uid: str, name: str, make: Any, *, is_evictable: bool) -> None:
        del uid
        self.deferred[name] = make, is_evictable


class Matcher:
    """Knows the job that a test says."""

    def __init__(self) -> None:
        self.known: Job | None = None
        self.heard: list[str] = []

    def find_by_cutout(self, active: ActiveJob, cutout: Any) -> Job | None:
        del active, cutout
        return self.known

    def merge(self, active: ActiveJob, known: Job) -> None:
        del active, known
        self.heard.append("merge")

    def follow(self, active: ActiveJob, known: Job) -> None:
        del active, known
        self.heard.append("follow")


class Stage:
    """The results, and a job that waits for them; `done` is a step that has ended."""

    def __init__(self, *, wants_texture: bool = True, mesh: bytes | None = None) -> None:
        self.parts, self.shelf, self.matcher = Parts(), Shelf(), Matcher()
        calls: Any = Calls()
        shelf: Any = self.shelf
        matcher: Any = self.matcher
        self.results = StepResults(
            calls, self.parts.active_jobs, shelf, matcher, self.parts.availability,
            self.parts.endings,
        )  # fmt: skip
        self.results.enqueue = self._enqueue
        self.queued: list[tuple[Step, Any]] = []
        self.active = self.parts.add(mesh=mesh)
        self.active.wants_texture = wants_texture

    def _enqueue(self, active: ActiveJob, step: Step, call: Callable[[], Any]) -> None:
        active.add_step(step, call)
        self.queued.append((step, call))

    def take(self, step: Step, result: Any) -> None:
        self.active.steps.pop(step, None)
        self.results.take(self.active, step, result)

    def fail(self, step: Step, error: ServerError) -> None:
        self.active.steps.pop(step, None)
        self.results.fail(self.active, step, error)

    @property
    def job(self) -> Job:
        return self.parts.active_jobs.record(self.active)

    @property
    def steps(self) -> list[Step]:
        return [step for step, _ in self.queued]


def shaped(**more: Any) -> Stage:
    """A job whose shape was made just now."""
    stage = Stage(**more)
    stage.results.start_job(stage.active, b"picture")
    stage.take("cutout", CUTOUT)
    stage.take("shape", SHAPE)
    return stage


@in_a_loop
async def test_a_textured_job_goes_through_all_of_its_steps() -> None:
    stage = Stage()
    stage.results.start_job(stage.active, b"picture")
    assert stage.queued == [("cutout", ("cut_out", b"picture"))]
    assert stage.active.upload_bytes == 7
    stage.take("cutout", CUTOUT)
    assert stage.active.upload_bytes == 0
    job = stage.job
    assert (job.image_hash, job.background, job.warnings) == ("a" * 32, "alpha", ("dark",))
    assert stage.shelf.deferred["input.png"] == (CUTOUT.png, False)
    assert stage.queued[1:] == [("shape", ("make_shape", CUTOUT))]
    stage.parts.clock.now = 5.0
    stage.take("shape", SHAPE)
    assert (stage.job.resolution, stage.job.warnings) == (512, ("dark", "coarse"))
    assert stage.queued[2:] == [
        ("shape_export", ("export_shape", SHAPE)),
        ("texture", ("make_texture", SHAPE, CUTOUT)),
    ]
    assert stage.active.steps["texture"].deadline == 5.0 + TEXTURE_PATIENCE_S
    assert stage.active.steps["shape_export"].deadline == 0.0
    stage.active.texture_progress = Progress("texture", 0.25)
    stage.take("shape_export", EXPORTED)
    job = stage.job
    assert (job.status, job.shape_md5) == (Status.TEXTURE_PROCESSING, "b" * 32)
    assert job.progress == Progress("texture", 0.25)
    assert job.shape_glb == Artifact(job.uid, "shape.glb", 4)
    assert stage.active.shape_done.result() is job
    assert stage.shelf.deferred[SHAPE_SNAPSHOT] == (("snapshot_shape", SHAPE), True)
    assert stage.steps[4:] == []
    stage.take("texture", FIELD)
    assert stage.job.warnings == ("dark", "coarse", "a seam")
    assert stage.active.data.cutout is None
    assert stage.queued[4:] == [("texture_export", ("export_model", "geometry", FIELD))]
    stage.take("texture_export", b"textured")
    job = stage.job
    assert (job.status, job.textured_glb) == (
        Status.COMPLETED, Artifact(job.uid, "textured.glb", 8),
    )  # fmt: skip
    assert stage.shelf.deferred[FIELD_SNAPSHOT] == (("snapshot_field", FIELD), True)
    assert stage.shelf.files == {"shape.glb": b"glTF", "textured.glb": b"textured"}
    assert stage.active.texture_done is not None
    assert stage.active.texture_done.result() is job
    assert job.uid not in stage.parts.active_jobs


@in_a_loop
async def test_a_texture_that_is_ready_first_is_exported_after_the_shape() -> None:
    stage = shaped()
    stage.take("texture", SimpleNamespace(warnings=()))
    assert stage.job.warnings == ("dark", "coarse")
    assert stage.steps[-1] == "texture"
    stage.take("shape_export", EXPORTED)
    assert stage.queued[-1][0] == "texture_export"
    assert stage.queued[-1][1][1] == "geometry"


@in_a_loop
async def test_a_mesh_is_read_instead_of_making_a_shape_and_is_textured() -> None:
    stage = Stage(mesh=b"mesh!")
    stage.results.start_job(stage.active, b"picture")
    assert stage.active.upload_bytes == 12
    stage.take("cutout", CUTOUT)
    assert (stage.active.upload_bytes, stage.active.mesh) == (5, None)
    assert stage.queued[1:] == [("shape_export", ("read_mesh", b"mesh!"))]
    snapshot, is_evictable = stage.shelf.deferred[SHAPE_SNAPSHOT]
    assert (snapshot.args, is_evictable) == ((b"mesh!",), True)
    stage.take("shape_export", EXPORTED)
    assert stage.active.upload_bytes == 0
    assert stage.shelf.deferred[SHAPE_SNAPSHOT][0] is snapshot
    assert stage.queued[2:] == [("texture", ("make_texture", "geometry", CUTOUT))]
    assert stage.job.status is Status.TEXTURE_PROCESSING


@in_a_loop
async def test_a_texture_that_is_requested_later_is_made_then() -> None:
    stage = shaped(wants_texture=False)
    assert stage.steps[-1] == "shape_export"
    stage.take("shape_export", EXPORTED)
    assert stage.job.status is Status.COMPLETED
    assert stage.steps[-1] == "shape_export"
    assert stage.active.shape_done.result() is stage.job
    stage.parts.clock.now = 9.0
    stage.results.request_texture(stage.job)
    assert stage.job.status is Status.TEXTURE_PROCESSING
    assert stage.queued[-1] == ("texture", ("make_texture", SHAPE, CUTOUT))
    assert stage.active.texture_deadline == 9.0 + TEXTURE_PATIENCE_S
    count = len(stage.queued)
    stage.results.request_texture(stage.job)
    assert len(stage.queued) == count
    stage.parts.active_jobs.discard(stage.active.uid)
    stage.results.request_texture(stage.job)
    assert len(stage.queued) == count


@in_a_loop
async def test_a_texture_that_is_requested_while_the_shape_is_exported_follows_it() -> None:
    stage = shaped(wants_texture=False)
    stage.results.request_texture(stage.job)
    assert stage.steps[-1] == "shape_export"
    stage.take("shape_export", EXPORTED)
    assert (stage.job.status, stage.steps[-1]) == (Status.TEXTURE_PROCESSING, "texture")
    assert stage.job.progress is None


@in_a_loop
async def test_no_texture_is_begun_while_the_server_closes() -> None:
    for is_made_before in (False, True):
        stage = shaped(wants_texture=False)
        if is_made_before:
            stage.take("shape_export", EXPORTED)
            stage.parts.availability.is_closing = True
            with pytest.raises(ShuttingDownError):
                stage.results.request_texture(stage.job)
        else:
            stage.active.wants_texture = True
            stage.parts.availability.is_closing = True
            stage.take("shape_export", EXPORTED)
        assert stage.job.status is Status.COMPLETED
        assert "texture" not in stage.steps
    stage = Stage()
    stage.results.start_job(stage.active, b"picture")
    stage.take("cutout", CUTOUT)
    stage.parts.availability.is_closing = True
    stage.take("shape", SHAPE)
    assert stage.steps == ["cutout", "shape", "shape_export"]


@in_a_loop
async def test_a_texture_without_a_shape_is_a_mistake() -> None:
    for lost in ("shape", "cutout"):
        stage = shaped(wants_texture=False)
        stage.take("shape_export", EXPORTED)
        stage.active.data.geometry = None
        setattr(stage.active.data, lost, None)
        with pytest.raises(RuntimeError, match="a texture without a shape"):
            stage.results.request_texture(stage.job)


# ---- known jobs --------------------------------------------------------------------------------


@pytest.mark.parametrize("wants_texture", [False, True])
@pytest.mark.parametrize("is_open", [False, True])
@in_a_loop
async def test_a_job_that_turns_out_to_be_known_is_merged(
    *, wants_texture: bool, is_open: bool
) -> None:
    stage = Stage(wants_texture=wants_texture)
    other = stage.parts.add()
    other.wants_texture = False
    other.data.shape, other.data.cutout = SHAPE, CUTOUT
    stage.matcher.known = stage.parts.active_jobs.change(other, status=Status.COMPLETED)
    stage.results.start_job(stage.active, b"picture")
    stage.parts.availability.is_closing = not is_open
    stage.take("cutout", CUTOUT)
    assert stage.matcher.heard == ["merge", "follow"]
    is_begun = wants_texture and is_open
    assert stage.steps == ["cutout", *(["texture"] if is_begun else [])]
    assert other.wants_texture is is_begun
    assert stage.shelf.deferred == {}


# ---- background models -----------------------------------------------------------------------------


@in_a_loop
async def test_a_cutout_waits_for_its_model_in_no_queue() -> None:
    stage, loaded = Stage(), Future[None]()
    calls: list[str] = []
    stage.results.retry_cutout(stage.active, lambda: calls.append("call"), ModelPending(loaded, 60.0))
    assert stage.job.progress == Progress("background model", 0.0)
    assert stage.active.waits_for("cutout")
    assert stage.queued == []
    loaded.set_result(None)
    await until(lambda: bool(stage.queued))
    [(step, call)] = stage.queued
    call()
    assert (step, calls) == ("cutout", ["call"])


@in_a_loop
async def test_a_job_that_ended_while_its_model_was_loaded_is_not_queued_again() -> None:
    stage, loaded = Stage(), Future[None]()
    stage.results.retry_cutout(stage.active, lambda: None, ModelPending(loaded, 60.0))
    stage.active.steps.clear()
    loaded.set_result(None)
    for _ in range(3):
        await asyncio.sleep(0)
    assert stage.queued == []


@in_a_loop
async def test_no_model_is_waited_for_while_the_server_closes() -> None:
    stage = Stage()
    stage.parts.availability.is_closing = True
    stage.results.retry_cutout(stage.active, lambda: None, ModelPending(Future(), 60.0))
    assert stage.job.status is Status.CANCELLED
    assert not stage.active.waits_for("cutout")


# ---- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [EngineError("no"), StepTimeoutError("late")])
@in_a_loop
async def test_a_texture_goes_on_without_the_untextured_model(error: ServerError) -> None:
    stage = shaped()
    stage.fail("shape_export", error)
    job = stage.job
    assert job.status is Status.SHAPE_PROCESSING
    assert str(job.shape_error) == str(error)
    assert job.warnings[2:] == (f"the untextured model could not be exported: {error}",)
    assert stage.active.shape_done.result() is job
    assert stage.shelf.deferred[SHAPE_SNAPSHOT] == (("snapshot_shape", SHAPE), True)
    stage.take("texture", FIELD)
    assert stage.queued[-1] == ("texture_export", ("export_model", SHAPE, FIELD))
    stage.take("texture_export", b"textured")
    assert stage.job.status is Status.COMPLETED


@in_a_loop
async def test_a_material_that_waited_for_a_failed_export_is_exported_at_once() -> None:
    stage = shaped()
    stage.take("texture", FIELD)
    stage.fail("shape_export", EngineError("no"))
    assert stage.queued[-1] == ("texture_export", ("export_model", SHAPE, FIELD))


@pytest.mark.parametrize(
    ("wants_texture", "error"),
    [(False, EngineError("no")), (True, EngineBrokenError("no device"))],
)
@in_a_loop
async def test_a_job_ends_without_its_untextured_model_if_nothing_is_left_to_do(
    error: ServerError, *, wants_texture: bool
) -> None:
    stage = shaped(wants_texture=wants_texture)
    stage.fail("shape_export", error)
    assert (stage.job.status, str(stage.job.error)) == (Status.ERROR, str(error))
    assert SHAPE_SNAPSHOT in stage.shelf.deferred


@in_a_loop
async def test_a_job_whose_texture_failed_ends_after_its_untextured_model() -> None:
    stage = shaped()
    stage.fail("texture", EngineError("no texture"))
    assert stage.job.status is Status.SHAPE_PROCESSING
    stage.take("shape_export", EXPORTED)
    assert (stage.job.status, str(stage.job.error)) == (Status.ERROR, "no texture")
    assert stage.job.shape_glb is not None
    assert stage.active.shape_done.result().shape_glb is not None
    both = shaped()
    both.fail("texture", EngineError("no texture"))
    both.fail("shape_export", EngineError("no shape"))
    job = both.job
    assert (str(job.error), str(job.shape_error)) == ("no texture", "no shape")
    assert both.active.shape_done.result() is job


@in_a_loop
async def test_the_material_of_a_failed_export_is_kept_for_exporting_again() -> None:
    stage = shaped()
    stage.take("shape_export", EXPORTED)
    stage.take("texture", FIELD)
    stage.fail("texture_export", EngineError("no"))
    assert stage.job.status is Status.ERROR
    assert stage.shelf.deferred[FIELD_SNAPSHOT] == (("snapshot_field", FIELD), True)
    other = shaped()
    other.take("shape_export", EXPORTED)
    other.fail("texture", EngineError("no"))
    assert FIELD_SNAPSHOT not in other.shelf.deferred


@in_a_loop
async def test_a_future_that_somebody_else_answered_is_left_alone() -> None:
    stage = shaped()
    stage.active.shape_done.set_result(stage.job)
    stage.take("shape_export", EXPORTED)
    assert stage.job.status is Status.TEXTURE_PROCESSING
    assert job_future().done() is False
