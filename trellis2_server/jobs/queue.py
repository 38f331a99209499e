"""`ActiveJob`, what is held of a job that is not finished, and `JobQueue`, the tasks that wait.

What this module does not know: threads, how a step does its work.
"""

from __future__ import annotations

import bisect
import itertools
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Iterator

    from trellis2_server.inputs.images import Cutout
    from trellis2_server.jobs.job import Job
    from trellis2_server.jobs.progress import Step
    from trellis2_server.jobs.uploads import Upload
    from trellis2_server.pipeline import Report


@dataclass(slots=True, eq=False)
class ActiveJob:
    """What is held of a job that is not finished, or whose texture may be asked for.

    Attributes:
        uid: of the job.
        upload: the picture's.
        wants_texture: whether the texture is to be made after the shape.
        mesh: the client's mesh file, until it is read; there is no shape stage then.
        held_bytes: of the client's files that are held until they are read.
        shape_done: resolves to the job when its untextured GLB is there, or will never be.
        texture_done: likewise for the textured one; None until it is wanted.
        deadline: of the steps of the present status, seconds of the worker's clock.
        waiting_for: the step that waits to be started.
        call: does that step, on another thread.
        source: what a texture is made from, once the shape is exported.
        voxels: the field that was made of it, until the job is done.
        running: the step that is being worked on.
        is_stopped: set to unwind the running step at its next report.
        waiters: requests that await a future of the task.
        last_asked: when anybody last asked for the job.
        cutout: between the cut-out and the shape's export.
        step_began: when the running step did.
        context: of the request that first asked for the job; its steps run in it.
        step_fraction: 0 … 1 of the running step, as it last said.
        said_at: seconds after it began.
        has_used_engine: whether the engine has worked for it.
        is_counted: whether it has been told of as a job that the engine worked on.
    """

    uid: str
    upload: Upload
    wants_texture: bool
    shape_done: asyncio.Future[Job]
    deadline: float
    last_asked: float
    mesh: bytes | None = None
    held_bytes: int = 0
    texture_done: asyncio.Future[Job] | None = None
    waiting_for: Step | None = None
    call: Callable[[], Any] | None = None
    running: Step | None = None
    is_stopped: bool = False
    waiters: int = 0
    cutout: Cutout | None = None
    source: tuple[Any, Cutout] | None = None
    voxels: Any = None
    step_began: float = 0.0
    context: Context = field(default_factory=copy_context)
    step_fraction: float = 0.0
    said_at: float = 0.0
    has_used_engine: bool = False
    is_counted: bool = False


@dataclass(slots=True, eq=False)
class ExportCall:
    """Work in the pool for one who waits, beside the jobs.

    Attributes:
        call: does it, with a `report`.
        done: resolves to what the call gives.
        deadline: seconds of the worker's clock.
        is_stopped: set to unwind the call at its next report.
    """

    call: Callable[[Report], bytes | Awaitable[bytes]]
    done: asyncio.Future[bytes]
    deadline: float
    is_stopped: bool = False


class JobQueue:
    """The tasks of which a step could start, earliest deadline first, then first come."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, ActiveJob]] = []
        self._order = itertools.count()

    def __iter__(self) -> Iterator[ActiveJob]:
        return (task for _, _, task in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, task: ActiveJob) -> None:
        """Have the task wait, by its deadline."""
        bisect.insort(self._entries, (task.deadline, next(self._order), task))

    def remove(self, task: ActiveJob) -> None:
        """Have it wait no longer; nothing happens where it did not."""
        self._entries = [entry for entry in self._entries if entry[2] is not task]

    def position(self, task: ActiveJob) -> int | None:
        """How many wait before it, plus one; None: it is not here."""
        return next((at for at, known in enumerate(self, 1) if known is task), None)
