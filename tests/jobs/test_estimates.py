"""Estimated time until a status ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.managers import (
    Clock,
    begin,
    in_a_loop,
    options,
    submit,
    until,
    working,
)
from tests.support.parts import Parts
from tests.support.server import picture
from trellis2_server.jobs.estimates import Estimator, StepDurations, seconds_left

if TYPE_CHECKING:
    from tests.support.engines import GatedEngine
    from trellis2_server.jobs.steps import Step


@in_a_loop
async def test_the_eta_is_learned_from_earlier_jobs(engine: GatedEngine) -> None:
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
    actual_s=st.floats(1e-3, 1e4),
    steps=st.integers(1, 50),
)
def test_an_estimate_is_never_negative_and_its_error_only_shrinks(
    expected_s: float, actual_s: float, steps: int
) -> None:
    """At constant speed, whatever was expected before."""
    error = float("inf")
    for step in range(steps + 1):
        now = actual_s * step / steps
        left = seconds_left(expected_s, now, step / steps, now)
        assert left >= 0
        assert abs(left - (actual_s - now)) <= error + 1e-6
        error = abs(left - (actual_s - now))
        late = seconds_left(expected_s, now + actual_s, step / steps, now)
        assert 0 <= late <= left
    assert error == pytest.approx(0, abs=1e-6)


def test_durations_are_moving_means_by_kind_of_job() -> None:
    durations = StepDurations()
    durations.note("shape", options(), 10.0)
    assert durations.expected_s("shape", options()) == 10.0
    durations.note("shape", options(), 0.0)
    assert durations.expected_s("shape", options(7)) == pytest.approx(7.0)
    assert durations.expected_s("texture", options()) is None
    assert durations.expected_s("shape", options(pipeline_type="512")) is None


# ---- by itself ---------------------------------------------------------------------------------

#: What each step takes, seconds; sums tell which of them were added.
SECONDS: dict[Step, float] = {
    "cutout": 1.0, "shape": 10.0, "shape_export": 100.0, "texture": 1000.0,
    "texture_export": 10_000.0,
}  # fmt: skip


def estimator(
    parts: Parts, *, device_slots: int = 1, cpu_workers: int = 1, load_s: float = 0.0
) -> Estimator:
    threads: Any = SimpleNamespace(
        device_steps={"shape", "texture"}, device_slots=device_slots, cpu_workers=cpu_workers
    )
    lifecycle: Any = SimpleNamespace(seconds_left=load_s)
    estimator = Estimator(parts.active_jobs, threads, lifecycle)
    for step, seconds in SECONDS.items():
        estimator.durations.note(step, options(), seconds)
    return estimator


@pytest.mark.parametrize(
    ("waiting_for", "eta_s"),
    [
        ("cutout", 111.0 + 7.0),
        ("shape", 110.0 + 7.0),
        ("shape_export", 100.0),  # needs no engine
        ("texture", 7.0),  # the status is still that of the shape
    ],
)
@in_a_loop
async def test_a_status_takes_its_steps_and_where_it_needs_the_engine_loading_it(
    waiting_for: Step, eta_s: float
) -> None:
    parts = Parts()
    active = parts.add(waiting_for=waiting_for)
    found = estimator(parts, load_s=7.0).eta_s(active)
    assert found == (None if waiting_for == "texture" else eta_s)


@in_a_loop
async def test_a_step_that_runs_needs_no_engine_to_be_loaded_for_it() -> None:
    parts = Parts()
    active = parts.add(running="shape")
    found = estimator(parts, load_s=7.0)
    assert found.eta_s(active) == 110.0
    parts.clock.now = 4.0
    assert found.eta_s(active) == 106.0
    step = active.steps["shape"]
    step.fraction, step.progress_after_s = 0.5, 3.0
    assert found.eta_s(active) == 100.0 + 0.5 * 10.0 + 3.0 - 4.0


@in_a_loop
async def test_work_that_is_due_earlier_or_runs_is_waited_for() -> None:
    parts = Parts()
    own = parts.add(waiting_for="shape", deadline=5.0)
    found = estimator(parts)
    assert found.eta_s(own) == 110.0
    parts.add(waiting_for="shape", deadline=5.0)  # came later
    assert found.eta_s(own) == 110.0
    parts.add(waiting_for="shape", deadline=4.0)
    assert found.eta_s(own) == 110.0 + 100.0  # its export takes longer than the device
    parts.add(running="texture", deadline=9.0, texture_deadline=9.0)
    assert found.eta_s(own) == 110.0 + 100.0 + 10_000.0
    export = parts.add(waiting_for="shape_export", deadline=6.0)
    assert found.eta_s(export) == 100.0 + 3 * 100.0 + 10_000.0


@in_a_loop
async def test_more_threads_shorten_the_wait_of_what_needs_them() -> None:
    parts = Parts()
    shape, export = (
        parts.add(waiting_for=step, deadline=9.0) for step in ("shape", "shape_export")
    )
    for _ in range(4):
        parts.add(waiting_for="texture", texture_deadline=1.0)
    two = estimator(parts, device_slots=2, cpu_workers=4)
    # Four textures of 1000 s on two devices; their exports of 10,000 s on four threads.
    assert two.eta_s(shape) == 110.0 + max(2000.0, 10_000.0)
    assert two.eta_s(export) == 100.0 + 10_000.0
    many = estimator(parts, device_slots=1, cpu_workers=1000)
    assert many.eta_s(shape) == 110.0 + 4000.0
    assert many.eta_s(export) == 100.0 + 40.0


@in_a_loop
async def test_what_was_never_done_has_no_estimate_but_holds_nothing_up() -> None:
    parts = Parts()
    own = parts.add(waiting_for="shape", deadline=5.0)
    threads: Any = SimpleNamespace(device_steps={"shape"}, device_slots=1, cpu_workers=1)
    lifecycle: Any = SimpleNamespace(seconds_left=0.0)
    found = Estimator(parts.active_jobs, threads, lifecycle)
    assert found.eta_s(own) is None
    found.durations.note("shape", options(), 10.0)
    assert found.eta_s(own) is None
    found.durations.note("shape_export", options(), 100.0)
    parts.add(waiting_for="texture", texture_deadline=1.0)
    assert found.eta_s(own) == 110.0
    assert found.eta_s(parts.add()) is None
