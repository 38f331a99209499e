"""The native routes: unpack, one call, pack.

What this module does not know: threads, engines, files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field

from trellis2_server import __version__
from trellis2_server.api.generation import (
    MEDIA_TYPES,
    GenerationRequest,
    as_file,
    caller_of,
    generate_model,
    model_headers,
    read_generation_request,
    service_of,
    submit,
    while_connected,
)
from trellis2_server.api.metrics import MEDIA_TYPE
from trellis2_server.api.responses import StatusReply, status_reply
from trellis2_server.api.schemas import EXAMPLE_PICTURE, ErrorReply, errors, request_body, schema
from trellis2_server.errors import InputError

if TYPE_CHECKING:
    from trellis2_server.jobs.job import Caller, Job
    from trellis2_server.jobs.service import JobService
    from trellis2_server.parameters import FileType
    from trellis2_server.settings import Settings

#: Headers of a served model, which a page of another origin may read too.
MODEL_HEADERS: Final = ("X-Image-Hash", "X-Job-Id", "X-Seed", "X-Engine", "X-Background")

router = APIRouter()


# ---- what is sent and replied --------------------------------------------------------


class HealthReply(BaseModel):
    """Whether this server serves, and with what."""

    status: Literal["ok", "loading", "error"]
    engine: str = Field(description="`trellis2` or `preview` (the embedded CPU engine).")
    version: str | None = Field(default=None, description="Of this server.")
    error: str | None = Field(default=None, description="Why nothing can be served.")
    stage: str | None = Field(default=None, description="What is being loaded.")
    progress: float | None = Field(default=None, description="0 … 1 of that.")
    idle: bool | None = Field(
        default=None, description="The model is unloaded until the next job comes."
    )
    reloading: bool | None = Field(
        default=None, description="The model is being loaded again; jobs wait for it."
    )
    load_seconds: float | None = Field(default=None, description="How long loading took.")
    notes: list[str] | None = Field(default=None, description="What the operator should know.")
    details: dict[str, object] | None = Field(
        default=None, description="The engine's own: device, memory, extensions."
    )


class WorkerReply(BaseModel):
    """How busy this server is."""

    speed: Literal[1] = 1
    queue_length: int = Field(description="Jobs running plus jobs waiting.")
    loading: bool = Field(description="Whether the engine is still loading.")


_MODEL_REPLY: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The model, a GLB unless another `type` was asked for.",
        "content": {
            media_type: {"schema": {"type": "string", "format": "binary"}}
            for media_type in MEDIA_TYPES.values()
        },
        "headers": {name: {"schema": {"type": "string"}} for name in MODEL_HEADERS},
    }
}


def _settings(request: Request) -> Settings:
    return request.app.state.settings


async def _model_reply(job: Job, glb: bytes, file_type: FileType) -> Response:
    content = await as_file(glb, file_type)
    return Response(content, media_type=MEDIA_TYPES[file_type], headers=model_headers(job))


# ---- the routes ------------------------------------------------------------------------


@router.post(
    "/generate",
    response_class=Response,
    summary="A picture in, a GLB out",
    responses={**_MODEL_REPLY, **errors(400, 401, 409, 413, 429, 500, 503, 507)},
    openapi_extra=request_body(
        schema("image", "mesh", "text", "*", required=("image",)),
        {"image": EXAMPLE_PICTURE, "seed": 42},
    ),
)
async def generate(request: Request) -> Response:
    """The untextured model, at once; its texture is made in the background.

    With `texture: true` the reply is the textured model, however long that takes. The same
    picture with the same parameters is computed once: asking again gives the same bytes.
    """
    generation = await read_generation_request(request, _settings(request))
    made = generate_model(generation, service_of(request), caller_of(request))
    job, glb = await while_connected(request, made)
    return await _model_reply(job, glb, generation.delivery.type)


@router.post(
    "/generate_texture",
    response_class=Response,
    summary="The textured GLB of a job",
    responses={**_MODEL_REPLY, **errors(400, 401, 404, 408, 409, 413, 429, 500, 503, 507)},
    openapi_extra=request_body(
        schema("image_hash", "uid", "image", "mesh", "*"),
        {"image_hash": "9e107d9d372bb6826bd81d3542a419d6"},
    ),
)
async def generate_texture(request: Request) -> Response:
    """Waits until the texture is ready, at most `worker.texture_timeout_seconds`.

    The job is named by `image_hash`, by `uid`, or by the `image` itself. A texture that was
    not wanted so far is started. With a `mesh`, that is textured after the `image`; a mesh
    that is the untextured GLB of a job gets that job's texture.
    """
    service, caller, settings = service_of(request), caller_of(request), _settings(request)
    generation = await read_generation_request(request, settings)
    if generation.body.mesh is None:
        job = await service.get_job(await _job_name(service, caller, generation), caller)
    else:
        job = await submit(generation, service, caller, texture=True)
    job = await while_connected(
        request, service.wait_for_texture(job, settings.worker.texture_timeout_seconds)
    )
    glb = await service.read_file(job.textured_glb)
    return await _model_reply(job, glb, generation.delivery.type)


async def _job_name(service: JobService, caller: Caller, generation: GenerationRequest) -> str:
    body = generation.body
    for name in ("image_hash", "uid"):
        value = body.fields.get(name)
        if value is not None:
            if not isinstance(value, str):
                raise InputError(f"{name}: must be a string")
            return value
    if body.picture is None:
        raise InputError("image_hash: missing; name the job by image_hash, uid or image")
    remove_background = generation.options.remove_background
    return await service.identify(body.picture, caller, remove_background=remove_background)


@router.get(
    "/status/{name}",
    response_model_exclude_none=True,
    summary="Where a job is",
    # With a "4XX" FastAPI does not document a 422, which is never sent.
    responses={**errors(401, 404), "4XX": {"model": ErrorReply, "description": "Not meant."}},
)
async def status(
    request: Request, name: Annotated[str, Path(description="An image hash or a uid.")]
) -> StatusReply:
    """Where a job is; it never waits.

    By its uid a job is described in the form that Hunyuan3D's clients read: `status` is
    `processing`, `texturing`, `completed` with `model_base64`, or `error` with `message`.
    """
    return status_reply(await service_of(request).get_view(name, caller_of(request)))


@router.get(
    "/healthcheck",
    response_model_exclude_none=True,
    summary="Whether this server serves",
    responses={503: {"model": HealthReply, "description": "Loading, leaving, or it failed."}},
)
async def healthcheck(request: Request, response: Response) -> HealthReply:
    """Answers at any time: 200 when models are served, 503 before that and when it failed.

    A server that is unhealthy says why, and that it restarts.
    """
    health = await service_of(request).health()
    if health.status != "ok":
        response.status_code = 503
        response.headers["Retry-After"] = "5"
    reply = HealthReply(status=health.status, engine=health.engine)
    if not request.state.is_trusted:
        return reply
    return reply.model_copy(
        update={
            "version": __version__,
            "error": health.error,
            "stage": health.stage or None,
            "progress": health.fraction if health.stage else None,
            "idle": health.is_idle or None,
            "reloading": health.is_reloading or None,
            "load_seconds": health.load_seconds,
            "notes": list(health.notes) or None,
            "details": dict(health.details),
        }
    )


@router.get("/worker_status", summary="How busy this server is", responses=errors(401))
async def worker_status(request: Request) -> WorkerReply:
    """Jobs running plus jobs waiting."""
    health = await service_of(request).health()
    return WorkerReply(queue_length=health.queue_length, loading=health.status == "loading")


@router.get(
    "/metrics",
    response_class=Response,
    summary="What Prometheus reads",
    responses={
        200: {"description": "The text format.", "content": {"text/plain": {}}},
        **errors(401),
    },
)
async def metrics(request: Request) -> Response:
    """Requests, jobs, steps, memory, since the start; how to read them: `docs/operations.md`."""
    return Response(await service_of(request).metrics(), media_type=MEDIA_TYPE)
