"""Everything that can happen to a job, as functions of its world.

Does not know: in which states it can happen, what must become of the job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.job_model.executor import DECODER_ENDS
from tests.support.job_model.world import ABANDONED_S, GRACE_S, MAX_AGE_S, TIMEOUT_S, World
from trellis2_server.errors import EngineError, OutboundError, QueueFullError, ServerError
from trellis2_server.jobs.job import Caller
from trellis2_server.jobs.manager import ARCHIVE_GRACE_S
from trellis2_server.jobs.time_limits import STOP_GRACE_S
from trellis2_server.storage.write_queue import STALL_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.job_model.clients import Asked

OWN, OTHERS, STRANGER = (Caller(owner, client) for owner, client in ("aa", "ab", "bc"))


def another(asked: Asked) -> Caller:
    """Another client with the same key."""
    return Caller(asked.caller.owner, "d")


#: Seeds of jobs that come later.
LATER = range(50, 60)


# ---- a step fails ------------------------------------------------------------------------


def let_go(outcome: Callable[[], object], step: int) -> Callable[[World, Asked], None]:
    def happen(world: World, asked: Asked) -> None:
        places = world.gates.places(asked.seed)
        world.gates.let_go(places[step % len(places)], outcome())
        world.loop.settle()

    return happen


# ---- decoders ----------------------------------------------------------------------------


def dies_twice(world: World, asked: Asked) -> None:
    for _ in range(2):
        # A second decoder may start later, or never: see `is_started_late`.
        for place in world.gates.places(asked.seed, "decode_image", "read_mesh")[:1]:
            world.gates.let_go(place, DECODER_ENDS["dies"]())
            world.loop.settle()


def is_killed(world: World, asked: Asked) -> None:
    """Nothing of the server tells it to end, whether or not it works."""
    del asked
    for process in world.executor.decoders.processes:
        process.stop()
    world.loop.settle()


def cannot_be_started(world: World, asked: Asked) -> None:
    world.executor.decoders.failed_starts = 100
    is_killed(world, asked)
    world.executor.decoders.failed_starts = 0


def is_started_late(world: World, asked: Asked) -> None:
    world.executor.decoders.failed_starts = 3
    is_killed(world, asked)


def decodes_too_long(world: World, asked: Asked) -> None:
    del asked
    world.loop.pass_time(31)


# ---- time --------------------------------------------------------------------------------


def takes_too_long(world: World, asked: Asked) -> None:
    del asked
    world.loop.pass_time(TIMEOUT_S + 1)


def hangs(world: World, asked: Asked) -> None:
    del asked
    world.loop.pass_time(TIMEOUT_S + STOP_GRACE_S + 1)
    world.loop.pass_time(2 * TIMEOUT_S + 120)


def is_abandoned(world: World, asked: Asked) -> None:
    requests_leave(world, asked)
    world.loop.pass_time(ABANDONED_S + 61)


def picture_fails(world: World, asked: Asked) -> None:
    del asked
    world.painter.finish(OutboundError("no"))
    world.loop.settle()


def ages_out(world: World, asked: Asked) -> None:
    requests_leave(world, asked)
    world.gates.open_all()
    world.load_models()
    world.loop.pass_time(MAX_AGE_S + 62)
    assert world.job(asked) is None


def is_asked_for_before_it_ages_out(world: World, asked: Asked) -> None:
    """Whoever has just got another uid of it finds it: it ages from then on."""
    world.gates.open_all()
    world.load_models()
    world.loop.pass_time(MAX_AGE_S - 70)
    assert world.job(asked) is not None
    before = world.submit(asked.seed)
    alias = world.send(before)
    world.loop.pass_time(MAX_AGE_S - 70)
    assert alias is not None
    job = world.loop.do(world.service.get_job(alias, asked.caller))
    assert job.status.is_finished
    world.watch(before)
    assert "event: end" in before.streams[-1][0][-1]
    # The same with another file of that picture, which is found to be the same job.
    world.loop.pass_time(MAX_AGE_S - 70)
    merged = world.submit(asked.seed, variant="other")
    world.loop.pass_time(MAX_AGE_S - 70)
    assert world.job(merged) is not None


# ---- requests ----------------------------------------------------------------------------


def requests_leave(world: World, asked: Asked) -> None:
    tasks = [*asked.waiters, *(task for _, task in asked.streams)]
    for task in tasks:
        if not task.done():
            world.leave(task)
    for request in world.requests:
        if not request.task.done() and request.seed == asked.seed:
            world.leave(request.task)


def one_request_leaves(world: World, asked: Asked) -> None:
    """Others wait for the same job, its texture, its exports and its picture."""
    again = world.submit(asked.seed, caller=asked.caller)
    world.look_up(asked.seed, asked.caller)
    for size_px in (512, 512):
        world.export_again(asked, size_px)
        world.convert(asked, "obj")
        world.look_up(asked.seed, asked.caller)
    leaving = [*asked.waiters[:2], *(task for _, task in again.streams)]
    leaving += [request.task for request in world.requests if request.seed == asked.seed][-3:]
    for task in leaving:
        if not task.done():
            world.leave(task)


def is_deleted(world: World, asked: Asked) -> None:
    world.delete(asked)


def is_deleted_by_one_of_two(world: World, asked: Asked) -> None:
    world.submit(asked.seed, caller=another(asked))
    world.delete(asked, another(asked))


def is_deleted_by_a_stranger(world: World, asked: Asked) -> None:
    world.delete(asked, Caller("nobody", asked.caller.client))
    error = world.requests[-1].task.exception()
    assert error is not None
    assert "no such job" in str(error)


def is_requested_again(world: World, asked: Asked) -> None:
    world.submit(asked.seed, caller=another(asked))


def is_merged(world: World, asked: Asked) -> None:
    """Another file of the same picture: found to be the same when it is cut out."""
    world.submit(asked.seed, variant="other", caller=another(asked))


def texture_is_requested(world: World, asked: Asked) -> None:
    world.want_texture(asked)


def shape_is_requested(world: World, asked: Asked) -> None:
    world.submit(asked.seed, texture=False, caller=another(asked))


def queue_is_full(world: World, asked: Asked) -> None:
    del asked
    with_room = [seed for seed in LATER if is_taken(world, seed)]
    assert with_room != list(LATER)
    # A lookup shares the cut-out of an active job; one of another picture needs a place.
    world.look_up(LATER[-1] + 1)
    assert isinstance(world.requests[-1].task.exception(), QueueFullError)


def is_taken(world: World, seed: int) -> bool:
    try:
        world.submit(seed)
    except QueueFullError:
        return False
    return True


def is_looked_up(world: World, asked: Asked) -> None:
    for caller in (asked.caller, another(asked)):
        world.look_up(asked.seed, caller)
    world.look_up(LATER[0])
    world.leave(world.requests[-1].task)


def is_exported_again(world: World, asked: Asked) -> None:
    """One client may have two exports; others of the same are shared where they are conversions."""
    for size_px in (512, 1024, 2048):
        world.export_again(asked, size_px)
    world.convert(asked, "ply")
    for _ in range(2):
        world.convert(asked, "stl", is_delivery=True)


def is_exported_and_deleted(world: World, asked: Asked) -> None:
    is_exported_again(world, asked)
    is_deleted(world, asked)


def exporting_leaves(world: World, asked: Asked) -> None:
    is_exported_again(world, asked)
    for request in world.requests:
        if not request.task.done():
            world.leave(request.task)


# ---- the server --------------------------------------------------------------------------


def shuts_down(world: World, asked: Asked) -> None:
    del asked
    world.shut_down()
    error: ServerError | None = None
    try:
        world.submit(LATER[0])
    except ServerError as refused:
        error = refused
    assert "shutting down" in str(error)


def shuts_down_over_the_grace(world: World, asked: Asked) -> None:
    del asked
    world.shut_down()
    world.loop.pass_time(GRACE_S + ARCHIVE_GRACE_S + 1)
    world.check_answers()


def shuts_down_while_the_disk_hangs(world: World, asked: Asked) -> None:
    """Whoever waits until something is saved waits for no longer than the shutdown."""
    assert world.gates.opened is not None
    world.gates.opened.discard("save")
    for _ in range(2):
        for place in world.gates.places(asked.seed)[:1]:
            world.gates.let_go(place)
            world.loop.settle()
    shuts_down_over_the_grace(world, asked)


def is_closed_and_opened(world: World, asked: Asked) -> None:
    del asked
    world.reopen()


def is_killed_and_opened(world: World, asked: Asked) -> None:
    del asked
    world.kill()


def is_killed_while_the_disk_hangs(world: World, asked: Asked) -> None:
    """What the job has done since is not saved, and nobody was told of it."""
    assert world.gates.opened is not None
    world.gates.opened.discard("save")
    for place in world.gates.places(asked.seed)[:1]:
        world.gates.let_go(place)
        world.loop.settle()
    world.kill()


def breaks_elsewhere(world: World, asked: Asked) -> None:
    del asked
    world.run(lambda: world.manager.endings.fail_permanently("device lost"))


def breaks_and_waits(world: World, asked: Asked) -> None:
    """After a fatal error, what hangs ends with the grace."""
    was_open = world.is_open
    breaks_elsewhere(world, asked)
    world.loop.pass_time(GRACE_S + 1)
    assert not was_open or world.manager.is_drained.is_set()
    world.shut_down()  # as the server does then
    world.loop.pass_time(ARCHIVE_GRACE_S + 1)
    world.check_answers()


def engine_is_due(world: World, asked: Asked) -> None:
    del asked
    world.manager.lifecycle._has_grown = True
    world.run(world.manager.scheduler.wake)


def engine_cannot_be_loaded(world: World, asked: Asked) -> None:
    if world.gates.opened is not None:
        world.gates.opened.discard("load")
    engine_is_due(world, asked)
    for place in world.gates.places(-1, "load"):
        world.gates.let_go(place, EngineError("no weights"))
    world.loop.settle()


# ---- keys --------------------------------------------------------------------------------


def loses_its_key(world: World, asked: Asked) -> None:
    """Its streams end with the next event or heartbeat; the job itself goes on."""
    world.reload_keys(*({"a", "b", "c"} - {asked.caller.owner}))
    world.loop.pass_time(16)
    # One that waits for a disk sends nothing either.
    is_saved = not world.gates.places(-1, "save")
    assert not is_saved or all(task.done() for _, task in asked.streams)
    world.reload_keys("a", "b")


def gets_its_key_back(world: World, asked: Asked) -> None:
    world.reload_keys("c")
    world.reload_keys("a", "b")
    job = world.job(asked)
    assert job is None or world.loop.do(world.service.get_job(job.uid, asked.caller)) is job


# ---- the disk ----------------------------------------------------------------------------


def disk_is_full(world: World, asked: Asked) -> None:
    """Everything goes on in memory, and is written when there is room again."""
    del asked
    world.disk.is_full = True
    world.gates.open_all()
    world.load_models()
    world.loop.settle()
    world.disk.is_full = False
    world.loop.pass_time(61)
    world.kill()


def disk_hangs(world: World, asked: Asked) -> None:
    """Nobody waits longer for it than `STALL_S`."""
    assert world.gates.opened is not None
    world.gates.opened.discard("save")
    while places := [place for place in world.gates.places(asked.seed) if place.step != "save"]:
        world.gates.let_go(places[0])
        world.loop.settle()
    world.loop.pass_time(STALL_S + 1)


def files_are_lost(world: World, asked: Asked) -> None:
    job = world.job(asked)
    assert job is not None
    world.disk.lost.update(file for file in world.disk.files if file.uid == job.uid)
    world.export_again(asked, 512)
    world.convert(asked, "ply")
    world.convert(asked, "stl")


def makes_room(world: World, asked: Asked) -> None:
    world.manager.results._max_bytes = 1
    world.gates.open_all()
    world.load_models()
    world.submit(LATER[0])
    job = world.job(asked)
    assert job is None or not job.status.is_finished or asked.uid not in world.manager.registry
