"""The order of the steps that wait."""

from __future__ import annotations

from tests.support.managers import in_a_loop
from tests.support.parts import Parts


@in_a_loop
async def test_the_earliest_deadline_is_first_then_the_first_to_come() -> None:
    parts = Parts()
    late, first, second = (
        parts.add(waiting_for="shape", deadline=deadline) for deadline in (9.0, 1.0, 1.0)
    )
    assert [step.active for step in parts.queue] == [first, second, late]
    steps = [parts.waiting(active) for active in (late, first, second)]
    assert [parts.queue.position(step) for step in steps] == [3, 1, 2]
    parts.queue.remove(steps[1])
    assert parts.moved == [second.uid, late.uid]
    assert parts.queue.position(steps[1]) is None
    parts.queue.remove(steps[1])
    assert len(parts.queue) == 2


@in_a_loop
async def test_the_steps_that_need_the_device_are_known() -> None:
    parts = Parts()
    shape = parts.add(waiting_for="shape")
    both = parts.add(waiting_for=("shape_export", "texture"), texture_deadline=60.0)
    parts.add(waiting_for="cutout")
    parts.add(waiting_for="texture_export")
    assert parts.queue.waiting_for_device() == [shape.steps["shape"], both.steps["texture"]]


@in_a_loop
async def test_the_two_steps_of_a_job_are_queued_by_deadlines_of_their_own() -> None:
    parts = Parts()
    both = parts.add(waiting_for=("texture", "shape_export"), deadline=1.0, texture_deadline=61.0)
    other = parts.add(waiting_for="shape", deadline=30.0)
    assert [(step.active, step.name) for step in parts.queue] == [
        (both, "shape_export"), (other, "shape"), (both, "texture"),
    ]  # fmt: skip
    parts.queue.remove(*both.steps.values())
    assert parts.moved == [other.uid]


@in_a_loop
async def test_a_job_waits_only_while_none_of_its_steps_runs() -> None:
    parts = Parts()
    parts.add()
    waits = parts.add(waiting_for=("shape_export", "texture"))
    runs = parts.add(running="texture", waiting_for="shape_export")
    assert (waits.is_waiting, waits.running) == (True, ())
    assert (runs.is_waiting, runs.running) == (False, ("texture",))
    assert runs.waits_for("shape_export")
    assert not runs.waits_for("texture")
    assert (parts.active_jobs.waiting, parts.active_jobs.unfinished) == (1, 2)
    both = parts.add(running=("shape_export", "texture"))
    assert (parts.active_jobs.unfinished, parts.active_jobs.second_steps) == (3, 1)
    both.data.field = "held"
    assert parts.active_jobs.held_fields == 1
