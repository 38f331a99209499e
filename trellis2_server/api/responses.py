"""What a route says of a job.

What this module does not know: which route it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from trellis2_server.jobs.job import Status
from trellis2_server.parameters import fields_of

if TYPE_CHECKING:
    from trellis2_server.jobs.service import JobView


class StatusReply(BaseModel):
    """Where a job is."""

    status: Literal["shape_processing", "texture_processing", "completed", "error"]
    uid: str = Field(description="The job's own name; the hash can come to mean a newer job.")
    image_hash: str | None = Field(default=None, description="MD5 of what the model sees.")
    engine: str = Field(description="`trellis2` or `preview`.")
    error: str | None = Field(default=None, description="Why; `cancelled` for a cancelled job.")
    queue_position: int | None = Field(default=None, description="1: the next to be worked on.")
    stage: str | None = Field(default=None, description="What is being done now.")
    step: int | None = Field(default=None, description="Steps of that stage that are done.")
    steps: int | None = Field(default=None, description="Of how many.")
    progress: float | None = Field(default=None, description="0 … 1 of the present status.")
    eta_seconds: float | None = Field(
        default=None, description="Until the present status ends, by this server's experience."
    )
    resolution: int | None = Field(
        default=None, description="Voxels along an edge, as really used."
    )
    warnings: list[str] | None = Field(default=None, description="What the client should know.")
    shape_ready: bool = Field(description="Whether the untextured GLB is there.")
    texture_ready: bool = Field(description="Whether the textured GLB is there.")


class JobReply(StatusReply):
    """All that is known of a job."""

    created_at: float = Field(description="When it was accepted, Unix seconds.")
    finished_at: float | None = Field(default=None, description="When it ended, Unix seconds.")
    background: str | None = Field(
        default=None, description="How the object was found: alpha, rembg, grabcut, none."
    )
    seed: int = Field(description="The one that was used.")
    parameters: dict[str, Any] = Field(description="Fields that ask for the same again.")
    files: dict[str, FileReply] = Field(
        description="Those that are there: input.png, shape.glb, textured.glb."
    )
    can_export: bool = Field(
        description="Whether `POST /jobs/{uid}/export` can make the model anew."
    )
    timings: dict[str, float] = Field(
        description="Seconds that each step took, of those that ended: cutout, shape, "
        "shape_export, texture, texture_export."
    )


class FileReply(BaseModel):
    """A file that is there."""

    bytes: int = Field(description="Its size.")
    url: str = Field(description="Where it is, relative to the server's root.")


class JobsReply(BaseModel):
    """Some of the jobs."""

    jobs: list[JobReply] = Field(description="The latest first.")
    next: str | None = Field(
        default=None, description="`before` of the next page; left out: there is none."
    )


def status_reply(view: JobView) -> StatusReply:
    """Where the job is."""
    return StatusReply(**_status(view))


def job_reply(view: JobView) -> JobReply:
    """All that is known of the job."""
    job = view.job
    return JobReply(
        **_status(view),
        created_at=job.created_unix_s,
        finished_at=job.finished_unix_s,
        background=job.background,
        seed=job.options.seed,
        parameters=fields_of(job.options),
        files={
            file.name: FileReply(bytes=file.size, url=f"jobs/{job.uid}/{file.name}")
            for file in view.files
        },
        can_export=view.can_export,
        timings=dict(job.timings),
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
        "shape_ready": job.shape_glb is not None,
        "texture_ready": job.textured_glb is not None,
    }
