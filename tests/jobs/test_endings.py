"""Every way in which a job ends."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.managers import in_a_loop
from tests.support.parts import ABANDONED_AFTER_S, Parts
from trellis2_server.errors import EngineError, JobCancelledError, ShuttingDownError, UnhealthyError
from trellis2_server.jobs.queue import job_future


@in_a_loop
async def test_a_failed_job_leaves_the_queue_and_answers_all_who_wait() -> None:
    parts = Parts()
    failed, other = parts.add(waiting_for="shape"), parts.add(waiting_for="shape")
    failed.texture_done = job_future()
    with pytest.raises(EngineError) as caught:
        raise EngineError("no shape")
    assert caught.value.__traceback__
    parts.endings.fail(failed, caught.value)
    for future in (failed.shape_done, failed.texture_done):
        error = future.result().error
        assert str(error) == "no shape"
        assert error is not None
        assert error.__traceback__ is None
    assert parts.status(failed) == "error"
    assert failed.is_stopped
    assert failed.uid not in parts.active_jobs
    assert [step.active for step in parts.queue] == [other]
    assert parts.moved == [other.uid]
    assert parts.ends == 1


@pytest.mark.parametrize("error", [JobCancelledError("cancelled"), ShuttingDownError("bye")])
@in_a_loop
async def test_a_cancelled_job_is_no_error(error: Any) -> None:
    parts = Parts()
    active = parts.add(running="shape")
    parts.endings.fail(active, error)
    assert parts.status(active) == "cancelled"


@in_a_loop
async def test_a_job_without_its_texture_stays_active_and_a_complete_one_does_not() -> None:
    parts = Parts()
    shape, textured = parts.add(running="shape_export"), parts.add(running="texture_export")
    shape.data.geometry = "geometry"
    textured.has_used_engine = True
    parts.endings.complete_shape(shape, resolution=8)
    parts.endings.complete(textured)
    assert parts.status(shape) == parts.status(textured) == "completed"
    assert parts.active_jobs.record(shape).resolution == 8
    assert shape.uid in parts.active_jobs
    assert shape.data.geometry == "geometry"
    assert textured.data.geometry is None
    assert textured.uid not in parts.active_jobs
    assert textured.shape_done.result().uid == textured.uid
    assert parts.lifecycle.jobs == 1  # the engine worked for one of them


@in_a_loop
async def test_a_job_that_used_the_engine_counts_once_though_it_ends_twice() -> None:
    parts = Parts()
    active = parts.add(running="shape_export", has_used_engine=True)
    parts.endings.complete_shape(active)
    parts.active_jobs.change(
        active, status=type(parts.active_jobs.record(active).status)("texture_processing")
    )
    parts.endings.complete(active)
    assert parts.lifecycle.jobs == 1


@pytest.mark.parametrize(
    ("state", "age_s", "is_abandoned"),
    [
        ({"waiting_for": "cutout"}, ABANDONED_AFTER_S + 1, True),
        ({"waiting_for": "cutout"}, ABANDONED_AFTER_S, False),
        ({"waiting_for": "cutout", "waiters": 1}, ABANDONED_AFTER_S + 1, False),
        ({"waiting_for": "shape"}, ABANDONED_AFTER_S + 1, False),
        ({"running": "cutout"}, ABANDONED_AFTER_S + 1, False),
    ],
)
@in_a_loop
async def test_only_a_job_that_has_not_started_and_that_no_client_wants_is_abandoned(
    state: dict[str, Any], age_s: float, *, is_abandoned: bool
) -> None:
    parts = Parts()
    active = parts.add(**state)
    parts.clock.now = age_s
    assert parts.endings.cancel_if_abandoned(active) is is_abandoned
    assert parts.status(active) == ("cancelled" if is_abandoned else "shape_processing")


@in_a_loop
async def test_a_fatal_error_ends_the_jobs_that_need_the_engine_and_no_others() -> None:
    parts = Parts()
    needing = [parts.add(waiting_for=step) for step in ("cutout", "shape", "texture")]
    exporting, running = parts.add(waiting_for="shape_export"), parts.add(running="shape")
    parts.endings.fail_permanently("CUDA: misaligned address")
    for active in needing:
        error = active.shape_done.result().error
        assert isinstance(error, UnhealthyError)
        assert "CUDA: misaligned address" in str(error)
    for active in (exporting, running):
        assert parts.status(active) == "shape_processing"
    assert parts.availability.has_failed.is_set()
    assert not parts.availability.is_settled.is_set()
    parts.endings.complete(exporting)
    parts.endings.fail(running, EngineError("no"))
    assert parts.availability.is_settled.is_set()


@in_a_loop
async def test_the_first_fatal_error_is_the_one_that_is_reported() -> None:
    parts = Parts()
    parts.endings.fail_permanently("first")
    parts.endings.fail_permanently("second")
    assert parts.availability.fatal_error == "first"
    assert parts.availability.is_settled.is_set()  # there is no job
    with pytest.raises(UnhealthyError, match="first"):
        parts.availability.check()


@pytest.mark.parametrize("running", [False, True])
@in_a_loop
async def test_all_jobs_end_or_only_those_that_wait(*, running: bool) -> None:
    parts = Parts()
    waits, runs = parts.add(waiting_for="shape"), parts.add(running="shape")
    parts.endings.fail_all(ShuttingDownError("bye"), running=running)
    assert parts.status(waits) == "cancelled"
    assert parts.status(runs) == ("cancelled" if running else "shape_processing")
