"""What holds at any time, whatever has happened to the jobs of a world.

Does not know: what has happened.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.support.job_model.executor import pictures
from trellis2_server.inputs.images import digest_of
from trellis2_server.jobs.job import Status
from trellis2_server.jobs.uploads import Upload

if TYPE_CHECKING:
    from tests.support.job_model.world import World

#: What may wait or run at the same time for one job.
ALLOWED_STEPS: list[set[str]] = [
    set(), {"cutout"}, {"shape"}, {"shape_export"}, {"texture"}, {"texture_export"},
    {"shape_export", "texture"},
]  # fmt: skip
DEVICE_STEPS = frozenset({"shape", "texture"})


def check(world: World) -> None:
    """Check everything that must hold while nothing happens."""
    assert all(0 <= ends <= 1 for ends in world.ends.values())
    _check_jobs(world)
    _check_answers(world)
    _check_lookups(world)
    _check_decoders(world)
    _check_threads(world)
    _check_queue(world)


def _check_jobs(world: World) -> None:
    """Each unfinished job does something, and each of its steps has its input."""
    manager = world.manager
    for active in manager.active_jobs:
        job, steps = manager.registry[active.uid], set(active.steps)
        assert bool(steps) == (not job.status.is_finished)
        assert steps in ALLOWED_STEPS
        assert (manager.active_jobs.present_step(active) is None) == job.status.is_finished
        if "texture_export" in steps:
            assert active.data.field is not None
            assert job.shape_glb or job.shape_error
        if job.status is Status.SHAPE_PROCESSING:
            assert job.shape_glb is None
        if job.status is Status.TEXTURE_PROCESSING:
            assert job.shape_glb
            assert active.shape_done.done()


def _check_answers(world: World) -> None:
    """Whoever can be answered is, unless the answer is not saved yet."""
    if world.gates.places(-1, "save"):
        return
    for asked in world.asked:
        job = world.job(asked)
        if job is None:
            assert all(task.done() for task in asked.waiters)
            continue
        if job.status in {Status.ERROR, Status.CANCELLED} or job.textured_glb:
            assert all(waiter.done() for waiter in asked.waiters)
        if job.shape_glb:  # whatever becomes of the texture
            assert all(waiter.done() for waiter in asked.for_shape)
        elif job.shape_error:
            errors = [str(waiter.exception()) for waiter in asked.for_shape]
            assert errors == [str(job.shape_error)] * len(errors)


def _check_lookups(world: World) -> None:
    """Lookups are started when they can be, count while requests wait, and leave a thread."""
    manager = world.manager
    lookups, threads = manager.lookups, manager.threads
    assert not lookups._queue or not threads.lookup_has_room
    waiting = [
        request
        for request in world.requests
        if request.kind == "lookup" and not request.task.done()
    ]
    assert lookups.held_bytes == sum(len(pictures(request.seed)) for request in waiting)
    uploads = {
        Upload(request.owner, digest_of(pictures(request.seed)), remove_background=True)
        for request in waiting
    }
    assert uploads == set(lookups._by_upload)
    if not threads.hung:
        assert threads.lookups - 1 <= max(threads.cpu_workers - 1, 0)


def _check_decoders(world: World) -> None:
    """No decoder works for a job that has ended, or is counted that does not work."""
    decoders, gates = world.executor.decoders, world.gates
    assert len(decoders.pool._processes) <= world.sizes[1]
    working = gates.places(None, "decode_image", "read_mesh")
    assert sum(at not in decoders.pool._free for at in decoders.pool._processes) == len(working)
    registry = world.manager.registry
    jobs = [registry[active.uid] for active in world.manager.active_jobs if active.steps]
    wanted = {job.options.seed for job in jobs if not job.status.is_finished}
    wanted |= {request.seed for request in world.requests if not request.task.done()}
    assert {place.seed for place in working} <= wanted


def _check_threads(world: World) -> None:
    """What is counted as running is a call that runs."""
    threads = world.manager.threads
    pools = {pool.executor: pool for pool in (threads._device, threads._cpu, threads._lookup)}
    for executor, pool in pools.items():
        calls = [fiber for fiber in world.loop.fibers if fiber.executor is executor]
        assert pool.running == len(calls)
        assert pool.running <= pool.size + pool.spare
        assert pool.held.total() == pool.running - pool.hung
    timers = Counter(timer._callback.__name__ for timer in world.loop.timers())
    assert timers["_exceed"] + timers["_give_up"] <= len(world.loop.fibers)
    assert timers["_set"] <= len(world.manager.subscriptions)


def _check_queue(world: World) -> None:
    """No step waits that could run."""
    manager = world.manager
    if manager.availability.is_closing or manager.availability.fatal_error:
        return
    scheduler = manager.scheduler
    kinds = scheduler._startable_steps()
    assert scheduler._next_step(kinds) is None
    assert manager.export_calls.next_deadline is None
    is_device_promised = False  # to a step that is due earlier, and waits for a place
    for step in manager.queue:
        clients = manager.registry.clients(step.active.uid)
        needs_device = step.name in DEVICE_STEPS
        if needs_device and step.active.running and is_device_promised:
            continue
        is_device_promised = is_device_promised or needs_device
        if scheduler._has_room or scheduler._has_spare_room_for(clients):
            has_thread = needs_device or manager.threads.cpu_has_room_for(clients)
            assert not (has_thread and step.name in kinds)
            if needs_device and not manager.threads.device_is_busy:
                assert manager.lifecycle.is_resident
