"""`ActiveJob`, the working state of a job, and `StepQueue`, the steps that wait to start.

Does not know: threads, how a step is done.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
from contextvars import Context, copy_context
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import TYPE_CHECKING, Any

from trellis2_server.jobs.steps import TEXTURE_STEPS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trellis2_server.errors import ServerError
    from trellis2_server.inputs.images import Cutout
    from trellis2_server.jobs.job import Job, Progress
    from trellis2_server.jobs.pending_models import ModelWait
    from trellis2_server.jobs.steps import Step
    from trellis2_server.jobs.uploads import Upload


@dataclass(slots=True, eq=False)
class JobStep:
    """A step of a job that waits or runs. Times are seconds of the manager's clock.

    Attributes:
        active: the job.
        name: the step.
        call: does the step, on another thread.
        deadline: orders the steps that wait.
        started_at: start of the step; None: it waits.
        fraction: completed part of the step by its latest report, 0 … 1.
        progress_after_s: time of that report, seconds after the start of the step.
    """

    active: ActiveJob
    name: Step
    call: Callable[[], Any]
    deadline: float
    started_at: float | None = None
    fraction: float = 0.0
    progress_after_s: float = 0.0

    @property
    def is_running(self) -> bool:
        """Whether the step has started."""
        return self.started_at is not None

    @property
    def reads_upload(self) -> bool:
        """Whether the step decodes what the client sent: a picture, or a mesh."""
        is_given = self.name == "shape_export" and self.active.data.shape is None
        return self.name == "cutout" or is_given


@dataclass(slots=True, eq=False)
class Intermediates:
    """What a job's steps have made for each other; references on a cluster.

    Attributes:
        cutout: from `cutout`, until the texture is made.
        shape: from `shape`; None for an uploaded mesh.
        geometry: from `shape_export`.
        field: from `texture`.
    """

    cutout: Cutout | None = None
    shape: Any = None
    geometry: Any = None
    field: Any = None


@dataclass(slots=True, eq=False)
class ActiveJob:
    """Working state of a job that is not finished, or whose texture may be requested.

    Times are seconds of the manager's clock.

    Attributes:
        uid: of the job.
        upload: key of the uploaded picture.
        wants_texture: whether a texture is requested.
        shape_done: future that resolves to the job when its untextured GLB is stored, or when
            it is certain that there will be none.
        deadline: of the steps that the untextured GLB needs.
        last_requested_at: time of the last request for the job.
        mesh: the uploaded mesh file, until it is read; then there is no shape step.
        upload_bytes: size of the client's files that are still held, bytes.
        texture_done: like `shape_done`, for the textured GLB; None until its first step is queued.
        texture_deadline: of the steps of the texture.
        texture_error: why there will be no texture, while the shape is still being exported.
        texture_progress: of the texture, while the job's status is still that of its shape.
        steps: the steps that wait or run; two at most, of which one is the texture's.
        data: results of steps that other steps need.
        is_stopped: set when the job has ended; running steps stop at their next report.
        timed_out: the steps that exceeded the time limit; they stop at their next report.
        waiters: number of requests that await one of the futures.
        context: of the request that created the job; its steps run in copies of it.
        has_used_engine: whether the engine has worked for the job.
        is_counted: whether the job has been counted as one that used the engine.
        model_wait: while its cut-out waits for a background model.
        picture_task: makes its picture, where the request has a text instead.
    """

    uid: str
    upload: Upload
    wants_texture: bool
    shape_done: asyncio.Future[Job]
    deadline: float
    last_requested_at: float
    mesh: bytes | None = None
    upload_bytes: int = 0
    texture_done: asyncio.Future[Job] | None = None
    texture_deadline: float = 0.0
    texture_error: ServerError | None = None
    texture_progress: Progress | None = None
    steps: dict[Step, JobStep] = dataclass_field(default_factory=dict["Step", JobStep])
    data: Intermediates = dataclass_field(default_factory=Intermediates)
    is_stopped: bool = False
    timed_out: set[Step] = dataclass_field(default_factory=set["Step"])
    waiters: int = 0
    context: Context = dataclass_field(default_factory=copy_context)
    has_used_engine: bool = False
    is_counted: bool = False
    model_wait: ModelWait | None = None
    picture_task: asyncio.Task[None] | None = None

    def add_step(self, name: Step, call: Callable[[], Any]) -> JobStep:
        """Add a step that waits; return it."""
        deadline = self.texture_deadline if name in TEXTURE_STEPS else self.deadline
        step = self.steps[name] = JobStep(self, name, call, deadline)
        return step

    @property
    def running(self) -> tuple[Step, ...]:
        """The steps that run."""
        return tuple(name for name, step in self.steps.items() if step.is_running)

    def waits_for(self, name: Step) -> bool:
        """Return whether that step waits to start."""
        step = self.steps.get(name)
        return step is not None and not step.is_running

    @property
    def is_waiting(self) -> bool:
        """Whether a step waits to start, and none runs."""
        return bool(self.steps) and not self.running

    @property
    def has_texture_to_come(self) -> bool:
        """Whether the texture is being made, or waits for its export."""
        return self.data.field is not None or any(name in self.steps for name in TEXTURE_STEPS)

    def release(self) -> None:
        """Drop the data that only an unfinished job needs, and the steps that wait."""
        for name, step in list(self.steps.items()):
            if not step.is_running:
                del self.steps[name]
                step.call = _do_nothing  # others may refer to the step for long; a call holds files
        if self.model_wait is not None:
            self.model_wait.cancel()
        if self.picture_task is not None:
            self.picture_task.cancel()
        self.mesh = None
        self.data = Intermediates()


def _do_nothing() -> None:
    """Stand in for the call of a step that will not start."""


def job_future() -> asyncio.Future[Job]:
    """Return a new future of the running event loop, for `shape_done` and `texture_done`."""
    return asyncio.get_running_loop().create_future()


class StepQueue:
    """The steps that could start: earliest deadline first, then first come.

    Args:
        device_steps: the steps that need the engine's device.
        on_move: called with the uid of each job whose position has changed.
    """

    def __init__(
        self, device_steps: frozenset[Step], on_move: Callable[[str], None] = lambda _: None
    ) -> None:
        self._device_steps = device_steps
        self._on_move = on_move
        self._entries: list[tuple[float, int, JobStep]] = []
        self._arrivals = itertools.count()

    def __iter__(self) -> Iterator[JobStep]:
        return (step for _, _, step in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, step: JobStep) -> None:
        """Insert a step, ordered by deadline."""
        bisect.insort(self._entries, (step.deadline, next(self._arrivals), step))

    def remove(self, *steps: JobStep) -> None:
        """Remove steps; do nothing for those that are not queued."""
        self._entries = [entry for entry in self._entries if entry[2] not in steps]
        for uid in dict.fromkeys(waiting.active.uid for waiting in self):
            self._on_move(uid)

    def position(self, step: JobStep) -> int | None:
        """Return the step's position, from 1; None: it is not queued."""
        return next((at for at, queued in enumerate(self, 1) if queued is step), None)

    def waiting_for_device(self) -> list[JobStep]:
        """Return the queued steps that need the engine's device."""
        return [step for step in self if step.name in self._device_steps]
