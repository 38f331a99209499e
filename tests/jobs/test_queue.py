"""The order of the jobs that wait."""

from __future__ import annotations

import pytest

from tests.support.managers import in_a_loop
from tests.support.parts import Parts


@in_a_loop
async def test_the_earliest_deadline_is_first_then_the_first_to_come() -> None:
    parts = Parts()
    late, first, second = (
        parts.add(waiting_for="shape", deadline=deadline) for deadline in (9.0, 1.0, 1.0)
    )
    assert list(parts.queue) == [first, second, late]
    assert [parts.queue.position(active) for active in (late, first, second)] == [3, 1, 2]
    parts.queue.remove(first)
    assert parts.moved == [second.uid, late.uid]
    assert parts.queue.position(first) is None
    parts.queue.remove(first)
    assert len(parts.queue) == 2


@in_a_loop
async def test_the_jobs_that_need_the_device_are_known() -> None:
    parts = Parts()
    shape, texture = parts.add(waiting_for="shape"), parts.add(waiting_for="texture")
    parts.add(waiting_for="cutout")
    parts.add(waiting_for="texture_export")
    assert parts.queue.waiting_for_device() == [shape, texture]


@in_a_loop
async def test_a_step_starts_only_where_one_waits() -> None:
    parts = Parts()
    active = parts.add(waiting_for="shape", call=lambda: 7)
    step, call = active.start(3.0)
    assert (step, call(), active.running, active.step_started_at) == ("shape", 7, "shape", 3.0)
    assert active.waiting_for is None
    with pytest.raises(RuntimeError):
        active.start(4.0)
