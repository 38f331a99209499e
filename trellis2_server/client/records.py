"""Records of what the server replied: the state of a job, of the server, and a result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trellis2_server.client.options import FileType


@dataclass(frozen=True, slots=True)
class JobState:
    """State of a job.

    Attributes:
        uid: identifier of the job.
        status: current status; `completed` once all requested files exist.
        image_hash: MD5 of the image that the model receives; None until it is known.
        engine: `trellis2` or `preview`; empty if the server does not say.
        error: message if the status is `error`; `cancelled` for a cancelled job.
        queue_position: position in the queue, from 1; None if the job is not waiting.
        stage: current stage of the engine.
        step: completed steps of that stage.
        steps: total steps of that stage.
        progress: completed fraction of the current status, 0 to 1.
        eta_seconds: expected time until the current status ends, seconds.
        resolution: resolution that was used, voxels along an edge.
        warnings: messages for the user.
        details: what the engine decided, by name.
        shape_ready: whether the untextured model exists.
        texture_ready: whether the textured model exists.
        created_at: creation time, Unix seconds.
        finished_at: end time, Unix seconds; None for an unfinished job.
        background: how the object was cut out: `alpha`, `rembg`, `grabcut` or `none`.
        seed: seed that was used.
        parameters: options of the job, in the form of a request.
        timings: duration of each finished step, seconds, by name.
        files: size of each file that can be downloaded, bytes, by name.
    """

    uid: str
    status: Literal["shape_processing", "texture_processing", "completed", "error"]
    image_hash: str | None = None
    engine: str = ""
    error: str | None = None
    queue_position: int | None = None
    stage: str | None = None
    step: int | None = None
    steps: int | None = None
    progress: float | None = None
    eta_seconds: float | None = None
    resolution: int | None = None
    warnings: tuple[str, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict[str, str])
    shape_ready: bool = False
    texture_ready: bool = False
    created_at: float | None = None
    finished_at: float | None = None
    background: str | None = None
    seed: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    timings: Mapping[str, float] = field(default_factory=dict[str, float])
    files: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def is_finished(self) -> bool:
        """Whether this is the last state of the job."""
        return self.status in {"completed", "error"}


@dataclass(frozen=True, slots=True)
class Health:
    """State of a server.

    Attributes:
        status: `unknown` for a server without `/healthcheck`, such as a Hunyuan3D server.
        engine: `trellis2` or `preview`.
        version: version of the server; None if it does not say.
        error: reason why the server cannot process requests.
        stage: current stage of loading the model.
        progress: completed fraction of that stage, 0 to 1.
    """

    status: Literal["ok", "loading", "error", "unknown"]
    engine: str = ""
    version: str | None = None
    error: str | None = None
    stage: str | None = None
    progress: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """Models generated from a picture.

    A Hunyuan3D server provides none of the attributes from `image_hash` on.

    Attributes:
        uid: identifier of the job on the server.
        type: file type of the models.
        shape: untextured model; None if it was not requested, or could not be exported.
        textured: textured model; None if it was not requested.
        image_hash: MD5 of the image that the model received.
        seed: seed that was used.
        engine: `trellis2` or `preview`.
        background: how the object was cut out: `alpha`, `rembg`, `grabcut` or `none`.
        resolution: resolution that was used, voxels along an edge.
        warnings: messages for the user.
        details: what the engine decided, by name.
        timings: duration of the steps on the server, seconds, by name.
    """

    uid: str
    type: FileType
    shape: bytes | None
    textured: bytes | None
    image_hash: str | None = None
    seed: int | None = None
    engine: str = ""
    background: str | None = None
    resolution: int | None = None
    warnings: tuple[str, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict[str, str])
    timings: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def model(self) -> bytes:
        """The textured model if there is one, otherwise the untextured model."""
        return self.textured or self.shape or b""
