"""Jobs in progress: their records, their progress, and how many there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.managers import in_a_loop
from tests.support.parts import Parts
from trellis2_server.errors import EngineError
from trellis2_server.jobs.job import Progress, Status
from trellis2_server.jobs.uploads import Upload

if TYPE_CHECKING:
    from trellis2_server.jobs.steps import Step


@in_a_loop
async def test_steps_are_counted_by_what_they_do() -> None:
    parts = Parts()
    jobs = parts.active_jobs
    assert (jobs.waiting, jobs.unfinished, jobs.second_steps) == (0, 0, 0)
    parts.add()  # its texture may still be requested
    parts.add(waiting_for="shape")
    parts.add(running="shape")
    parts.add(running="shape_export", waiting_for="texture")
    assert (jobs.waiting, jobs.unfinished, jobs.second_steps, len(jobs)) == (1, 3, 0, 4)
    parts.add(running=("shape_export", "texture"))
    parts.add(running=("shape_export", "texture"))
    assert (jobs.waiting, jobs.unfinished, jobs.second_steps, len(jobs)) == (1, 5, 2, 6)


@in_a_loop
async def test_a_material_is_held_while_its_shape_waits_or_is_exported() -> None:
    parts = Parts()
    waits, runs = parts.add(waiting_for="shape_export"), parts.add(running="shape_export")
    parts.add(running="shape_export")  # which has none yet
    for active in (waits, runs, parts.add(running="texture_export")):
        active.data.field = "field"
    assert parts.active_jobs.held_fields == 2


@in_a_loop
async def test_bytes_of_uploads_are_added_up() -> None:
    parts = Parts()
    for size in (0, 3, 40):
        parts.add().upload_bytes = size
    assert parts.active_jobs.upload_bytes == 43


@in_a_loop
async def test_the_newest_job_of_an_upload_is_found() -> None:
    parts = Parts()
    first, second, other = parts.add(), parts.add(), parts.add()
    other.upload = Upload("", "other", remove_background=True)
    assert parts.active_jobs.find_by_upload(first.upload) == second.uid
    parts.active_jobs.discard(second.uid)
    parts.active_jobs.discard(second.uid)
    assert parts.active_jobs.find_by_upload(first.upload) == first.uid
    assert parts.active_jobs.find_by_upload(Upload("", "new", remove_background=True)) is None
    assert [each.uid for each in parts.active_jobs] == [first.uid, other.uid]


@in_a_loop
async def test_a_request_is_noted_for_the_job_and_for_its_work() -> None:
    parts = Parts()
    active, done = parts.add(running="shape"), parts.add(running="shape_export")
    parts.endings.complete(done)
    parts.clock.now = 7.0
    parts.active_jobs.note_request(active.uid)
    parts.active_jobs.note_request(done.uid)
    assert active.last_requested_at == 7.0
    parts.clock.now = 8.0
    assert [job.uid for job in parts.registry.remove_aged(7.5)] == [done.uid]


@pytest.mark.parametrize(
    ("status", "has_failed", "steps"),
    [
        (Status.SHAPE_PROCESSING, False, ("cutout", "shape", "shape_export")),
        (Status.TEXTURE_PROCESSING, False, ("texture", "texture_export")),
        (Status.SHAPE_PROCESSING, True, ("texture", "texture_export")),
    ],
)
@in_a_loop
async def test_a_status_waits_for_its_steps(
    status: Status,
    has_failed: bool,  # noqa: FBT001 - a parameter of the test
    steps: tuple[Step, ...],
) -> None:
    parts = Parts()
    active = parts.add(waiting_for=("texture", "shape_export"))
    error = EngineError("no") if has_failed else None
    parts.active_jobs.change(active, status=status, shape_error=error)
    assert parts.active_jobs.present_steps(active) == steps
    present = parts.active_jobs.present_step(active)
    assert present is active.steps["shape_export" if "shape_export" in steps else "texture"]
    active.steps.clear()
    assert parts.active_jobs.present_step(active) is None


@in_a_loop
async def test_each_change_is_recorded_once_and_published() -> None:
    parts = Parts()
    active = parts.add(running="shape")
    with parts.active_jobs.subscriptions.subscribe(parts.active_jobs.record(active)) as following:
        parts.clock.now = 4.0
        job = parts.active_jobs.change(active, resolution=8)
        assert following.job is job is parts.registry[active.uid]
        assert (job.resolution, job.finished_at) == (8, None)
        assert not parts.active_jobs.is_finished(active)
        done = parts.active_jobs.change(active, status=Status.COMPLETED)
        assert (done.finished_at, following.job) == (4.0, done)
        assert parts.active_jobs.is_finished(active)


@in_a_loop
async def test_progress_goes_forward_only_and_the_same_is_published_once() -> None:
    parts = Parts()
    active = parts.add(running="shape")
    step = active.steps["shape"]
    seen: list[Progress | None] = []
    for fraction in (0.5, 0.5, 0.25, 0.75):
        before = parts.active_jobs.record(active)
        parts.active_jobs.note_progress(active, step.name, Progress("decode", fraction))
        later = parts.active_jobs.record(active)
        seen.append(None if later is before else later.progress)
    assert seen == [Progress("decode", 0.5), None, None, Progress("decode", 0.75)]
    parts.active_jobs.note_progress(active, step.name, Progress("retry", 0.0))
    assert parts.active_jobs.record(active).progress == Progress("retry", 0.75)
    fresh = parts.add(waiting_for="shape")
    parts.active_jobs.note_loading(fresh.steps["shape"])
    assert parts.active_jobs.record(fresh).progress == Progress("loading", 0.0)
