"""Which step starts next, without threads: the scheduler with what a test says is free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.managers import in_a_loop
from tests.support.parts import Parts
from trellis2_server.jobs.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Collection

    from trellis2_server.jobs.queue import ActiveJob, JobStep
    from trellis2_server.jobs.steps import Step


class Threads:
    """What is free; a step that starts takes nothing, unless the test says so."""

    def __init__(self, max_steps: int) -> None:
        self.device_steps = frozenset({"shape", "texture"})
        self.max_steps = max_steps
        self.steps_running = 0
        self.device_has_room = True
        self.cpu_has_room = True
        self.idle_clients: set[str] = set()
        self.served_clients: set[str] | None = None
        self.is_stuck = False

    def cpu_has_room_for(self, clients: Collection[str]) -> bool:
        served = self.served_clients
        return self.cpu_has_room and (served is None or bool(served & set(clients)))

    def is_any_idle(self, clients: Collection[str]) -> bool:
        return bool(self.idle_clients & set(clients))

    def is_cpu_stuck(self) -> bool:
        return self.is_stuck


class Calls:
    """Export calls, of which the next is due then."""

    def __init__(self) -> None:
        self.can_start: Any = None
        self.next_deadline: float | None = None
        self.waiting = self.running = self.unfinished = 0
        self.started = 0

    def start_next(self) -> None:
        self.started += 1
        self.next_deadline = None


class Maintenance:
    def __init__(self) -> None:
        self.is_engine_ready = True
        self.is_running = self.is_reloading = self.is_due = False
        self.admits = True
        self.asked: list[bool] = []
        self.idle: list[str] = []

    def admit(self, active: ActiveJob, step: Step) -> bool:
        del active, step
        return self.admits

    def reload_if_due(self, *, has_jobs: bool) -> bool:
        self.asked.append(has_jobs)
        return self.is_due

    def schedule_idle_unload(self) -> None:
        self.idle.append("schedule")

    def cancel_idle_unload(self) -> None:
        self.idle.append("cancel")


class Dispatch:
    """A scheduler that notes what it starts."""

    def __init__(self, max_steps: int = 2) -> None:
        self.parts, self.threads = Parts(), Threads(max_steps)
        self.calls, self.maintenance = Calls(), Maintenance()
        self.started: list[JobStep] = []
        runner: Any = self
        threads: Any = self.threads
        calls: Any = self.calls
        maintenance: Any = self.maintenance
        self.scheduler = Scheduler(
            self.parts.queue, self.parts.active_jobs, threads, runner, calls, maintenance
        )
        self.rooms = 0
        self.scheduler.on_room = self._note_room

    def _note_room(self) -> None:
        self.rooms += 1

    def start(self, step: JobStep) -> None:
        step.started_at = self.parts.clock()
        self.started.append(step)
        self.threads.steps_running += 1

    def add(self, *, client: str = "", **state: Any) -> ActiveJob:
        active = self.parts.add(**state)
        self.threads.steps_running += len(active.running)
        if client:
            self.parts.registry.add_client(active.uid, client)
        return active

    def next(self) -> ActiveJob | None:
        """The job of which a step starts next; None: none can."""
        before = len(self.started)
        self.scheduler._start_next()
        return self.started[-1].active if len(self.started) > before else None


@in_a_loop
async def test_the_earliest_step_that_can_start_does_and_all_of_them_in_turn() -> None:
    stage = Dispatch(max_steps=9)
    late = stage.add(waiting_for="shape", deadline=9.0)
    early = stage.add(waiting_for="texture", texture_deadline=1.0)
    middle = stage.add(waiting_for="shape_export", deadline=5.0)
    stage.scheduler.wake()
    assert [step.active for step in stage.started] == [early, middle, late]
    assert len(stage.parts.queue) == 0
    assert stage.rooms == 1


@pytest.mark.parametrize(
    ("device", "is_ready", "cpu", "startable"),
    [
        (True, True, True, {"cutout", "shape", "shape_export", "texture", "texture_export"}),
        (False, True, True, {"cutout", "shape_export", "texture_export"}),
        (True, False, True, {"cutout", "shape_export", "texture_export"}),
        (True, True, False, {"shape", "texture"}),
        (False, True, False, set()),
    ],
)
@in_a_loop
async def test_a_step_needs_its_kind_of_thread(
    device: bool,  # noqa: FBT001 - a parameter of the test, like the next ones
    is_ready: bool,  # noqa: FBT001
    cpu: bool,  # noqa: FBT001
    startable: set[Step],
) -> None:
    stage = Dispatch()
    stage.threads.device_has_room, stage.threads.cpu_has_room = device, cpu
    stage.maintenance.is_engine_ready = is_ready
    assert stage.scheduler._startable_steps() == startable


@in_a_loop
async def test_no_step_starts_while_results_of_its_kind_wait() -> None:
    stage = Dispatch(max_steps=2)
    stage.add(waiting_for="shape")
    assert "cutout" in stage.scheduler._startable_steps()
    stage.add(waiting_for="shape")
    assert "cutout" not in stage.scheduler._startable_steps()
    stage.add(waiting_for="shape_export")
    assert {"shape", "texture"} <= stage.scheduler._startable_steps()
    stage.add(waiting_for="texture_export")
    assert stage.scheduler._startable_steps() == {"shape_export", "texture_export"}
    other = Dispatch(max_steps=2)
    other.add(waiting_for="texture_export")
    other.add(running="shape_export").data.field = "field"  # it waits for that
    assert other.scheduler._startable_steps().isdisjoint({"shape", "texture"})


@in_a_loop
async def test_the_limit_is_of_jobs_and_a_second_step_takes_no_place() -> None:
    stage = Dispatch(max_steps=1)
    both = stage.add(running="shape_export", waiting_for="texture", texture_deadline=60.0)
    other = stage.add(waiting_for="cutout", deadline=1.0)
    assert stage.next() is both
    assert stage.next() is None
    stage.threads.steps_running = 0
    both.steps.clear()
    assert stage.next() is other


@in_a_loop
async def test_a_second_step_does_not_take_the_device_from_a_shape_that_is_due_earlier() -> None:
    for deadline, expected in ((1.0, None), (99.0, "both")):
        stage = Dispatch(max_steps=1)
        both = stage.add(running="shape_export", waiting_for="texture", texture_deadline=60.0)
        stage.add(waiting_for="shape", deadline=deadline)
        assert stage.next() is (both if expected else None)
    other = Dispatch(max_steps=1)
    both = other.add(running="shape_export", waiting_for="texture", texture_deadline=60.0)
    other.add(waiting_for="cutout", deadline=1.0)  # needs no device
    assert other.next() is both


@in_a_loop
async def test_beyond_the_limit_only_clients_get_a_place_for_whom_nothing_is_done() -> None:
    stage = Dispatch(max_steps=1)
    stage.add(running="cutout", client="greedy")
    stage.add(waiting_for="cutout", client="greedy", deadline=1.0)
    other = stage.add(waiting_for="cutout", client="other", deadline=2.0)
    assert stage.next() is None
    stage.threads.idle_clients = {"other"}
    assert stage.next() is other
    stage.threads.idle_clients = {"third"}
    stage.add(waiting_for="cutout", client="third", deadline=3.0)
    assert stage.next() is not None  # the running ones only read what was sent
    made = Dispatch(max_steps=1)
    made.add(running="shape", client="greedy")
    made.threads.idle_clients = {"other"}
    made.add(waiting_for="cutout", client="other")
    assert made.next() is None  # it holds what the engine makes


@in_a_loop
async def test_a_step_waits_while_the_pool_has_no_place_for_its_client() -> None:
    stage = Dispatch(max_steps=9)
    stage.threads.served_clients = {"other"}
    stage.add(waiting_for="cutout", client="greedy", deadline=1.0)
    other = stage.add(waiting_for="cutout", client="other", deadline=2.0)
    assert stage.next() is other
    assert stage.next() is None


@pytest.mark.parametrize(("due", "is_first"), [(0.5, True), (1.0, True), (1.5, False)])
@in_a_loop
async def test_an_export_call_starts_before_a_step_that_is_not_due_earlier(
    due: float, *, is_first: bool
) -> None:
    stage = Dispatch()
    active = stage.add(waiting_for="shape", deadline=1.0)
    stage.calls.next_deadline = due
    assert stage.next() is (None if is_first else active)
    assert stage.calls.started == is_first
    stage.scheduler.wake()
    assert (len(stage.started), stage.calls.started) == (1, 1)


@in_a_loop
async def test_a_call_needs_a_place_of_the_pool_and_of_the_limit() -> None:
    stage = Dispatch(max_steps=1)
    can_start = stage.calls.can_start
    assert can_start({"a"})
    stage.threads.cpu_has_room = False
    assert not can_start({"a"})
    stage.threads.cpu_has_room = True
    stage.add(running="shape")
    assert not can_start({"a"})
    stage.threads.idle_clients = {"a"}
    assert not can_start({"a"})
    exports = Dispatch(max_steps=1)
    exports.threads.steps_running = exports.calls.running = 1
    assert not exports.calls.can_start({"a"})
    exports.threads.idle_clients = {"a"}
    assert exports.calls.can_start({"a"})


@in_a_loop
async def test_jobs_and_calls_are_counted_together() -> None:
    stage = Dispatch()
    stage.add(waiting_for="shape")
    stage.add(running="shape")
    stage.calls.waiting, stage.calls.unfinished = 3, 5
    assert (stage.scheduler.length, stage.scheduler.waiting) == (7, 4)


@in_a_loop
async def test_a_stuck_pool_matters_only_while_something_waits_for_it() -> None:
    stage = Dispatch()
    stage.threads.is_stuck = True
    stage.add(waiting_for="shape")
    assert not stage.scheduler.is_stuck
    stage.calls.waiting = 1
    assert stage.scheduler.is_stuck
    stage.calls.waiting = 0
    stage.add(waiting_for="cutout")
    assert stage.scheduler.is_stuck
    stage.threads.is_stuck = False
    assert not stage.scheduler.is_stuck


@in_a_loop
async def test_a_position_is_that_of_the_step_that_the_status_waits_for() -> None:
    stage = Dispatch()
    first = stage.add(waiting_for="shape", deadline=1.0)
    second = stage.add(waiting_for="shape", deadline=2.0)
    runs = stage.add(running="shape_export", waiting_for="texture")
    found = [stage.scheduler.position(each) for each in (first, second, runs, stage.add())]
    assert found == [2, 3, None, None]  # after the texture, which is due now


@in_a_loop
async def test_a_step_that_cannot_get_its_engine_is_not_queued() -> None:
    stage = Dispatch()
    active = stage.add()
    stage.maintenance.admits = False
    stage.scheduler.enqueue(active, "shape", lambda: None)
    assert (active.steps, len(stage.parts.queue)) == ({}, 0)
    stage.maintenance.admits = True
    stage.scheduler.enqueue(active, "shape", lambda: None)
    assert [step.name for step in stage.started] == ["shape"]


@pytest.mark.parametrize("step", ["shape", "cutout"])
@in_a_loop
async def test_a_step_that_waits_for_the_engine_to_load_says_so(step: Step) -> None:
    stage = Dispatch()
    stage.maintenance.is_reloading, stage.maintenance.is_engine_ready = True, False
    active = stage.add()
    stage.scheduler.enqueue(active, step, lambda: None)
    progress = stage.parts.active_jobs.record(active).progress
    assert (progress is not None and progress.stage == "loading") is (step == "shape")
    due = Dispatch()
    due.maintenance.is_due, due.maintenance.is_engine_ready = True, False
    waiting = due.add(waiting_for=step)
    due.scheduler.wake()
    shown = due.parts.active_jobs.record(waiting).progress
    assert (shown is not None and shown.stage == "loading") is (step == "shape")
    assert due.maintenance.asked == [True]
    nothing = Dispatch()
    nothing.add()
    nothing.scheduler.wake()
    assert nothing.maintenance.asked == [False]


@pytest.mark.parametrize("what", ["step", "queue", "call", "maintenance"])
@in_a_loop
async def test_whatever_runs_or_waits_keeps_the_server_from_being_idle(what: str) -> None:
    stage = Dispatch()
    assert stage.scheduler.is_idle.is_set()
    stage.threads.cpu_has_room = stage.threads.device_has_room = False
    queued = stage.add()
    if what == "step":
        stage.threads.steps_running = 1
    elif what == "queue":
        stage.parts.queue.add(queued.add_step("shape", lambda: None))
    elif what == "call":
        stage.calls.waiting = 1
    else:
        stage.maintenance.is_running = True
    stage.scheduler.update_idle()
    assert not stage.scheduler.is_idle.is_set()
    assert stage.maintenance.idle == ["cancel"]
    stage.threads.steps_running = stage.calls.waiting = 0
    stage.maintenance.is_running = False
    stage.parts.queue.remove(*queued.steps.values())
    for _ in range(2):
        stage.scheduler.update_idle()
    assert stage.scheduler.is_idle.is_set()
    assert stage.maintenance.idle == ["cancel", "schedule"]
