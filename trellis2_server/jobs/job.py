"""`Job`: a frozen record that changes through one method, and the states it goes through.

What this module does not know: threads, queues, HTTP, how a job is worked on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trellis2_server.errors import ServerError
    from trellis2_server.parameters import Options
    from trellis2_server.storage.store import Artifact


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        owner: whose jobs the caller sees: a digest of the API key; empty where there are none.
        client: who has limits of its own: the same digest, or an address.
    """

    owner: str = ""
    client: str = ""


#: Of a server without keys.
ANYBODY: Final = Caller()


class Status(Enum):
    """Where a job is."""

    #: Waiting for, or in, the cut-out, the shape stage or its export.
    SHAPE_PROCESSING = "shape_processing"
    #: The untextured GLB is there; the texture waits or is being made.
    TEXTURE_PROCESSING = "texture_processing"
    #: All that was asked for is there. A texture may still be asked for.
    COMPLETED = "completed"
    #: A stage failed. An untextured GLB that was there stays.
    ERROR = "error"
    #: Given up on request, at shutdown, or because nobody waited for it any more.
    CANCELLED = "cancelled"

    @property
    def is_finished(self) -> bool:
        """Whether nothing is being done or about to be done for the job."""
        return self in _FINISHED


_FINISHED: Final = frozenset({Status.COMPLETED, Status.ERROR, Status.CANCELLED})

#: From where to where a job may go.
TRANSITIONS: Final = {
    Status.SHAPE_PROCESSING: frozenset(
        {Status.TEXTURE_PROCESSING, Status.COMPLETED, Status.ERROR, Status.CANCELLED}
    ),
    Status.TEXTURE_PROCESSING: frozenset({Status.COMPLETED, Status.ERROR, Status.CANCELLED}),
    # To an error when its files were lost.
    Status.COMPLETED: frozenset({Status.TEXTURE_PROCESSING, Status.ERROR}),
    Status.ERROR: frozenset[Status](),
    Status.CANCELLED: frozenset[Status](),
}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the job's present status has come.

    Attributes:
        stage: what is being done, in the words of whoever does it.
        fraction: 0 … 1 of the way from the status' begin to its end.
        step: how many steps of the stage are done; None where it has none.
        steps: of how many.
    """

    stage: str
    fraction: float
    step: int | None = None
    steps: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One picture with one set of options, on its way or done.

    Attributes:
        uid: a UUID, version 4.
        options: what was asked for.
        engine: name of the engine.
        created_at: seconds of the worker's clock, as is `finished_at`.
        owner: who alone sees it.
        created_unix_s: the same moment as `created_at`, for people.
        status: where it is.
        image_hash: MD5 of what the model sees; None until the picture is cut out.
        background: how the object was found; None as long.
        warnings: sentences for the client, in the order they came up.
        resolution: voxels along the cube's edge that were really used; None until then.
        progress: of the present status; None while the job waits, and at the end.
        shape_glb: the untextured GLB.
        shape_md5: of that file; a mesh is known again by it.
        textured_glb: the textured GLB.
        error: why it is where it is, when that is `ERROR` or `CANCELLED`.
        finished_at: when it became finished; None while it is not.
        timings: seconds that each step took, by its name, of those that ended.
    """

    uid: str
    options: Options
    engine: str
    created_at: float
    owner: str = ""
    created_unix_s: float = 0.0
    status: Status = Status.SHAPE_PROCESSING
    image_hash: str | None = None
    background: str | None = None
    warnings: tuple[str, ...] = ()
    resolution: int | None = None
    progress: Progress | None = None
    shape_glb: Artifact | None = None
    shape_md5: str | None = None
    textured_glb: Artifact | None = None
    error: ServerError | None = None
    finished_at: float | None = None
    timings: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def finished_unix_s(self) -> float | None:
        """When it became finished, for people; a clock that was put right does not change it."""
        if self.finished_at is None:
            return None
        return self.created_unix_s + self.finished_at - self.created_at

    def changed(self, now: float, **changes: Any) -> Job:
        """The same job, further on.

        Raises:
            ValueError: `TRANSITIONS` has no such step.
        """
        job = replace(self, **changes)
        if job.status is self.status:
            return job
        if job.status not in TRANSITIONS[self.status]:
            raise ValueError(f"a job cannot go from {self.status.value} to {job.status.value}")
        return replace(job, progress=None, finished_at=now if job.status.is_finished else None)
