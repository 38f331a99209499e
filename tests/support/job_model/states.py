"""The states of a job: how each is reached, and how it is recognized.

Does not know: faults.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.job_model.clients import FIRST_MESH_SEED, Asked

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.job_model.world import World
    from trellis2_server.jobs.queue import JobStep

#: Seeds of the job whose state it is, of its twin with a mesh, and of the jobs in its way.
SUBJECT, GIVEN, OTHER, LAST = 1, FIRST_MESH_SEED + 1, 2, 3


def state_of(world: World, asked: Asked) -> str:
    """Return the state of a job, and of what is made of it when it is finished."""
    manager, job = world.manager, world.job(asked)
    if job is None:
        return "removed"
    active = manager.active_jobs.get(job.uid)
    if job.status.is_finished:
        calls = [
            f"{request.kind} {_request_state(world, request.seed)}"
            for request in world.requests
            if request.seed == asked.seed
            and not request.task.done()
            and request.kind in {"export", "convert"}
        ]
        kind = job.status.value if active is None else "completed without texture"
        return ", ".join([kind, *calls[:1]])
    assert active is not None
    parts = [_step_state(world, step) for _, step in sorted(active.steps.items())]
    if active.data.field is not None and "shape_export" in active.steps:
        parts.append("texture made")
    if active.texture_error is not None:
        parts.append("texture failed")
    if job.shape_error is not None:
        parts.append("shape_export failed")
    kind = "mesh: " if job.options.mesh else ""
    return kind + ", ".join(parts)


def _step_state(world: World, step: JobStep) -> str:
    if step.is_running:
        task = {"cutout": "decode_image"}.get(step.name, step.name)
        seed = world.manager.active_jobs.record(step.active).options.seed
        is_decoding = step.reads_upload and not world.gates.places(seed, task, "read_mesh")
        return f"{step.name} waits for a decoder" if is_decoding else f"{step.name} runs"
    if step not in list(world.manager.queue):
        is_to_be_made = step.active.picture_task is not None
        return f"{step.name} waits for a {'picture' if is_to_be_made else 'model'}"
    is_waiting_for_engine = (
        step.name in {"shape", "texture"} and not world.manager.lifecycle.is_resident
    )
    return f"{step.name} waits" + (" for the engine" if is_waiting_for_engine else "")


def _request_state(world: World, seed: int) -> str:
    return "runs" if world.gates.places(seed, "export_again", "convert") else "waits"


# ---- how each is reached -----------------------------------------------------------------

CUTOUT, SHAPE, SHAPE_EXPORT, TEXTURE, TEXTURE_EXPORT = (
    "decode_image", "shape", "shape_export", "texture", "texture_export",
)  # fmt: skip


def _reach(*steps: str, texture: bool = True) -> Callable[[World], Asked]:
    """The job alone, after these steps."""

    def reach(world: World) -> Asked:
        asked = world.submit(SUBJECT, texture=texture)
        for step in steps:
            world.let_go(SUBJECT, step)
        return asked

    return reach


def _cutout_waits(world: World) -> Asked:
    world.submit(OTHER)
    world.submit(LAST)
    return world.submit(SUBJECT)


def _cutout_waits_for_decoder(world: World) -> Asked:
    world.submit(OTHER)
    return world.submit(SUBJECT)


def _model_loads(world: World) -> Asked:
    asked = world.submit(SUBJECT)
    world.let_go(SUBJECT, CUTOUT, outcome="pending")
    return asked


def _picture_is_made(world: World) -> Asked:
    return world.submit(SUBJECT, has_text=True)


def _picture_of_a_mesh_is_made(world: World) -> Asked:
    return world.submit(GIVEN, has_text=True)


def _shape_waits(world: World) -> Asked:
    world.submit(OTHER)
    world.let_go(OTHER, CUTOUT)
    return _reach(CUTOUT)(world)


def _engine_is_gone(world: World) -> Asked:
    world.loop.pass_time(400)  # until it is unloaded
    assert not world.manager.lifecycle.is_resident
    assert world.gates.opened is not None
    world.gates.opened.discard("load")
    return _reach(CUTOUT)(world)


def _shape_export_waits(*, texture: bool) -> Callable[[World], Asked]:
    """Two cut-outs take the two threads while the shape is made."""

    def reach(world: World) -> Asked:
        asked = _reach(CUTOUT, texture=texture)(world)
        world.submit(OTHER)
        world.submit(LAST)
        world.let_go(SUBJECT, SHAPE)
        return asked

    return reach


def _texture_waits(world: World) -> Asked:
    """Another job's shape is due before its texture."""
    asked = _reach(CUTOUT)(world)
    world.submit(OTHER)
    world.let_go(OTHER, CUTOUT)
    world.let_go(SUBJECT, SHAPE)
    return asked


def _texture_waits_alone(world: World) -> Asked:
    asked = _texture_waits(world)
    world.let_go(SUBJECT, SHAPE_EXPORT)
    return asked


def _texture_failed(world: World) -> Asked:
    from trellis2_server.errors import EngineError

    asked = _reach(CUTOUT, SHAPE)(world)
    world.let_go(SUBJECT, TEXTURE, outcome=EngineError("no"))
    return asked


def _shape_export_failed(*steps: str) -> Callable[[World], Asked]:
    from trellis2_server.errors import EngineError

    def reach(world: World) -> Asked:
        asked = _reach(CUTOUT, SHAPE)(world)
        world.let_go(SUBJECT, SHAPE_EXPORT, outcome=EngineError("no"))
        for step in steps:
            world.let_go(SUBJECT, step)
        return asked

    return reach


def _texture_export_waits(world: World) -> Asked:
    asked = _reach(CUTOUT, SHAPE, SHAPE_EXPORT)(world)
    world.submit(OTHER)
    world.submit(LAST)
    world.let_go(SUBJECT, TEXTURE)
    return asked


def _given(*steps: str) -> Callable[[World], Asked]:
    def reach(world: World) -> Asked:
        asked = world.submit(GIVEN)
        for step in steps:
            world.let_go(GIVEN, step)
        return asked

    return reach


def _ended(outcome: str) -> Callable[[World], Asked]:
    from trellis2_server.errors import EngineError

    def reach(world: World) -> Asked:
        asked = _reach(CUTOUT)(world)
        if outcome == "error":
            world.let_go(SUBJECT, SHAPE, outcome=EngineError("no"))
        else:
            world.delete(asked)
            world.let_go(SUBJECT, SHAPE)
        return asked

    return reach


_ALL = (CUTOUT, SHAPE, SHAPE_EXPORT, TEXTURE, TEXTURE_EXPORT)


def _requested(kind: str, *, waits: bool) -> Callable[[World], Asked]:
    """An export or conversion of the finished job; other work takes both threads."""

    def reach(world: World) -> Asked:
        asked = _reach(*_ALL)(world)
        if waits:
            world.submit(OTHER)
            world.submit(LAST)
        if kind == "export":
            world.export_again(asked, 512)
        else:
            world.convert(asked, "obj")
        return asked

    return reach


#: State → how it is reached.
STATES: dict[str, Callable[[World], Asked]] = {
    "cutout waits": _cutout_waits,
    "cutout waits for a decoder": _cutout_waits_for_decoder,
    "cutout waits for a model": _model_loads,
    "cutout waits for a picture": _picture_is_made,
    "mesh: cutout waits for a picture": _picture_of_a_mesh_is_made,
    "cutout runs": _reach(),
    "shape waits": _shape_waits,
    "shape waits for the engine": _engine_is_gone,
    "shape runs": _reach(CUTOUT),
    "shape_export waits": _shape_export_waits(texture=False),
    "shape_export runs": _reach(CUTOUT, SHAPE, texture=False),
    "shape_export waits, texture runs": _shape_export_waits(texture=True),
    "shape_export runs, texture waits": _texture_waits,
    "shape_export runs, texture runs": _reach(CUTOUT, SHAPE),
    "shape_export runs, texture made": _reach(CUTOUT, SHAPE, TEXTURE),
    "shape_export runs, texture failed": _texture_failed,
    "texture waits": _texture_waits_alone,
    "texture runs": _reach(CUTOUT, SHAPE, SHAPE_EXPORT),
    "texture runs, shape_export failed": _shape_export_failed(),
    "texture_export waits": _texture_export_waits,
    "texture_export runs": _reach(CUTOUT, SHAPE, SHAPE_EXPORT, TEXTURE),
    "texture_export runs, shape_export failed": _shape_export_failed(TEXTURE),
    "completed without texture": _reach(CUTOUT, SHAPE, SHAPE_EXPORT, texture=False),
    "completed": _reach(*_ALL),
    "error": _ended("error"),
    "cancelled": _ended("cancelled"),
    "mesh: shape_export runs": _given(CUTOUT),
    "mesh: texture runs": _given(CUTOUT, "read_mesh"),
    "mesh: texture_export runs": _given(CUTOUT, "read_mesh", TEXTURE),
    "completed, export waits": _requested("export", waits=True),
    "completed, export runs": _requested("export", waits=False),
    "completed, convert waits": _requested("convert", waits=True),
    "completed, convert runs": _requested("convert", waits=False),
}
#: State → what the world is like in which it is reached, where it depends on that.
WORLDS: dict[str, dict[str, int]] = {
    "cutout waits for a decoder": {"decoders": 1},
    "shape_export waits": {"limit": 3},
    "shape_export waits, texture runs": {"limit": 3},
    "texture_export waits": {"limit": 3},
}
