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


@in_a_loop
async def test_a_job_is_being_textured_from_the_first_step_to_the_export() -> None:
    parts = Parts()
    assert not parts.add(waiting_for="shape_export").has_texture_to_come
    assert parts.add(running="texture").has_texture_to_come
    assert parts.add(waiting_for="texture_export").has_texture_to_come
    held = parts.add(running="shape_export")
    held.data.field = "field"
    assert held.has_texture_to_come


@in_a_loop
async def test_only_a_step_that_decodes_what_was_sent_reads_an_upload() -> None:
    parts = Parts()
    given, made = parts.add(waiting_for="shape_export"), parts.add(waiting_for="shape_export")
    made.data.shape = "shape"
    assert given.steps["shape_export"].reads_upload
    assert not made.steps["shape_export"].reads_upload
    assert parts.add(running="cutout").steps["cutout"].reads_upload
    assert not parts.add(running="shape").steps["shape"].reads_upload


@in_a_loop
async def test_a_job_that_has_ended_holds_no_data_but_knows_what_still_runs() -> None:
    parts = Parts()
    active = parts.add(running="shape_export", waiting_for="texture", mesh=b"mesh")
    active.data.shape = "shape"
    waiting = active.steps["texture"]
    held = [b"files"]
    waiting.call = held.pop
    active.release()
    assert active.steps.keys() == {"shape_export"}
    assert (active.mesh, active.data.shape) == (None, None)
    assert waiting.call() is None
    assert held == [b"files"]


@in_a_loop
async def test_steps_of_the_same_time_keep_their_order_when_others_leave() -> None:
    parts = Parts()
    jobs = [parts.add(waiting_for="shape", deadline=1.0) for _ in range(4)]
    steps = [job.steps["shape"] for job in jobs]
    parts.queue.remove(steps[0], steps[2])
    assert list(parts.queue) == [steps[1], steps[3]]
    assert parts.moved == [jobs[1].uid, jobs[3].uid]
    assert steps[1].is_running is False
    steps[1].started_at = 0.0
    assert steps[1].is_running
