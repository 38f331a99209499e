"""Estimated time until a status ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from tests.support.server import picture
from trellis2_server.jobs.estimates import StepDurations, seconds_left

if TYPE_CHECKING:
    from tests.support.engines import GatedEngine


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
