"""`ActiveJob`, the working state of a job, and `JobQueue`, the jobs that wait for a step.

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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trellis2_server.inputs.images import Cutout
    from trellis2_server.jobs.job import Job
    from trellis2_server.jobs.steps import Step
    from trellis2_server.jobs.uploads import Upload


@dataclass(slots=True, eq=False)
class ActiveJob:
    """Working state of a job that is not finished, or whose texture may be requested.

    Times are seconds of the manager's clock.

    Attributes:
        uid: of the job.
        upload: key of the uploaded picture.
        wants_texture: whether the texture step follows the shape.
        shape_done: future that resolves to the job when its untextured GLB is stored, or when
            it is certain that there will be none.
        deadline: of the steps of the present status.
        last_requested_at: time of the last request for the job.
        mesh: the uploaded mesh file, until it is read; then there is no shape step.
        upload_bytes: size of the client's files that are still held, bytes.
        texture_done: like `shape_done`, for the textured GLB; None until it is requested.
        waiting_for: the step that waits to start.
        call: function that does this step, called on another thread.
        running: the step that runs.
        is_stopped: set when the job has ended; the running step stops at its next report.
        waiters: number of requests that await one of the futures.
        cutout: between the cut-out and the export of the shape.
        texture_source: geometry and cut-out for the texture step, after the shape's export.
        field: material of the texture step, until the job is finished.
        step_started_at: start of the running step.
        step_fraction: completed part of the running step by its latest report, 0 … 1.
        progress_after_s: time of that report, seconds after the start of the step.
        context: of the request that created the job; its steps run in it.
        has_used_engine: whether the engine has worked for the job.
        is_counted: whether the job has been counted as one that used the engine.
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
    waiting_for: Step | None = None
    call: Callable[[], Any] | None = None
    running: Step | None = None
    is_stopped: bool = False
    waiters: int = 0
    cutout: Cutout | None = None
    texture_source: tuple[Any, Cutout] | None = None
    field: Any = None
    step_started_at: float = 0.0
    step_fraction: float = 0.0
    progress_after_s: float = 0.0
    context: Context = dataclass_field(default_factory=copy_context)
    has_used_engine: bool = False
    is_counted: bool = False

    def start(self, now: float) -> tuple[Step, Callable[[], Any]]:
        """Change the waiting step into the running one; return it and its function."""
        step, call = self.waiting_for, self.call
        if step is None or call is None:
            raise RuntimeError("a step starts that does not wait")
        self.waiting_for, self.call, self.running = None, None, step
        self.step_started_at = now
        self.step_fraction = self.progress_after_s = 0.0
        return step, call

    def release(self) -> None:
        """Drop the data that only an unfinished job needs."""
        self.waiting_for = self.call = self.mesh = None
        self.cutout = self.texture_source = self.field = None


def job_future() -> asyncio.Future[Job]:
    """Return a new future of the running event loop, for `shape_done` and `texture_done`."""
    return asyncio.get_running_loop().create_future()


class JobQueue:
    """The jobs of which a step could start: earliest deadline first, then first come.

    Args:
        device_steps: the steps that need the engine's device.
        on_move: called with the uid of each job whose position has changed.
    """

    def __init__(
        self, device_steps: frozenset[Step], on_move: Callable[[str], None] = lambda _: None
    ) -> None:
        self._device_steps = device_steps
        self._on_move = on_move
        self._entries: list[tuple[float, int, ActiveJob]] = []
        self._arrivals = itertools.count()

    def __iter__(self) -> Iterator[ActiveJob]:
        return (active for _, _, active in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, active: ActiveJob) -> None:
        """Insert a job, ordered by deadline."""
        bisect.insort(self._entries, (active.deadline, next(self._arrivals), active))

    def remove(self, active: ActiveJob) -> None:
        """Remove a job; do nothing if it is not queued."""
        self._entries = [entry for entry in self._entries if entry[2] is not active]
        for waiting in self:
            self._on_move(waiting.uid)

    def position(self, active: ActiveJob) -> int | None:
        """Return the job's position, from 1; None: it is not queued."""
        return next((at for at, queued in enumerate(self, 1) if queued is active), None)

    def waiting_for_device(self) -> list[ActiveJob]:
        """Return the queued jobs whose next step needs the engine's device."""
        return [active for active in self if active.waiting_for in self._device_steps]
