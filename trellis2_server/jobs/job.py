"""`Job`: a frozen record that changes through one method, and the states it goes through.

Does not know: threads, queues, HTTP, how a job is worked on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.digests import md5

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trellis2_server.errors import ServerError
    from trellis2_server.parameters import Options
    from trellis2_server.storage.store import Artifact


@dataclass(frozen=True, slots=True)
class Caller:
    """The client of a request.

    Attributes:
        owner: owner of the jobs that the client sees: a digest of its API key; empty on a
            server without keys.
        client: identity for limits: the same digest, or an address.
    """

    owner: str = ""
    client: str = ""


#: The client on a server without keys.
ANONYMOUS: Final = Caller()


class Status(Enum):
    """State of a job."""

    #: The untextured GLB does not exist yet; the texture may be in progress already.
    SHAPE_PROCESSING = "shape_processing"
    #: The untextured GLB exists; the texture or its export runs or waits.
    TEXTURE_PROCESSING = "texture_processing"
    #: Everything requested exists. A texture may still be requested.
    COMPLETED = "completed"
    #: A step failed. An untextured GLB that exists stays.
    ERROR = "error"
    #: Cancelled by a client, at shutdown, or because no client waited any more.
    CANCELLED = "cancelled"

    @property
    def is_finished(self) -> bool:
        """Whether no step of the job runs or waits."""
        return self in _FINISHED


_FINISHED: Final = frozenset({Status.COMPLETED, Status.ERROR, Status.CANCELLED})

#: Names of a job's files.
INPUT_FILE: Final = "input.png"
SHAPE_FILE: Final = "shape.glb"
TEXTURED_FILE: Final = "textured.glb"
#: Allowed changes of the status.
TRANSITIONS: Final = {
    Status.SHAPE_PROCESSING: frozenset(
        {Status.TEXTURE_PROCESSING, Status.COMPLETED, Status.ERROR, Status.CANCELLED}
    ),
    Status.TEXTURE_PROCESSING: frozenset({Status.COMPLETED, Status.ERROR, Status.CANCELLED}),
    # ERROR: its files were lost.
    Status.COMPLETED: frozenset({Status.TEXTURE_PROCESSING, Status.ERROR}),
    Status.ERROR: frozenset[Status](),
    Status.CANCELLED: frozenset[Status](),
}


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a job's present status.

    Attributes:
        stage: stage that runs, as the engine or exporter names it.
        fraction: completed part of the status, 0 … 1.
        step: completed units of the stage; None: it has none.
        steps: all units of the stage.
    """

    stage: str
    fraction: float
    step: int | None = None
    steps: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One picture with one set of options.

    Attributes:
        uid: a UUID, version 4.
        options: parameters of the request.
        engine: name of the engine.
        created_at: seconds of the manager's clock, like `finished_at`.
        owner: the only one who sees the job.
        created_unix_s: time of `created_at`, Unix seconds.
        status: state of the job.
        image_hash: see `image_hash_of`; None until the picture is cut out.
        background: how the object was found; None until then.
        warnings: sentences for the client, in order of time.
        resolution: voxels along the cube's edge, as really used; None until the shape exists.
        progress: of the present status; None while the job waits, and when it is finished.
        shape_glb: the untextured GLB; None until it exists.
        shape_md5: MD5 of that file, by which an uploaded mesh is recognized.
        shape_error: why there will be no untextured GLB, though the texture goes on.
        textured_glb: the textured GLB; None until it exists.
        error: reason of the status `ERROR` or `CANCELLED`.
        finished_at: time of the end; None: not finished.
        timings: duration of each step that has ended, seconds.
        details: what the engine decided, by name.
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
    shape_error: ServerError | None = None
    textured_glb: Artifact | None = None
    error: ServerError | None = None
    finished_at: float | None = None
    timings: Mapping[str, float] = field(default_factory=dict[str, float])
    details: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def model(self) -> Artifact | None:
        """The textured GLB or, as long as there is none, the untextured one."""
        return self.textured_glb or self.shape_glb

    @property
    def finished_unix_s(self) -> float | None:
        """Time of the end, Unix seconds; not affected by changes of the system's clock."""
        if self.finished_at is None:
            return None
        return self.created_unix_s + self.finished_at - self.created_at

    def changed(self, now: float, **changes: Any) -> Job:
        """Return the job with these changes; a new status has no progress unless given.

        Args:
            now: seconds of the manager's clock.
            changes: attributes and their new values.

        Raises:
            ValueError: `TRANSITIONS` does not allow the change of the status.
        """
        job = replace(self, **changes)
        if job.status is self.status:
            return job
        if job.status not in TRANSITIONS[self.status]:
            raise ValueError(f"a job cannot go from {self.status.value} to {job.status.value}")
        return replace(
            job,
            progress=changes.get("progress"),
            finished_at=now if job.status.is_finished else None,
        )


def image_hash_of(picture: str, options: Options) -> str:
    """Return the image hash of a job: that of its picture, or of its picture and its mesh.

    The picture's own hash always names its own model.

    Args:
        picture: MD5 of what the model sees, 32 hex digits.
        options: of the job.
    """
    return md5(f"{picture} {options.mesh}".encode()) if options.mesh else picture
