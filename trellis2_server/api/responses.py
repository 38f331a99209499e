"""Jobs and the server's health as JSON.

Does not know: routes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, Field

from trellis2_server import __version__
from trellis2_server.api.api_keys import NO_OWNER
from trellis2_server.api.schemas import ErrorReply
from trellis2_server.jobs.job import Status, public_name
from trellis2_server.parameters import fields_of

if TYPE_CHECKING:
    from trellis2_server.api.links import LinkSigner
    from trellis2_server.inputs.background import FetchState
    from trellis2_server.jobs.job import Job
    from trellis2_server.jobs.service import Health, JobView

#: Names of a model's pictures, which are drawn when they are requested.
THUMBNAIL_FILE: Final = "thumbnail.png"
TURNTABLE_FILE: Final = "turntable.webp"
#: OpenAPI entry of routes with parameters: with it, FastAPI does not document a 422, which this
#: server never sends.
INVALID_REQUEST: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {"model": ErrorReply, "description": "Invalid request."}
}


class StatusReply(BaseModel):
    """The status of a job."""

    status: Literal["shape_processing", "texture_processing", "completed", "error"]
    uid: str = Field(description="Id of the job. An image hash can later refer to a newer job.")
    image_hash: str | None = Field(
        default=None, description="MD5 of the cut-out picture, or of it and the mesh."
    )
    engine: str = Field(description="`trellis2` or `preview`.")
    error: str | None = Field(
        default=None, description="Cause of the error; `cancelled` for a cancelled job."
    )
    queue_position: int | None = Field(
        default=None, description="Position in the queue; 1 is the next job."
    )
    stage: str | None = Field(default=None, description="Current stage.")
    step: int | None = Field(default=None, description="Finished iterations of the stage.")
    steps: int | None = Field(default=None, description="Total iterations of the stage.")
    progress: float | None = Field(
        default=None, description="Progress of the current status, 0 … 1."
    )
    eta_seconds: float | None = Field(
        default=None,
        description="Estimated time to the end of the current status, from earlier jobs; seconds.",
    )
    resolution: int | None = Field(
        default=None, description="Voxels along an edge of the volume, as used for this job."
    )
    warnings: list[str] | None = Field(default=None, description="Warnings for the client.")
    details: dict[str, str] | None = Field(
        default=None, description="What the engine decided, such as the back of a preview."
    )
    shape_ready: bool = Field(description="Whether the untextured GLB is available.")
    texture_ready: bool = Field(description="Whether the textured GLB is available.")


class JobReply(StatusReply):
    """All details of a job."""

    created_at: float = Field(description="When the job was accepted, Unix seconds.")
    finished_at: float | None = Field(default=None, description="When the job ended, Unix seconds.")
    background: str | None = Field(
        default=None, description="Background removal method: alpha, rembg, grabcut, none."
    )
    seed: int = Field(description="Seed of the job.")
    parameters: dict[str, Any] = Field(description="Request fields that reproduce the job.")
    files: dict[str, FileReply] = Field(
        description="Available files: input.png, shape.glb, textured.glb; with several pictures "
        "also each of them, input-1.png, input-2.png and so on."
    )
    thumbnail_url: str | None = Field(
        default=None,
        description="URL of a picture of the model, relative to the server's root. Absent: there "
        "is no model yet.",
    )
    turntable_url: str | None = Field(
        default=None, description="URL of an animated picture that turns around the model."
    )
    links: dict[str, str] | None = Field(
        default=None,
        description="URLs that need no API key for a time, of each file and of `events`, relative "
        "to the server's root. Only in `GET /jobs/{id}`, with API keys.",
    )
    links_expire_at: int | None = Field(
        default=None, description="When these URLs end, Unix seconds."
    )
    can_export: bool = Field(
        description="Whether `POST /jobs/{uid}/export` can export the model again."
    )
    timings: dict[str, float] = Field(
        description="Duration of each finished step, seconds: picture (of a text), cutout, shape, "
        "shape_export, texture, texture_export."
    )


class FileReply(BaseModel):
    """An available file."""

    bytes: int = Field(description="Size of the file, bytes.")
    url: str = Field(description="URL of the file, relative to the server's root.")


class JobsReply(BaseModel):
    """One page of the list of jobs."""

    jobs: list[JobReply] = Field(description="Jobs, newest first.")
    next: str | None = Field(
        default=None, description="Value of `before` for the next page; absent on the last page."
    )


class BackgroundModelReply(BaseModel):
    """How far the model is that removes backgrounds."""

    name: str
    state: Literal["checking", "fetching", "ready", "loaded", "failed"] = Field(
        description="`checking`: its files are looked at. `fetching`: one is downloaded. `ready`: "
        "they are on this machine. `loaded`: the model is in memory. `failed`: see `error`."
    )
    file: str | None = Field(default=None, description="File that is downloaded.")
    bytes: int | None = Field(default=None, description="What is downloaded of it, bytes.")
    total: int | None = Field(default=None, description="Its size, bytes. Absent: unknown.")
    error: str | None = Field(default=None, description="Why the model is not available.")


class HealthReply(BaseModel):
    """The health of the server."""

    status: Literal["ok", "loading", "error"]
    engine: str = Field(description="`trellis2` or `preview` (the preview engine, on the CPU).")
    version: str | None = Field(default=None, description="Version of the server.")
    error: str | None = Field(default=None, description="Why the server cannot generate models.")
    stage: str | None = Field(default=None, description="What is being loaded.")
    progress: float | None = Field(default=None, description="Progress of loading, 0 … 1.")
    idle: bool | None = Field(
        default=None, description="Whether the model is unloaded until the next job arrives."
    )
    reloading: bool | None = Field(
        default=None, description="Whether the model is being loaded again; jobs wait for it."
    )
    load_seconds: float | None = Field(default=None, description="Duration of loading, seconds.")
    notes: list[str] | None = Field(default=None, description="Messages for the operator.")
    details: dict[str, object] | None = Field(
        default=None, description="Details of the engine: device, memory, extensions."
    )
    background_model: BackgroundModelReply | None = Field(
        default=None,
        description="The model that removes backgrounds. Absent: nothing was done for it yet.",
    )


class WorkerReply(BaseModel):
    """The load of the server."""

    speed: Literal[1] = 1
    queue_length: int = Field(description="Jobs running plus jobs waiting.")
    loading: bool = Field(description="Whether the engine is still loading.")


def status_reply(view: JobView) -> StatusReply:
    """Return the status of a job."""
    return StatusReply(**_status(view))


def job_reply(view: JobView) -> JobReply:
    """Return all details of a job."""
    job = view.job
    return JobReply(
        **_status(view),
        created_at=job.created_unix_s,
        finished_at=job.finished_unix_s,
        background=job.background,
        seed=job.options.seed,
        parameters=fields_of(job.options),
        files={
            (name := public_name(file.name)): FileReply(
                bytes=file.size, url=f"jobs/{job.uid}/{name}"
            )
            for file in view.files
        },
        thumbnail_url=f"jobs/{job.uid}/{THUMBNAIL_FILE}" if job.model else None,
        turntable_url=f"jobs/{job.uid}/{TURNTABLE_FILE}" if job.model else None,
        can_export=view.can_export,
        timings=dict(job.timings),
    )


def linked_job_reply(view: JobView, links: LinkSigner) -> JobReply:
    """Return all details of a job and, if it has an owner, links to its files and events."""
    reply, job = job_reply(view), view.job
    if job.owner == NO_OWNER:
        return reply
    pictures = (THUMBNAIL_FILE, TURNTABLE_FILE) if job.model else ()
    paths = {name: f"jobs/{job.uid}/{name}" for name in (*reply.files, *pictures)}
    paths["events"] = f"events/{job.uid}"
    signed = {name: links.link(path, job.uid, job.owner) for name, path in paths.items()}
    return reply.model_copy(update={"links": signed, "links_expire_at": links.expires_at()})


def is_waiting(job: Job) -> bool:
    """Return whether nothing has been done for a job yet."""
    return job.progress is None and job.status is Status.SHAPE_PROCESSING


def percent_of(job: Job) -> int:
    """Return the progress of a job for protocols with one number: the shape is the first half."""
    if job.status.is_finished:
        return 100 if job.status is Status.COMPLETED else 0
    begin = 50 if job.status is Status.TEXTURE_PROCESSING else 0
    return begin + int(50 * (job.progress.fraction if job.progress else 0.0))


def job_json(view: JobView) -> dict[str, Any]:
    """Return all details of a job as `GET /jobs/{id}` replies with them."""
    return job_reply(view).model_dump(mode="json", exclude_none=True)


def health_reply(health: Health, *, is_trusted: bool) -> HealthReply:
    """Return the server's health, with details only for trusted clients."""
    if not is_trusted:
        return HealthReply(status=health.status, engine=health.engine)
    return HealthReply(
        status=health.status,
        engine=health.engine,
        version=__version__,
        error=health.error,
        stage=health.stage or None,
        progress=health.fraction if health.stage else None,
        idle=health.is_idle or None,
        reloading=health.is_reloading or None,
        load_seconds=health.load_seconds,
        notes=list(health.notes) or None,
        details=dict(health.details),
        background_model=_background_model_reply(health.background_model),
    )


def _background_model_reply(state: FetchState | None) -> BackgroundModelReply | None:
    if state is None:
        return None
    is_fetching = state.state == "fetching"
    return BackgroundModelReply(
        name=state.name,
        state=state.state,
        file=state.file_name if is_fetching else None,
        bytes=state.done_bytes if is_fetching else None,
        total=state.total_bytes if is_fetching else None,
        error=state.error,
    )


def _status(view: JobView) -> dict[str, Any]:
    job, eta_s, progress = view.job, view.eta_s, view.job.progress
    return {
        "status": "error" if job.status is Status.CANCELLED else job.status.value,
        "uid": job.uid,
        "image_hash": job.image_hash,
        "engine": job.engine,
        "error": str(job.error) if job.error else None,
        "queue_position": view.queue_position,
        "stage": progress.stage if progress else None,
        "step": progress.step if progress else None,
        "steps": progress.steps if progress else None,
        "progress": progress.fraction if progress else None,
        "eta_seconds": None if eta_s is None else round(eta_s, 1),
        "resolution": job.resolution,
        "warnings": list(job.warnings) or None,
        "details": dict(job.details) or None,
        "shape_ready": job.shape_glb is not None,
        "texture_ready": job.textured_glb is not None,
    }
