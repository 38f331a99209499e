"""Progress of a status, from what its running step reports."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.managers import in_a_loop
from tests.support.parts import Parts
from trellis2_server.jobs import progress
from trellis2_server.jobs.observers import NullObserver
from trellis2_server.jobs.progress import ProgressReporter, status_fraction, step_fraction
from trellis2_server.jobs.steps import SHAPE_STEPS, TEXTURE_STEPS
from trellis2_server.jobs.threads import StepCancelled

if TYPE_CHECKING:
    from trellis2_server.jobs.job import Job
    from trellis2_server.jobs.queue import ActiveJob


class Retries(NullObserver):
    def __init__(self) -> None:
        self.count = 0

    def note_retry(self) -> None:
        self.count += 1


def test_a_step_that_is_retried_starts_over() -> None:
    assert status_fraction("shape", "retry", 1, 1) == status_fraction("shape", "condition", 0, 1)
    assert status_fraction("texture", "retry", 2, 3) == status_fraction("texture", "texture", 0, 12)


@pytest.mark.parametrize("steps", [SHAPE_STEPS, TEXTURE_STEPS])
def test_the_steps_of_a_status_follow_each_other_without_a_gap(
    steps: tuple[progress.Step, ...],
) -> None:
    ends = [status_fraction(step, "any", 1, 1) for step in steps]
    begins = [status_fraction(step, "any", 0, 1) for step in steps]
    assert begins == [0.0, *ends[:-1]]
    assert ends[-1] == 1.0


@pytest.mark.parametrize(
    ("step", "stages"),
    [
        ("shape", ["condition", "structure", "shape", "decode"]),
        ("shape_export", ["clean", "remesh", "decimate"]),
        ("texture", ["texture", "decode"]),
        ("texture_export", ["unwrap", "bake", "encode", "pack"]),
    ],
)
def test_the_stages_of_a_step_follow_each_other_without_a_gap(
    step: progress.Step, stages: list[str]
) -> None:
    ends = [status_fraction(step, stage, 1, 1) for stage in stages]
    begins = [status_fraction(step, stage, 0, 1) for stage in stages]
    assert begins == [status_fraction(step, "any", 0, 1), *ends[:-1]]
    assert ends[-1] == status_fraction(step, "any", 1, 1)


@pytest.mark.parametrize("stage", ["clean", "remesh", "decimate"])
def test_a_shape_that_is_prepared_for_its_texture_again_takes_no_share_of_the_export(
    stage: str,
) -> None:
    begin = status_fraction("texture_export", "unwrap", 0, 1)
    assert status_fraction("texture_export", stage, 1, 1) == begin


@in_a_loop
async def test_the_progress_of_a_texture_is_not_shown_while_its_shape_is_exported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "PROGRESS_INTERVAL_S", 0.0)
    parts = Parts()
    active = parts.add(running=("shape_export", "texture"))
    reporter = ProgressReporter(parts.active_jobs, Retries())
    texture, export = (reporter.for_step(active, step) for step in ("texture", "shape_export"))
    for report, stage, done in (
        (texture, "texture", 8), (export, "clean", 12), (texture, "retry", 0),
    ):  # fmt: skip
        await asyncio.to_thread(report, stage, done, 12)
    await asyncio.sleep(0)
    shown = parts.active_jobs.record(active).progress
    assert shown is not None
    assert (shown.stage, shown.fraction) == (
        "clean",
        status_fraction("shape_export", "clean", 1, 1),
    )
    assert active.texture_progress is not None  # it never goes back either
    assert active.texture_progress.stage == "retry"
    assert active.texture_progress.fraction == status_fraction("texture", "texture", 8, 12)


@given(st.sampled_from([*SHAPE_STEPS, *TEXTURE_STEPS]), st.integers(0, 100))
def test_the_fraction_of_a_step_is_found_from_that_of_its_status(
    step: progress.Step, done: int
) -> None:
    assert step_fraction(step, status_fraction(step, "any", done, 100)) == pytest.approx(
        done / 100, abs=1e-3
    )


async def recorded(parts: Parts, active: ActiveJob, *reports: tuple[str, int, int]) -> Job:
    """The job's record after reports from another thread."""
    report = ProgressReporter(parts.active_jobs, Retries()).for_step(active, "shape")
    for each in reports:
        await asyncio.to_thread(report, *each)
    await asyncio.sleep(0)
    return parts.active_jobs.record(active)


@in_a_loop
async def test_a_report_becomes_the_jobs_progress() -> None:
    parts = Parts()
    parts.clock.now = 2.0
    active = parts.add(running="shape")
    parts.clock.now = 5.0
    job = await recorded(parts, active, ("shape", 6, 12))
    assert job.progress is not None
    assert (job.progress.stage, job.progress.step, job.progress.steps) == ("shape", 6, 12)
    assert job.progress.fraction == status_fraction("shape", "shape", 6, 12)
    assert active.steps["shape"].progress_after_s == 3.0


@in_a_loop
async def test_progress_does_not_go_back_when_a_stage_starts_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "PROGRESS_INTERVAL_S", 0.0)
    parts = Parts()
    active = parts.add(running="shape")
    job = await recorded(parts, active, ("shape", 9, 12), ("retry", 0, 1))
    assert job.progress is not None
    assert job.progress.stage == "retry"
    assert job.progress.fraction == status_fraction("shape", "shape", 9, 12)


@in_a_loop
async def test_reports_in_quick_succession_are_passed_on_once() -> None:
    parts = Parts()
    job = await recorded(
        parts, parts.add(running="shape"), *((("shape", step, 12)) for step in range(12))
    )
    assert job.progress is not None
    assert job.progress.step == 0


@in_a_loop
async def test_a_step_whose_job_has_ended_is_stopped_by_its_report() -> None:
    parts, retries = Parts(), Retries()
    active = parts.add(running="shape")
    report = ProgressReporter(parts.active_jobs, retries).for_step(active, "shape")
    report("retry", 0, 1)
    assert retries.count == 1
    parts.endings.cancel(active)
    with pytest.raises(StepCancelled):
        report("shape", 1, 12)


@in_a_loop
async def test_the_report_of_a_step_that_has_ended_changes_nothing() -> None:
    parts = Parts()
    active = parts.add(running="shape_export")
    assert (await recorded(parts, active, ("shape", 6, 12))).progress is None


@in_a_loop
async def test_a_step_that_took_too_long_stops_at_its_next_report_and_the_other_one_goes_on() -> (
    None
):
    parts = Parts()
    active = parts.add(running=("shape_export", "texture"))
    reporter = ProgressReporter(parts.active_jobs, NullObserver())
    reports = {step: reporter.for_step(active, step) for step in ("shape_export", "texture")}
    active.timed_out.add("shape_export")
    with pytest.raises(StepCancelled):
        reports["shape_export"]("clean", 0, 1)
    reports["texture"]("texture", 0, 1)
